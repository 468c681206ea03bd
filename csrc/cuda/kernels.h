// What the kernels of one dtype offer, filled by the file of that name through kernels.cuh.
#pragma once

#include <cuda_runtime.h>

#include "cuda/plan.h"
#include "recurrence.h"

namespace rnnfused {
namespace cuda {

struct CudaKernels {
  // The layout of such a call on the current device; blocks is 0 where none is worth it.
  Plan (*plan)(const Device& device, int64_t hidden_size, int64_t batch_size);
  // Bytes of global memory that a call needs.
  int64_t (*workspace_bytes)(const Plan& plan, int64_t batch_size);
  void (*forward)(const Forward& call, const Plan& plan, void* workspace, cudaStream_t stream);
  void (*backward)(const Backward& call, const Plan& plan, void* workspace, cudaStream_t stream);
};

extern const CudaKernels kFloat32Kernels, kFloat64Kernels, kBfloat16Kernels, kFloat16Kernels;

}  // namespace cuda
}  // namespace rnnfused
