// Launches of the CUDA kernels. All pointers of a call are device pointers; no torch, no synchronisation.
#pragma once

#include <cuda_runtime.h>

#include <vector>

#include "cuda/plan.h"
#include "params.h"

namespace rnnfused {
namespace cuda {

// The layout for this call on the current device; blocks is 0 where a matrix product a step is the better way:
// the weight does not fit, or the teams that hold it don't run the whole batch at once.
Plan plan_for(const RecurrenceParams& params);

// Bytes of device memory that such a call needs for itself.
int64_t workspace_bytes(const RecurrenceParams& params, const Plan& plan);

// Run the whole loop on the current device with that plan. Throw std::runtime_error if CUDA does.
void launch(const ForwardParams& params, const Plan& plan, void* workspace, cudaStream_t stream);
void launch(const BackwardParams& params, const Plan& plan, void* workspace, cudaStream_t stream);

// Writes the values into device memory. They travel in the launches themselves, so that a captured graph
// has them too when the vector is gone.
void write_values(int64_t* to, const std::vector<int64_t>& values, cudaStream_t stream);

}  // namespace cuda
}  // namespace rnnfused
