// Launches the CUDA kernels. All pointers of the parameters are device pointers. No torch, no synchronisation.
#pragma once

#include <cuda_runtime.h>

#include <string>
#include <vector>

#include "cuda/plan.h"
#include "params.h"

namespace rnnfused {
namespace cuda {

// The layout of a call on the current device; blocks is 0 where a matrix product per step is surely faster, the weight
// does not fit, or the teams that hold it do not run the whole batch at once. RNNFUSED_CUDA_PLAN forces a plan; throws
// std::runtime_error if it names none or if it does not hold the call.
Plan plan_for(const RecurrenceParams& params);

// Bytes of device memory that a call needs as workspace.
int64_t workspace_bytes(const RecurrenceParams& params, const Plan& plan);

// Run the whole loop on the current device. Throw std::runtime_error on a CUDA error, or with take_alarm()'s text if an
// earlier call has raised an alarm.
void launch(const ForwardParams& params, const Plan& plan, void* workspace, cudaStream_t stream);
void launch(const BackwardParams& params, const Plan& plan, void* workspace, cudaStream_t stream);

// The time that a block waits for its team before its call is stopped, for this thread's launches and captures from now
// on; 20 seconds at first.
void set_time_limit(double seconds);

// Whether an earlier call on the current device was stopped and nobody was told; a read of host memory.
bool has_alarm();

// Why an earlier call on the current device was stopped: its plan, and where which ranks waited. Empty if none was.
// Clears the alarm, and then waits for the device, so that every block has left.
std::string take_alarm();

// Writes the values into device memory. They are arguments of the launch, so a captured graph keeps them after the
// vector is destroyed.
void write_values(int64_t* to, const std::vector<int64_t>& values, cudaStream_t stream);

}  // namespace cuda
}  // namespace rnnfused
