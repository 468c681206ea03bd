// As much of the CUDA runtime as csrc/cuda/alarms.cu calls, with two devices in host memory.
#pragma once

#include <cstdlib>

enum cudaError_t { cudaSuccess, cudaErrorInvalidDevice, cudaErrorStreamCaptureUnsupported };
enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal, cudaStreamCaptureModeRelaxed };
constexpr unsigned cudaHostAllocMapped = 1, cudaHostAllocPortable = 2;
using cudaStream_t = void*;

struct FakeCuda {
  int device = 0, allocations = 0, synchronisations = 0;
  bool captures = false;
  cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
};
inline FakeCuda fake_cuda;

inline const char* cudaGetErrorString(cudaError_t) { return "a fake error"; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaGetDevice(int* device) {
  *device = fake_cuda.device;
  return fake_cuda.device < 2 ? cudaSuccess : cudaErrorInvalidDevice;
}
inline cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  std::swap(*mode, fake_cuda.mode);
  return cudaSuccess;
}
inline cudaError_t cudaHostAlloc(void** memory, size_t bytes, unsigned flags) {
  if (fake_cuda.mode != cudaStreamCaptureModeRelaxed || flags != 3) return cudaErrorStreamCaptureUnsupported;
  ++fake_cuda.allocations;
  *memory = std::malloc(bytes);
  return cudaSuccess;
}
inline cudaError_t cudaHostGetDevicePointer(void** on_device, void* memory, unsigned) {
  *on_device = memory;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceSynchronize() {
  ++fake_cuda.synchronisations;
  return fake_cuda.captures ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
}
