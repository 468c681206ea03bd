// Arrays of a dtype on the host and on the device.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>
#include <vector>

#include "cuda/check.h"
#include "params.h"

namespace rnnfused {
namespace probe {

// Calls `use` with a value of the C++ type of a dtype.
template <class Use>
void with_type(Dtype dtype, const Use& use) {
  switch (dtype) {
    case Dtype::float32: return use(float());
    case Dtype::float64: return use(double());
    case Dtype::bfloat16: return use(__nv_bfloat16());
    case Dtype::float16: return use(__half());
  }
}

template <class Stored>
double widened(Stored value) {
  if constexpr (sizeof(Stored) == 2) {
    return static_cast<double>(static_cast<float>(value));
  } else {
    return static_cast<double>(value);
  }
}

template <class Stored>
Stored narrowed(double value) {
  if constexpr (sizeof(Stored) == 2) {
    return static_cast<Stored>(static_cast<float>(value));
  } else {
    return static_cast<Stored>(value);
  }
}

inline std::vector<double> decode(Dtype dtype, const std::vector<char>& bytes) {
  std::vector<double> values(bytes.size() / bytes_of(dtype));
  with_type(dtype, [&](auto sample) {
    for (size_t i = 0; i < values.size(); ++i) {
      std::memcpy(&sample, bytes.data() + i * sizeof sample, sizeof sample);
      values[i] = widened(sample);
    }
  });
  return values;
}

// Random values in [-limit, limit), as a dtype.
class Random {
 public:
  std::vector<char> values(Dtype dtype, int64_t count, double limit) {
    std::vector<char> bytes(count * bytes_of(dtype));
    with_type(dtype, [&](auto sample) {
      using Stored = decltype(sample);
      for (int64_t i = 0; i < count; ++i) {
        sample = narrowed<Stored>(limit * next());
        std::memcpy(bytes.data() + i * sizeof sample, &sample, sizeof sample);
      }
    });
    return bytes;
  }

 private:
  // Marsaglia's xorshift64, as a number in [-1, 1).
  double next() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return static_cast<double>(static_cast<int64_t>(state_)) * 0x1p-63;
  }

  uint64_t state_ = 0x9e3779b97f4a7c15;
};

// Device memory with a guard behind it. Every byte starts as 0xff, which is NaN in every dtype.
class DeviceArray {
 public:
  explicit DeviceArray(int64_t bytes) : bytes_(bytes) {
    RNNFUSED_CUDA_CHECK(cudaMalloc(&data_, bytes_ + kGuardBytes));
    fill();
  }
  explicit DeviceArray(const std::vector<char>& bytes) : DeviceArray(static_cast<int64_t>(bytes.size())) {
    RNNFUSED_CUDA_CHECK(cudaMemcpy(data_, bytes.data(), bytes.size(), cudaMemcpyHostToDevice));
  }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  ~DeviceArray() { (void)cudaFree(data_); }

  void fill() { RNNFUSED_CUDA_CHECK(cudaMemset(data_, 0xff, bytes_ + kGuardBytes)); }
  void* data() const { return data_; }

  std::vector<char> download() const {
    std::vector<char> bytes(bytes_);
    RNNFUSED_CUDA_CHECK(cudaMemcpy(bytes.data(), data_, bytes.size(), cudaMemcpyDeviceToHost));
    return bytes;
  }

  // Whether something was written behind the array.
  bool is_overrun() const {
    std::vector<char> guard(kGuardBytes);
    RNNFUSED_CUDA_CHECK(
        cudaMemcpy(guard.data(), static_cast<char*>(data_) + bytes_, guard.size(), cudaMemcpyDeviceToHost));
    for (const char byte : guard) {
      if (byte != static_cast<char>(0xff)) return true;
    }
    return false;
  }

 private:
  static constexpr int64_t kGuardBytes = 4096;
  void* data_ = nullptr;
  int64_t bytes_;
};

}  // namespace probe
}  // namespace rnnfused
