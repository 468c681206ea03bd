#include "cuda/launch.h"

#include <stdexcept>
#include <string>

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

template <class T, int kDepth, bool kCluster, class Step>
__global__ void __launch_bounds__(kMaxThreads, 1) scan_kernel(const __grid_constant__ Step step,
                                                              const __grid_constant__ Plan plan) {
  extern __shared__ __align__(16) char memory[];
  __shared__ uint64_t barriers[2];
  using Team = DeviceTeam<T, kDepth, kCluster>;
  Team team(plan, reinterpret_cast<T*>(memory), barriers);
  const int64_t tile = blockIdx.x / plan.cluster;
  Scan<T, kDepth, Step, Team>{step, plan, team, tile * plan.batch_tile}.run();
}

template <class T, int kDepth, bool kCluster, class Step>
void launch_kernel(const Step& step, const Plan& plan, cudaStream_t stream) {
  auto kernel = scan_kernel<T, kDepth, kCluster, Step>;
  const int64_t bytes = shared_bytes<T>(plan);
  RNNFUSED_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                           static_cast<int>(bytes)));
  const int64_t tiles = (step.call.batch_size + plan.batch_tile - 1) / plan.batch_tile;
  cudaLaunchAttribute cluster;
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = plan.cluster;
  cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(tiles * plan.cluster));
  config.blockDim = dim3(plan.threads());
  config.dynamicSmemBytes = bytes;
  config.stream = stream;
  config.attrs = &cluster;
  config.numAttrs = kCluster ? 1 : 0;
  RNNFUSED_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, step, plan));
}

template <class T, int kDepth, class Step>
void launch_depth(const Step& step, const Plan& plan, cudaStream_t stream) {
  if constexpr (kDepth <= max_depth<T>()) {
    if (plan.cluster > 1) {
      launch_kernel<T, kDepth, true>(step, plan, stream);
    } else {
      launch_kernel<T, kDepth, false>(step, plan, stream);
    }
  }
}

template <class T, class Step>
void launch_step(const Step& step, const Plan& plan, cudaStream_t stream) {
  if (step.call.batch_size == 0) return;
  switch (plan.depth) {
    case 8: return launch_depth<T, 8>(step, plan, stream);
    case 16: return launch_depth<T, 16>(step, plan, stream);
    case 32: return launch_depth<T, 32>(step, plan, stream);
    case 40: return launch_depth<T, 40>(step, plan, stream);
  }
  throw std::logic_error("rnnfused: a plan must have one of kDepths");
}

}  // namespace

Plan plan_for(const Recurrence& call) {
  int device, major, multiprocessors, shared;
  RNNFUSED_CUDA_CHECK(cudaGetDevice(&device));
  const auto attribute = [&](int* value, cudaDeviceAttr which) {
    RNNFUSED_CUDA_CHECK(cudaDeviceGetAttribute(value, which, device));
  };
  attribute(&major, cudaDevAttrComputeCapabilityMajor);
  attribute(&multiprocessors, cudaDevAttrMultiProcessorCount);
  attribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin);
  const int cluster = major >= 9 ? kMaxCluster : 1;
  shared -= 1024;  // what the runtime and the barriers take
  return call.dtype == Dtype::float32
             ? make_plan<float>(call.hidden_size, call.batch_size, cluster, multiprocessors, shared)
             : make_plan<double>(call.hidden_size, call.batch_size, cluster, multiprocessors, shared);
}

void launch(const Forward& call, const Plan& plan, cudaStream_t stream) {
  if (call.dtype == Dtype::float32) return launch_step<float>(ForwardStep<float>{call}, plan, stream);
  launch_step<double>(ForwardStep<double>{call}, plan, stream);
}

void launch(const Backward& call, const Plan& plan, cudaStream_t stream) {
  if (call.dtype == Dtype::float32) return launch_step<float>(BackwardStep<float>{call}, plan, stream);
  launch_step<double>(BackwardStep<double>{call}, plan, stream);
}

}  // namespace cuda
}  // namespace rnnfused
