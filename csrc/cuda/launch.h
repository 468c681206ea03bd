// Launches of the CUDA kernels. All pointers of a call are device pointers; no torch, no synchronisation.
#pragma once

#include <cuda_runtime.h>

#include "cuda/plan.h"
#include "recurrence.h"

namespace rnnfused {
namespace cuda {

// The layout for this call on the current device; cluster is 0 where the weight does not fit, or the device
// has no room for such a cluster.
Plan plan_for(const Recurrence& call);

// Run the whole loop on the current device with that plan. Throw std::runtime_error if CUDA does.
void launch(const Forward& call, const Plan& plan, cudaStream_t stream);
void launch(const Backward& call, const Plan& plan, cudaStream_t stream);

}  // namespace cuda
}  // namespace rnnfused
