// What a GPU offers the kernels, as lines of JSON: its properties, and how many clusters of each size run at once.
// It includes none of the kernels, so it compiles in seconds and also says something where they do not build.
#include <cuda_runtime.h>

#include <cstdint>
#include <cstdio>
#include <exception>
#include <string>

#include "cuda/check.h"
#include "json.h"

using rnnfused::probe::Row;

namespace {

constexpr int kNoGpu = 2;

// Uses nothing but the resources that its launch asks for.
__global__ void __launch_bounds__(384, 1) smallest_kernel(int* to) {
  extern __shared__ int memory[];
  if (threadIdx.x == 0) memory[0] = static_cast<int>(blockIdx.x);
  __syncthreads();
  if (to && threadIdx.x == 0) to[blockIdx.x] = memory[0] + 1;
}

int attribute(cudaDeviceAttr name, int device) {
  int value = 0;
  RNNFUSED_CUDA_CHECK(cudaDeviceGetAttribute(&value, name, device));
  return value;
}

void print_device(int device) {
  cudaDeviceProp properties;
  int driver = 0, runtime = 0;
  RNNFUSED_CUDA_CHECK(cudaGetDeviceProperties(&properties, device));
  RNNFUSED_CUDA_CHECK(cudaDriverGetVersion(&driver));
  RNNFUSED_CUDA_CHECK(cudaRuntimeGetVersion(&runtime));
  Row row;
  row.put("device", device).put("name", properties.name);
  row.put("capability", std::to_string(properties.major) + "." + std::to_string(properties.minor));
  row.put("multiprocessors", properties.multiProcessorCount).put("driver", driver).put("runtime", runtime);
  row.put("memory_bytes", static_cast<int64_t>(properties.totalGlobalMem));
  row.put("l2_bytes", properties.l2CacheSize);
  row.put("shared_bytes_per_block", attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  row.put("clusters", attribute(cudaDevAttrClusterLaunch, device));
  row.put("cooperative", attribute(cudaDevAttrCooperativeLaunch, device)).print();
}

void print_active_clusters(int device) {
  const int most = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device) - 1024;
  RNNFUSED_CUDA_CHECK(cudaFuncSetAttribute(smallest_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most));
  RNNFUSED_CUDA_CHECK(cudaFuncSetAttribute(smallest_kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
  for (int blocks = 1; blocks <= 16; blocks *= 2) {
    for (const int bytes : {most / 8, most / 2 + 1024, most}) {
      cudaLaunchAttribute cluster = {};
      cluster.id = cudaLaunchAttributeClusterDimension;
      cluster.val.clusterDim.x = blocks;
      cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
      cudaLaunchConfig_t config = {};
      config.gridDim = dim3(blocks);
      config.blockDim = dim3(256);
      config.dynamicSmemBytes = bytes;
      config.attrs = &cluster;
      config.numAttrs = 1;
      int count = 0;
      const cudaError_t error = cudaOccupancyMaxActiveClusters(&count, smallest_kernel, &config);
      Row row;
      row.put("cluster_blocks", blocks).put("shared_bytes", bytes).put("threads", 256).put("active_clusters", count);
      if (error != cudaSuccess) row.put("message", cudaGetErrorString(error));
      (void)cudaGetLastError();
      row.print();
    }
  }
}

void print_first_launch() {
  constexpr int kBlocks = 4;
  int *device = nullptr, host[kBlocks] = {};
  RNNFUSED_CUDA_CHECK(cudaMalloc(&device, sizeof host));
  smallest_kernel<<<kBlocks, 256, 1024>>>(device);
  RNNFUSED_CUDA_CHECK(cudaGetLastError());
  RNNFUSED_CUDA_CHECK(cudaMemcpy(host, device, sizeof host, cudaMemcpyDeviceToHost));
  RNNFUSED_CUDA_CHECK(cudaFree(device));
  Row().put("first_launch", host[kBlocks - 1] == kBlocks ? "ok" : "wrong").print();
}

}  // namespace

int main() {
  int devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&devices);
  if (error != cudaSuccess || devices == 0) {
    std::fprintf(stderr, "preflight: no NVIDIA GPU: %s\n", cudaGetErrorString(error));
    return kNoGpu;
  }
  try {
    for (int device = 0; device < devices; ++device) print_device(device);
    print_first_launch();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "preflight: %s\n", error.what());
    return 1;
  }
  try {
    print_active_clusters(0);
  } catch (const std::exception& error) {  // the teams without clusters may run all the same
    Row().put("message", error.what()).print();
  }
  return 0;
}
