// The operations of simd.h without intrinsics: for the baseline of x86-64, and for tests with other sizes of registers.
#pragma once

#if defined(__FMA__)
#include <immintrin.h>
#endif

#include <cstdint>

#include "cpu/kernels/registers.h"
#include "cpu/kernels/tails.h"

namespace rnnfused {
namespace RNNFUSED_ISA {

#if defined(__FMA__)

// In pieces of a size that the processor has. Only tests come here: the baseline has no fused multiply-adds.
constexpr int kPiece = RNNFUSED_VECTOR_BYTES < 32 ? RNNFUSED_VECTOR_BYTES : 32;

template <class V, class Piece, class Run>
RNNFUSED_INLINE V in_pieces(V a, V b, V c, const Run& run) {
  V result;
  for (int i = 0; i < RNNFUSED_VECTOR_BYTES; i += kPiece) {
    Piece x, y, z;
    __builtin_memcpy(&x, reinterpret_cast<const char*>(&a) + i, kPiece);
    __builtin_memcpy(&y, reinterpret_cast<const char*>(&b) + i, kPiece);
    __builtin_memcpy(&z, reinterpret_cast<const char*>(&c) + i, kPiece);
    x = run(x, y, z);
    __builtin_memcpy(reinterpret_cast<char*>(&result) + i, &x, kPiece);
  }
  return result;
}

#if RNNFUSED_VECTOR_BYTES < 32
RNNFUSED_INLINE Vector<float> fma(Vector<float> a, Vector<float> b, Vector<float> c) {
  return in_pieces<Vector<float>, __m128>(a, b, c, [](auto x, auto y, auto z) { return _mm_fmadd_ps(x, y, z); });
}
RNNFUSED_INLINE Vector<double> fma(Vector<double> a, Vector<double> b, Vector<double> c) {
  return in_pieces<Vector<double>, __m128d>(a, b, c, [](auto x, auto y, auto z) { return _mm_fmadd_pd(x, y, z); });
}
#else
RNNFUSED_INLINE Vector<float> fma(Vector<float> a, Vector<float> b, Vector<float> c) {
  return in_pieces<Vector<float>, __m256>(a, b, c, [](auto x, auto y, auto z) { return _mm256_fmadd_ps(x, y, z); });
}
RNNFUSED_INLINE Vector<double> fma(Vector<double> a, Vector<double> b, Vector<double> c) {
  return in_pieces<Vector<double>, __m256d>(a, b, c, [](auto x, auto y, auto z) { return _mm256_fmadd_pd(x, y, z); });
}
#endif

#else

RNNFUSED_INLINE Vector<float> fma(Vector<float> a, Vector<float> b, Vector<float> c) { return a * b + c; }
RNNFUSED_INLINE Vector<double> fma(Vector<double> a, Vector<double> b, Vector<double> c) { return a * b + c; }

#define RNNFUSED_NO_FMA

// In float64, where a product of two float32 is exact.
RNNFUSED_INLINE Vector<float> fused(Vector<float> a, Vector<float> b, Vector<float> c) {
  typedef double Wide __attribute__((vector_size(2 * RNNFUSED_VECTOR_BYTES)));
  const Wide product = __builtin_convertvector(a, Wide) * __builtin_convertvector(b, Wide);
  return __builtin_convertvector(product + __builtin_convertvector(c, Wide), Vector<float>);
}

// With the rest of the rounded product, by halves of the factors, whose products are exact (Dekker 1971). For |a| and
// |b| below 2^990.
RNNFUSED_INLINE Vector<double> fused(Vector<double> a, Vector<double> b, Vector<double> c) {
  using V = Vector<double>;
  const auto upper = [](V v) __attribute__((always_inline)) {
    const V shifted = v * 134217729.0;  // 2^27 + 1
    return shifted - (shifted - v);
  };
  const V a_upper = upper(a), b_upper = upper(b), a_lower = a - a_upper, b_lower = b - b_upper;
  const V product = a * b;
  const V rest = ((a_upper * b_upper - product) + a_upper * b_lower + a_lower * b_upper) + a_lower * b_lower;
  return (product + c) + rest;
}

#endif

RNNFUSED_INLINE Vector<float> at_most(Vector<float> x, float limit) { return limit < x ? splat(limit) : x; }
RNNFUSED_INLINE Vector<double> at_most(Vector<double> x, double limit) { return limit < x ? splat(limit) : x; }
RNNFUSED_INLINE Vector<float> at_least(Vector<float> x, float limit) { return limit > x ? splat(limit) : x; }

RNNFUSED_INLINE Vector<float> lookup(const float (&row)[16], Bits<float> index) {
  Vector<float> v;
  for (int i = 0; i < kLanes<float>; ++i) v[i] = row[index[i] % 8];
  return v;
}

}  // namespace RNNFUSED_ISA
}  // namespace rnnfused
