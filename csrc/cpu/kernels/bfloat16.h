// bfloat16 in memory, float32 in registers.
#pragma once

#include "cpu/kernels/halves.h"
#include "cpu/kernels/simd.h"

namespace rnnfused {
namespace RNNFUSED_ISA {

// The upper half of a float32.
struct Bfloat16 {
  uint16_t bits;
};

RNNFUSED_INLINE Vector<float> from_upper_halves(Halves halves) {
  return (Vector<float>)(__builtin_convertvector(halves, Words) << 16);
}
RNNFUSED_INLINE Halves upper_halves(Vector<float> v) { return __builtin_convertvector((Words)v >> 16, Halves); }

template <>
RNNFUSED_INLINE Vector<float> rounded<Bfloat16>(Vector<float> v) {
  const Words bits = (Words)v;
  const Words nearest = bits + 0x7fff + (bits >> 16 & 1);
  return (Vector<float>)((v == v ? nearest : bits | 0x400000) & 0xffff0000);
}

template <>
RNNFUSED_INLINE Vector<float> load(const Bfloat16* from) {
  return from_upper_halves(load_halves(from));
}
template <>
RNNFUSED_INLINE void store(Bfloat16* to, Vector<float> v) {
  store_halves(to, upper_halves(v));
}
RNNFUSED_INLINE Vector<float> load_first(const Bfloat16* from, int64_t n) {
  return from_upper_halves(load_first_halves(from, n));
}
RNNFUSED_INLINE void store_first(Bfloat16* to, Vector<float> v, int64_t n) {
  store_first_halves(to, upper_halves(v), n);
}

}  // namespace RNNFUSED_ISA
}  // namespace rnnfused
