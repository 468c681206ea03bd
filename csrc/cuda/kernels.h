// The kernels of one dtype: a table of functions, filled by the .cu file of that name through kernels.cuh.
#pragma once

#include <cuda_runtime.h>

#include "cuda/forced_plan.h"
#include "cuda/plan.h"
#include "cuda/watchdog.h"
#include "params.h"

namespace rnnfused {
namespace cuda {

struct CudaKernels {
  // The layout of a call on the current device; blocks is 0 where the kernels would surely be slower. A forced plan that
  // does not hold the call is a std::runtime_error.
  Plan (*plan)(const Device& device, const ForcedPlan& forced, int64_t hidden_size, int64_t batch_size);
  // Bytes of workspace in global memory.
  int64_t (*workspace_bytes)(const Plan& plan, int64_t batch_size);
  void (*forward)(const ForwardParams& params, const Plan& plan, void* workspace, const Watchdog& watchdog,
                  cudaStream_t stream);
  void (*backward)(const BackwardParams& params, const Plan& plan, void* workspace, const Watchdog& watchdog,
                   cudaStream_t stream);
};

// The shared memory that a block of the current device may use, less a kilobyte for the runtime and the barriers.
inline cudaError_t most_shared_bytes(int64_t& bytes) {
  int index, most = 0;
  cudaError_t error = cudaGetDevice(&index);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, index);
  }
  bytes = most - 1024;
  return error;
}

extern const CudaKernels kFloat32Kernels, kFloat64Kernels, kBfloat16Kernels, kFloat16Kernels;

}  // namespace cuda
}  // namespace rnnfused
