// The kernels of one dtype and their launches. float32.cu and its siblings each make a table of them.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <stdexcept>

#include "cuda/check.h"
#include "cuda/cluster_team.cuh"
#include "cuda/fma_product.cuh"
#include "cuda/grid_team.cuh"
#include "cuda/kernels.h"
#include "cuda/mma_product.cuh"
#include "cuda/planner.h"
#include "cuda/scan.cuh"
#include "cuda/steps.cuh"
#include "cuda/team.cuh"

namespace rnnfused {
namespace cuda {
namespace {

// The codes with clusters, as ptxVersion of their attributes: from 90 to below 120. Consumer GPUs (120) have none.
constexpr int kOldestClusters = 90, kNewestClusters = 119;

template <class Product, Exchange kExchange, Send kSend>
struct TeamOf {
  using Type = BlockTeam<Product>;
};
template <class Product, Send kSend>
struct TeamOf<Product, Exchange::grid, kSend> {
  using Type = GridTeam<Product>;
};
#if RNNFUSED_HAS_CLUSTERS
template <class Product, Send kSend>
struct TeamOf<Product, Exchange::cluster, kSend> {
  using Type = ClusterTeam<Product, kSend>;
};
#endif

template <class Product, int kDepth, Exchange kExchange, Send kSend, class Step>
__global__ void __launch_bounds__(Product::max_threads(kDepth), 1)
    scan_kernel(const __grid_constant__ Step step, const __grid_constant__ Plan plan, char* workspace,
                const __grid_constant__ Watchdog watchdog) {
#if RNNFUSED_HAS_CLUSTERS
  constexpr bool kExists = true;
#else
  constexpr bool kExists = kExchange != Exchange::cluster;
#endif
  if constexpr (kExists) {
    extern __shared__ __align__(16) char memory[];
    __shared__ uint64_t barriers[2];
    using Own = typename Product::template Of<kDepth>;
    using Team = typename TeamOf<Own, kExchange, kSend>::Type;
    const int64_t tile = blockIdx.x / plan.blocks;
    const Surroundings around = {plan,   watchdog, tile,
                                 memory, barriers, workspace + tile * global_bytes<Product>(plan)};
    Team team(around);
    Scan<Own, Step, Team>{step, plan, team, tile * plan.batch_tile}.run();
  }
}

template <class Step>
using Kernel = void (*)(Step, Plan, char*, Watchdog);

template <class Product, int kDepth, class Step>
Kernel<Step> kernel_of_depth(const Plan& plan) {
  if constexpr (Product::max_threads(kDepth) > 0) {
    switch (plan.exchange) {
      case Exchange::none: return scan_kernel<Product, kDepth, Exchange::none, Send::words, Step>;
      case Exchange::grid: return scan_kernel<Product, kDepth, Exchange::grid, Send::words, Step>;
      case Exchange::cluster: break;
    }
    if (plan.send == Send::words) return scan_kernel<Product, kDepth, Exchange::cluster, Send::words, Step>;
    return scan_kernel<Product, kDepth, Exchange::cluster, Send::wide, Step>;
  }
  throw std::logic_error("rnnfused: a plan must have a depth that its threads can hold");
}

// The kernel of a plan, whose depth is the product's n-th or a later one.
template <class Product, class Step, int n = 0>
Kernel<Step> kernel_of(const Plan& plan) {
  if constexpr (n < int(sizeof Product::kDepths / sizeof *Product::kDepths)) {
    constexpr int kDepth = Product::kDepths[n];
    if (plan.depth == kDepth) return kernel_of_depth<Product, kDepth, Step>(plan);
    return kernel_of<Product, Step, n + 1>(plan);
  } else {
    throw std::logic_error("rnnfused: a plan must have one of its product's depths");
  }
}

// The configuration of a launch; `attribute` must outlive it.
template <class Product>
cudaLaunchConfig_t configuration(const Plan& plan, int64_t tiles, cudaLaunchAttribute& attribute) {
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(tiles * plan.blocks));
  config.blockDim = dim3(plan.threads);
  config.dynamicSmemBytes = shared_bytes<Product>(plan);
  config.attrs = &attribute;
  if (plan.exchange == Exchange::cluster) {
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = plan.blocks;
    attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
    config.numAttrs = 1;
  } else if (plan.exchange == Exchange::grid) {
    attribute.id = cudaLaunchAttributeCooperative;
    attribute.val.cooperative = 1;
    config.numAttrs = 1;
  }
  return config;
}

// Always allows all shared memory of the device: with a limit per call, one thread could lower another's between its
// setting and its launch.
template <class Step>
cudaError_t allow(Kernel<Step> kernel, const Plan& plan) {
  const void* function = reinterpret_cast<const void*>(kernel);
  int64_t bytes = 0;
  cudaError_t error = most_shared_bytes(bytes);
  if (error == cudaSuccess) {
    error = cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
  }
  if (error != cudaSuccess || plan.exchange != Exchange::cluster || plan.blocks <= kMaxPortableCluster) {
    return error;
  }
  return cudaFuncSetAttribute(function, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
}

// The number of teams of this plan that the current device runs at the same time.
template <class Product, class Step>
int64_t teams_at_once(const Device& device, const Plan& plan) {
  const Kernel<Step> kernel = kernel_of<Product, Step>(plan);
  const auto fails = [](cudaError_t error) {
    if (error != cudaSuccess) (void)cudaGetLastError();
    return error != cudaSuccess;
  };
  if (fails(allow(kernel, plan))) return 0;
  int count = 0;
  if (plan.exchange == Exchange::cluster) {
    // The version of the code, not of the device: a newer device may run code for an older one.
    cudaFuncAttributes attributes;
    if (fails(cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(kernel))) ||
        attributes.ptxVersion < kOldestClusters || attributes.ptxVersion > kNewestClusters) {
      return 0;
    }
    cudaLaunchAttribute attribute;
    const cudaLaunchConfig_t config = configuration<Product>(plan, 1, attribute);
    return fails(cudaOccupancyMaxActiveClusters(&count, kernel, &config)) ? 0 : count;
  }
  if (fails(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&count, kernel, plan.threads, shared_bytes<Product>(plan)))) {
    return 0;
  }
  return int64_t(count) * device.multiprocessors / plan.blocks;
}

template <class Stored, class Product>
Plan plan_on(const Device& device, const ForcedPlan& forced, int64_t hidden_size, int64_t batch_size) {
  const auto teams_of = [&](const Plan& plan) {
    const int64_t forward = teams_at_once<Product, ForwardStep<Stored>>(device, plan);
    const int64_t backward = teams_at_once<Product, BackwardStep<Stored>>(device, plan);
    return forward < backward ? forward : backward;
  };
  return forced.blocks > 0 ? force_plan<Product>(forced, device, hidden_size, batch_size, teams_of)
                           : choose_plan<Product>(device, hidden_size, batch_size, teams_of);
}

inline int64_t tiles_of(const Plan& plan, int64_t batch_size) {
  return (batch_size + plan.batch_tile - 1) / plan.batch_tile;
}

template <class Product>
int64_t workspace_bytes(const Plan& plan, int64_t batch_size) {
  if (plan.exchange != Exchange::grid) return 0;
  return tiles_of(plan, batch_size) * global_bytes<Product>(plan);
}

// Expects a plan of plan_on for the current device, which has allowed the kernel its memory and cluster.
template <class Product, class Step, class Params>
void launch(const Params& params, const Plan& plan, void* workspace, const Watchdog& watchdog, cudaStream_t stream) {
  if (params.batch_size == 0) return;
  const Kernel<Step> kernel = kernel_of<Product, Step>(plan);
  if (plan.exchange == Exchange::grid) {
    const int64_t bytes = workspace_bytes<Product>(plan, params.batch_size);
    RNNFUSED_CUDA_CHECK(cudaMemsetAsync(workspace, 0, bytes, stream));
  }
  cudaLaunchAttribute attribute;
  cudaLaunchConfig_t config = configuration<Product>(plan, tiles_of(plan, params.batch_size), attribute);
  config.stream = stream;
  RNNFUSED_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, make_step<Product, typename Step::Stored>(params), plan,
                                         static_cast<char*>(workspace), watchdog));
}

template <class Stored, class Product>
constexpr CudaKernels make_kernels() {
  return {plan_on<Stored, Product>, workspace_bytes<Product>, launch<Product, ForwardStep<Stored>, ForwardParams>,
          launch<Product, BackwardStep<Stored>, BackwardParams>};
}

}  // namespace
}  // namespace cuda
}  // namespace rnnfused
