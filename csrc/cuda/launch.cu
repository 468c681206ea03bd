#include "cuda/launch.h"

#include <stdexcept>

#include "cuda/kernels.h"

namespace rnnfused {
namespace cuda {
namespace {

const CudaKernels& kernels_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::float32: return kFloat32Kernels;
    case Dtype::float64: return kFloat64Kernels;
    case Dtype::bfloat16: return kBfloat16Kernels;
    case Dtype::float16: return kFloat16Kernels;
  }
  throw std::logic_error("rnnfused: a dtype without kernels");
}

}  // namespace

Plan plan_for(const Recurrence& call) {
  int index, multiprocessors, shared;
  // Without a driver that this CUDA runtime knows, nothing fits.
  if (cudaGetDevice(&index) != cudaSuccess ||
      cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, index) != cudaSuccess ||
      cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, index) != cudaSuccess) {
    (void)cudaGetLastError();
    return Plan();
  }
  // A kilobyte for the runtime and the barriers.
  const Device device = {multiprocessors, shared - 1024};
  return kernels_of(call.dtype).plan(device, call.hidden_size, call.batch_size);
}

void launch(const Forward& call, const Plan& plan, cudaStream_t stream) {
  kernels_of(call.dtype).forward(call, plan, stream);
}

void launch(const Backward& call, const Plan& plan, cudaStream_t stream) {
  kernels_of(call.dtype).backward(call, plan, stream);
}

}  // namespace cuda
}  // namespace rnnfused
