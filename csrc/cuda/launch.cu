#include "cuda/launch.h"

#include <algorithm>
#include <cstdlib>
#include <map>
#include <mutex>
#include <stdexcept>
#include <tuple>

#include "cuda/alarms.h"
#include "cuda/check.h"
#include "cuda/kernels.h"
#include "cuda/tuning.h"

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

int attribute(int device, cudaDeviceAttr which) {
  int value = 0;
  RNNFUSED_CUDA_CHECK(cudaDeviceGetAttribute(&value, which, device));
  return value;
}

// As many values as fit the 4 kilobytes of a launch's arguments.
struct Values {
  static constexpr int kMost = 480;
  int64_t values[kMost];
};

__global__ void write_kernel(int64_t* to, const __grid_constant__ Values from, int count) {
  for (int i = threadIdx.x; i < count; i += blockDim.x) to[i] = from.values[i];
}

}  // namespace

Plan plan_for(const RecurrenceParams& params) {
  if (params.batch_size > INT32_MAX) return Plan();  // kernels count rows in 32 bits
  int index, multiprocessors;
  int64_t shared;
  // Without a driver for this CUDA runtime, no call fits.
  if (cudaGetDevice(&index) != cudaSuccess ||
      cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, index) != cudaSuccess ||
      most_shared_bytes(shared) != cudaSuccess) {
    (void)cudaGetLastError();
    return Plan();
  }
  const ForcedPlan forced = parse_plan(std::getenv("RNNFUSED_CUDA_PLAN"));
  // Queries of the driver take longer than a short call, so plans are cached.
  static std::mutex mutex;
  static std::map<std::tuple<int, Dtype, int64_t, int64_t, int, Exchange, int, bool, Send>, Plan> plans;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto key = std::make_tuple(index, params.dtype, params.hidden_size, params.batch_size, forced.blocks,
                                   forced.exchange, forced.batch_tile, forced.has_send, forced.send);
  const auto known = plans.find(key);
  if (known != plans.end()) return known->second;
  if (plans.size() >= kMaxPlans) plans.clear();  // a caller whose batches all differ
  const int kilohertz = attribute(index, cudaDevAttrClockRate);
  const Device device = {multiprocessors, shared, attribute(index, cudaDevAttrComputeCapabilityMajor),
                         attribute(index, cudaDevAttrComputeCapabilityMinor), kilohertz > 0 ? kilohertz * 1e-6 : 1.5};
  return plans[key] = kernels_of(params.dtype).plan(device, forced, params.hidden_size, params.batch_size);
}

int64_t workspace_bytes(const RecurrenceParams& params, const Plan& plan) {
  return kernels_of(params.dtype).workspace_bytes(plan, params.batch_size);
}

void launch(const ForwardParams& params, const Plan& plan, void* workspace, cudaStream_t stream) {
  kernels_of(params.dtype).forward(params, plan, workspace, next_watchdog(), stream);
}

void launch(const BackwardParams& params, const Plan& plan, void* workspace, cudaStream_t stream) {
  kernels_of(params.dtype).backward(params, plan, workspace, next_watchdog(), stream);
}

void write_values(int64_t* to, const std::vector<int64_t>& values, cudaStream_t stream) {
  for (size_t begin = 0; begin < values.size(); begin += Values::kMost) {
    const size_t end = std::min(values.size(), begin + Values::kMost);
    Values part = {};
    std::copy(values.begin() + begin, values.begin() + end, part.values);
    write_kernel<<<1, 256, 0, stream>>>(to + begin, part, static_cast<int>(end - begin));
    RNNFUSED_CUDA_CHECK(cudaGetLastError());
  }
}

}  // namespace cuda
}  // namespace rnnfused
