// CUDA's errors as exceptions.
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

#define RNNFUSED_CUDA_CHECK(call)                                                                 \
  do {                                                                                            \
    const cudaError_t error = (call);                                                             \
    if (error != cudaSuccess) {                                                                   \
      (void)cudaGetLastError(); /* or the next, innocent call would report it */                  \
      throw std::runtime_error(std::string("rnnfused: " #call ": ") + cudaGetErrorString(error)); \
    }                                                                                             \
  } while (0)
