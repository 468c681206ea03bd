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
