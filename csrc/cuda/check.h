// Turns CUDA errors into exceptions.
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

#define RNNFUSED_CUDA_CHECK(call)                                                                 \
  do {                                                                                            \
    const cudaError_t error = (call);                                                             \
    if (error != cudaSuccess) {                                                                   \
      (void)cudaGetLastError(); /* clear it, or the next call reports it */                       \
      throw std::runtime_error(std::string("rnnfused: " #call ": ") + cudaGetErrorString(error)); \
    }                                                                                             \
  } while (0)
