// Launches the CUDA kernels. All pointers of the parameters are device pointers. No torch, no synchronisation.
#pragma once

#include <cuda_runtime.h>

#include <vector>

#include "cuda/plan.h"
#include "params.h"

namespace rnnfused {
namespace cuda {

// The layout of a call on the current device; blocks is 0 where a matrix product per step is faster: the weight does
// not fit, or the teams that hold it do not run the whole batch at once. RNNFUSED_CUDA_PLAN forces a plan; throws
// std::runtime_error if it names none or if it does not hold the call.
Plan plan_for(const RecurrenceParams& params);

// Bytes of device memory that a call needs as workspace.
int64_t workspace_bytes(const RecurrenceParams& params, const Plan& plan);

// Run the whole loop on the current device. Throw std::runtime_error on a CUDA error.
void launch(const ForwardParams& params, const Plan& plan, void* workspace, cudaStream_t stream);
void launch(const BackwardParams& params, const Plan& plan, void* workspace, cudaStream_t stream);

// Writes the values into device memory. They are arguments of the launch, so a captured graph keeps them after the
// vector is destroyed.
void write_values(int64_t* to, const std::vector<int64_t>& values, cudaStream_t stream);

}  // namespace cuda
}  // namespace rnnfused
