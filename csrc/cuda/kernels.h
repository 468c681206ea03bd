// What the kernels of one dtype offer, filled by the file of that name through kernels.cuh.
#pragma once

#include <cuda_runtime.h>

#include "cuda/plan.h"
#include "recurrence.h"

namespace rnnfused {
namespace cuda {

struct Device {
  int multiprocessors;
  int64_t shared_bytes;  // that a block may ask for
};

struct CudaKernels {
  // The layout of such a call; cluster is 0 where the weight does not fit or there is no room for a cluster.
  Plan (*plan)(const Device& device, int64_t hidden_size, int64_t batch_size);
  void (*forward)(const Forward& call, const Plan& plan, cudaStream_t stream);
  void (*backward)(const Backward& call, const Plan& plan, cudaStream_t stream);
};

extern const CudaKernels kFloat32Kernels, kFloat64Kernels, kBfloat16Kernels, kFloat16Kernels;

}  // namespace cuda
}  // namespace rnnfused
