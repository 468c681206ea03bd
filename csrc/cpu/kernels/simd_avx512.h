// The operations of simd.h by AVX-512. With full masks where GCC 12 warns about the intrinsics without one.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "cpu/kernels/registers.h"

namespace rnnfused {
namespace RNNFUSED_ISA {

RNNFUSED_INLINE Vector<float> fma(Vector<float> a, Vector<float> b, Vector<float> c) {
  return (Vector<float>)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}
RNNFUSED_INLINE Vector<double> fma(Vector<double> a, Vector<double> b, Vector<double> c) {
  return (Vector<double>)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
}

RNNFUSED_INLINE Vector<float> at_most(Vector<float> x, float limit) {
  return (Vector<float>)_mm512_maskz_min_ps(0xffff, (__m512)splat(limit), (__m512)x);
}
RNNFUSED_INLINE Vector<double> at_most(Vector<double> x, double limit) {
  return (Vector<double>)_mm512_maskz_min_pd(0xff, (__m512d)splat(limit), (__m512d)x);
}
RNNFUSED_INLINE Vector<float> at_least(Vector<float> x, float limit) {
  return (Vector<float>)_mm512_maskz_max_ps(0xffff, (__m512)splat(limit), (__m512)x);
}

RNNFUSED_INLINE Vector<float> lookup(const float (&row)[16], Bits<float> index) {
  return (Vector<float>)_mm512_maskz_permutexvar_ps(0xffff, (__m512i)index, _mm512_load_ps(row));
}

RNNFUSED_INLINE Vector<float> load_first(const float* from, int64_t n) {
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), from);
}
RNNFUSED_INLINE Vector<double> load_first(const double* from, int64_t n) {
  return _mm512_maskz_loadu_pd(static_cast<__mmask8>((1u << n) - 1), from);
}
RNNFUSED_INLINE void store_first(float* to, Vector<float> v, int64_t n) {
  _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1u << n) - 1), v);
}
RNNFUSED_INLINE void store_first(double* to, Vector<double> v, int64_t n) {
  _mm512_mask_storeu_pd(to, static_cast<__mmask8>((1u << n) - 1), v);
}

}  // namespace RNNFUSED_ISA
}  // namespace rnnfused
