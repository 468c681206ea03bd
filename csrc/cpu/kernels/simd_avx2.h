// The operations of simd.h by AVX2 and FMA.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "cpu/kernels/registers.h"

namespace rnnfused {
namespace RNNFUSED_ISA {

RNNFUSED_INLINE Vector<float> fma(Vector<float> a, Vector<float> b, Vector<float> c) {
  return (Vector<float>)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}
RNNFUSED_INLINE Vector<double> fma(Vector<double> a, Vector<double> b, Vector<double> c) {
  return (Vector<double>)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
}

RNNFUSED_INLINE Vector<float> at_most(Vector<float> x, float limit) {
  return (Vector<float>)_mm256_min_ps((__m256)splat(limit), (__m256)x);
}
RNNFUSED_INLINE Vector<double> at_most(Vector<double> x, double limit) {
  return (Vector<double>)_mm256_min_pd((__m256d)splat(limit), (__m256d)x);
}
RNNFUSED_INLINE Vector<float> at_least(Vector<float> x, float limit) {
  return (Vector<float>)_mm256_max_ps((__m256)splat(limit), (__m256)x);
}

RNNFUSED_INLINE Vector<float> lookup(const float (&row)[16], Bits<float> index) {
  return (Vector<float>)_mm256_permutevar8x32_ps(_mm256_load_ps(row), (__m256i)index);
}

RNNFUSED_INLINE __m256i first_lanes(const float*, int64_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
RNNFUSED_INLINE __m256i first_lanes(const double*, int64_t n) {
  return _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3));
}
RNNFUSED_INLINE Vector<float> load_first(const float* from, int64_t n) {
  return _mm256_maskload_ps(from, first_lanes(from, n));
}
RNNFUSED_INLINE Vector<double> load_first(const double* from, int64_t n) {
  return _mm256_maskload_pd(from, first_lanes(from, n));
}
RNNFUSED_INLINE void store_first(float* to, Vector<float> v, int64_t n) {
  _mm256_maskstore_ps(to, first_lanes(to, n), v);
}
RNNFUSED_INLINE void store_first(double* to, Vector<double> v, int64_t n) {
  _mm256_maskstore_pd(to, first_lanes(to, n), v);
}

}  // namespace RNNFUSED_ISA
}  // namespace rnnfused
