// The kernels of one dtype and their launches; float32.cu and its siblings make a table of them each.
#pragma once

#include <stdexcept>
#include <string>

#include "cuda/kernels.h"
#include "cuda/scan.cuh"
#include "cuda/steps.cuh"
#include "cuda/team.cuh"

#define RNNFUSED_CUDA_CHECK(call)                                                           \
  do {                                                                                      \
    const cudaError_t error = (call);                                                       \
    if (error != cudaSuccess) {                                                             \
      (void)cudaGetLastError(); /* or the next, innocent call would report it */            \
      throw std::runtime_error(std::string("rnnfused: " #call ": ") + cudaGetErrorString(error)); \
    }                                                                                       \
  } while (0)

namespace rnnfused {
namespace cuda {
namespace {

// Whether a kernel exists before Hopper, where there are no clusters and where ptxas spills registers of the
// 16-bit types from this depth on.
template <class Step>
RNNFUSED_EVERYWHERE constexpr bool exists_before_hopper(int depth, bool cluster) {
  return !cluster && (Step::kStoredBytes > 2 || depth <= 16);
}

template <class T, int kDepth, bool kCluster, class Step>
__global__ void __launch_bounds__(kMaxThreads, 1) scan_kernel(const __grid_constant__ Step step,
                                                              const __grid_constant__ Plan plan) {
#if __CUDA_ARCH__ < 900
  constexpr bool kExists = exists_before_hopper<Step>(kDepth, kCluster);
#else
  constexpr bool kExists = true;
#endif
  if constexpr (kExists) {
    extern __shared__ __align__(16) char memory[];
    __shared__ uint64_t barriers[2];
    using Team = DeviceTeam<T, kDepth, kCluster>;
    Team team(plan, reinterpret_cast<T*>(memory), barriers);
    const int64_t tile = blockIdx.x / plan.cluster;
    Scan<T, kDepth, Step, Team>{step, plan, team, tile * plan.batch_tile}.run();
  }
}

template <class Step>
using Kernel = void (*)(Step, Plan);

template <class T, int kDepth, class Step>
Kernel<Step> kernel_of_depth(const Plan& plan) {
  if constexpr (kDepth <= max_depth<T>()) {
    return plan.cluster > 1 ? scan_kernel<T, kDepth, true, Step> : scan_kernel<T, kDepth, false, Step>;
  } else {
    return nullptr;
  }
}

// The kernel of a plan, one of kDepths and with or without a cluster.
template <class T, class Step>
Kernel<Step> kernel_of(const Plan& plan) {
  switch (plan.depth) {
    case 8: return kernel_of_depth<T, 8, Step>(plan);
    case 16: return kernel_of_depth<T, 16, Step>(plan);
    case 32: return kernel_of_depth<T, 32, Step>(plan);
    case 36: return kernel_of_depth<T, 36, Step>(plan);
  }
  throw std::logic_error("rnnfused: a plan must have one of kDepths");
}

// How a kernel is launched; `attribute` must outlive it.
template <class T>
cudaLaunchConfig_t configuration(const Plan& plan, int64_t tiles, cudaLaunchAttribute& attribute) {
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = plan.cluster;
  attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(tiles * plan.cluster));
  config.blockDim = dim3(plan.threads());
  config.dynamicSmemBytes = shared_bytes<T>(plan);
  config.attrs = &attribute;
  config.numAttrs = plan.cluster > 1 ? 1 : 0;
  return config;
}

template <class T, class Step>
cudaError_t allow(Kernel<Step> kernel, const Plan& plan) {
  const void* function = reinterpret_cast<const void*>(kernel);
  const cudaError_t error =
      cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                           static_cast<int>(shared_bytes<T>(plan)));
  if (error != cudaSuccess || plan.cluster <= kMaxPortableCluster) return error;
  return cudaFuncSetAttribute(function, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
}

// Whether the current device has this plan's kernel, and room for a cluster of it.
template <class T, class Step>
bool can_run(const Plan& plan) {
  if (plan.cluster == 0) return false;
  const Kernel<Step> kernel = kernel_of<T, Step>(plan);
  // Not the device's version: a newer device may run code that was compiled for an older one.
  cudaFuncAttributes attributes;
  if (cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(kernel)) != cudaSuccess ||
      allow<T>(kernel, plan) != cudaSuccess) {
    (void)cudaGetLastError();
    return false;
  }
  if (plan.cluster == 1) {
    return attributes.ptxVersion >= 90 || exists_before_hopper<Step>(plan.depth, false);
  }
  if (attributes.ptxVersion < 90) return false;
  cudaLaunchAttribute attribute;
  const cudaLaunchConfig_t config = configuration<T>(plan, 1, attribute);
  int clusters = 0;
  if (cudaOccupancyMaxActiveClusters(&clusters, kernel, &config) != cudaSuccess) {
    (void)cudaGetLastError();
    return false;
  }
  return clusters > 0;
}

template <class Stored>
Plan plan_on(const Device& device, int64_t hidden_size, int64_t batch_size) {
  using T = Computed<Stored>;
  for (int cluster = kMaxCluster; cluster >= 1; cluster /= 2) {
    const Plan plan = make_plan<T>(hidden_size, batch_size, cluster, device.multiprocessors,
                                   device.shared_bytes);
    if (can_run<T, ForwardStep<Stored>>(plan) && can_run<T, BackwardStep<Stored>>(plan)) {
      return plan;
    }
  }
  return Plan();
}

template <class Step, class Call>
void launch(const Call& call, const Plan& plan, cudaStream_t stream) {
  using T = typename Step::T;
  if (call.batch_size == 0) return;
  const Kernel<Step> kernel = kernel_of<T, Step>(plan);
  RNNFUSED_CUDA_CHECK(allow<T>(kernel, plan));
  cudaLaunchAttribute attribute;
  const int64_t tiles = (call.batch_size + plan.batch_tile - 1) / plan.batch_tile;
  cudaLaunchConfig_t config = configuration<T>(plan, tiles, attribute);
  config.stream = stream;
  RNNFUSED_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, Step{call}, plan));
}

template <class Stored>
constexpr CudaKernels make_kernels() {
  return {plan_on<Stored>, launch<ForwardStep<Stored>, Forward>, launch<BackwardStep<Stored>, Backward>};
}

}  // namespace
}  // namespace cuda
}  // namespace rnnfused
