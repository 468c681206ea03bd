// float16 (IEEE binary16) in memory, float32 in registers.
#pragma once

#include "cpu/kernels/halves.h"
#include "cpu/kernels/simd.h"

namespace rnnfused {
namespace RNNFUSED_ISA {

struct Float16 {
  uint16_t bits;
};

#if defined(RNNFUSED_AVX512)  // with full masks: GCC 12 warns about the intrinsics without a mask

RNNFUSED_INLINE Vector<float> float16_to_float(Halves halves) {
  return (Vector<float>)_mm512_maskz_cvtph_ps(0xffff, (__m256i)halves);
}
RNNFUSED_INLINE Halves float_to_float16(Vector<float> v) {
  return (Halves)_mm512_maskz_cvtps_ph(0xffff, (__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
template <>
RNNFUSED_INLINE Vector<float> rounded<Float16>(Vector<float> v) {
  return float16_to_float(float_to_float16(v));
}

#else

// Moves the exponent to its place in float32 and adds 112; infinities and NaN keep the largest exponent.
RNNFUSED_INLINE Vector<float> float16_to_float(Halves halves) {
  const Words bits = __builtin_convertvector(halves, Words);
  const Words magnitude = (bits & 0x7fff) << 13;
  const Words finite = (Words)((Vector<float>)magnitude * 0x1p112f);
  const Words result = magnitude < (0x7c00 << 13) ? finite : magnitude | 0x7f800000;
  return (Vector<float>)(result | (bits & 0x8000) << 16);
}

// Expects values that rounded<Float16>() returned.
RNNFUSED_INLINE Halves float_to_float16(Vector<float> v) {
  const Words bits = (Words)v, magnitude = bits & 0x7fffffff;
  const Words finite = (Words)((Vector<float>)magnitude * 0x1p-112f) >> 13;
  const Words special = magnitude == 0x7f800000 ? Words{} + 0x7c00 : Words{} + 0x7e00;
  const Words result = magnitude < 0x7f800000 ? finite : special;
  return __builtin_convertvector(result | (bits >> 16 & 0x8000), Halves);
}

template <>
RNNFUSED_INLINE Vector<float> rounded<Float16>(Vector<float> v) {
  const Words bits = (Words)v, sign = bits & 0x80000000;
  const Vector<float> magnitude = (Vector<float>)(bits ^ sign);
  const Words nearest = ((bits ^ sign) + 0xfff + (bits >> 13 & 1)) & 0xffffe000;
  // Below 2^-14 values are multiples of 2^-24, the last bit of 0.5: adding 0.5 rounds to them.
  const Words small = (Words)(magnitude + 0.5f - 0.5f);
  const Words finite = magnitude < 0x1p-14f ? small : nearest;
  const Words in_range = magnitude < 65520.0f ? finite : Words{} + 0x7f800000;
  return (Vector<float>)((v == v ? in_range : bits ^ sign) | sign);
}

#endif

template <>
RNNFUSED_INLINE Vector<float> load(const Float16* from) {
  return float16_to_float(load_halves(from));
}
template <>
RNNFUSED_INLINE void store(Float16* to, Vector<float> v) {
  store_halves(to, float_to_float16(v));
}
RNNFUSED_INLINE Vector<float> load_first(const Float16* from, int64_t n) {
  return float16_to_float(load_first_halves(from, n));
}
RNNFUSED_INLINE void store_first(Float16* to, Vector<float> v, int64_t n) {
  store_first_halves(to, float_to_float16(v), n);
}

}  // namespace RNNFUSED_ISA
}  // namespace rnnfused
