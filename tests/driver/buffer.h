// Memory of exactly the size that a call may use, random values, and the hash of results.
#pragma once

#include <cstdint>
#include <cstring>
#include <new>
#include <utility>
#include <vector>

#include "params.h"

namespace rnnfused {

// splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014): the same on every machine.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t bits() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  int64_t below(int64_t n) { return static_cast<int64_t>(bits() % static_cast<uint64_t>(n)); }
  int64_t from_to(int64_t least, int64_t most) { return least + below(most - least + 1); }
  bool chance(int percent) { return below(100) < percent; }
  // In (-1, 1), exact in float32.
  double value() { return static_cast<double>(static_cast<int64_t>(bits() >> 40) * 2 - (1 << 24) + 1) / (1 << 24); }

 private:
  uint64_t state_;
};

// FNV-1a.
class Hash {
 public:
  void add(const void* data, int64_t bytes) {
    for (int64_t i = 0; i < bytes; ++i) value_ = (value_ ^ static_cast<const uint8_t*>(data)[i]) * 0x100000001b3u;
  }
  uint64_t value() const { return value_; }

 private:
  uint64_t value_ = 0xcbf29ce484222325u;
};

// Sums of bfloat16 values, but for NaN between rows: of the magnitudes, and with signs that depend on the place.
struct Norms {
  double magnitudes = 0, sum = 0;

  void add(uint16_t half, int64_t place) {
    const uint32_t bits = uint32_t{half} << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    if (value != value) return;
    magnitudes += value < 0 ? -value : value;
    sum += Random(place).chance(50) ? value : -value;
  }
};

// Aligned as torch's tensors are; a byte beyond the end is another's, which AddressSanitizer sees.
class Buffer {
 public:
  // Of NaN in every dtype: reads before writes show in the results.
  explicit Buffer(int64_t bytes)
      : bytes_(bytes), data_(static_cast<char*>(::operator new[](bytes, std::align_val_t(kAlignment)))) {
    std::memset(data_, 0xff, bytes);
  }
  Buffer(Buffer&& other) noexcept
      : bytes_(std::exchange(other.bytes_, 0)), data_(std::exchange(other.data_, nullptr)) {}
  Buffer(const Buffer&) = delete;
  ~Buffer() { ::operator delete[](data_, std::align_val_t(kAlignment)); }

  void* data() { return data_; }
  int64_t bytes() const { return bytes_; }
  void add_to(Hash& hash) const { hash.add(data_, bytes_); }
  Norms bfloat16_norms() const {
    Norms norms;
    for (int64_t i = 0; i < bytes_ / 2; ++i) {
      uint16_t half;
      std::memcpy(&half, data_ + 2 * i, sizeof half);
      norms.add(half, i);
    }
    return norms;
  }

  void fill(Dtype dtype, Random& random, double scale) {
    for (int64_t i = 0; i < bytes_ / bytes_of(dtype); ++i) set(dtype, i, random.value() * scale);
  }

 private:
  static constexpr int64_t kAlignment = 64;

  void set(Dtype dtype, int64_t i, double value) {
    const float narrow = static_cast<float>(value);
    uint32_t bits;
    std::memcpy(&bits, &narrow, sizeof bits);
    char* const to = data_ + i * bytes_of(dtype);
    if (dtype == Dtype::float64) {
      std::memcpy(to, &value, sizeof value);
    } else if (dtype == Dtype::float32) {
      std::memcpy(to, &narrow, sizeof narrow);
    } else {
      // Cut, not rounded: any values will do.
      const uint16_t half = dtype == Dtype::bfloat16 ? bits >> 16 : float16_of(bits);
      std::memcpy(to, &half, sizeof half);
    }
  }

  // 0 below the smallest normal number.
  static uint16_t float16_of(uint32_t bits) {
    const uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    constexpr uint32_t kRebias = (127 - 15) << 10;
    return static_cast<uint16_t>(magnitude >> 13 < kRebias + (1 << 10) ? sign : sign | ((magnitude >> 13) - kRebias));
  }

  int64_t bytes_;
  char* data_;
};

// The buffers of a call; they keep their places as more are made.
class Buffers {
 public:
  void* results(int64_t bytes) {
    results_.emplace_back(bytes);
    return results_.back().data();
  }
  const void* values(Dtype dtype, int64_t count, Random& random, double scale = 1) {
    inputs_.emplace_back(count * bytes_of(dtype));
    inputs_.back().fill(dtype, random, scale);
    return inputs_.back().data();
  }
  const int64_t* integers(const std::vector<int64_t>& from) {
    inputs_.emplace_back(static_cast<int64_t>(from.size() * sizeof(int64_t)));
    if (!from.empty()) std::memcpy(inputs_.back().data(), from.data(), inputs_.back().bytes());
    return static_cast<const int64_t*>(inputs_.back().data());
  }
  uint64_t hash() const {
    Hash hash;
    for (const Buffer& result : results_) result.add_to(hash);
    return hash.value();
  }
  std::vector<Norms> bfloat16_norms() const {
    std::vector<Norms> norms;
    for (const Buffer& result : results_) norms.push_back(result.bfloat16_norms());
    return norms;
  }

 private:
  std::vector<Buffer> inputs_, results_;
};

}  // namespace rnnfused
