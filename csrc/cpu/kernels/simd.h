// One vector register of the instruction set that this file is compiled for, and rows of values in memory.
// GCC and Clang vector extensions provide arithmetic; only partial memory access needs intrinsics.
#pragma once

#include <cstdint>

#include "cpu/tuning.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define RNNFUSED_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define RNNFUSED_VECTOR_BYTES 32
#else
#define RNNFUSED_VECTOR_BYTES 16
#endif

#define RNNFUSED_INLINE inline __attribute__((always_inline))

namespace rnnfused {
namespace RNNFUSED_ISA {

RNNFUSED_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// The type of the arithmetic on T: float32 or wider.
template <class T>
struct SumOf {
  using Type = float;
};
template <>
struct SumOf<double> {
  using Type = double;
};
template <class T>
using Sum = typename SumOf<T>::Type;

template <class T>
struct Simd;

template <>
struct Simd<float> {
  typedef float Vector __attribute__((vector_size(RNNFUSED_VECTOR_BYTES)));
  typedef int32_t Integers __attribute__((vector_size(RNNFUSED_VECTOR_BYTES)));
  typedef uint32_t Bits __attribute__((vector_size(RNNFUSED_VECTOR_BYTES)));
};

template <>
struct Simd<double> {
  typedef double Vector __attribute__((vector_size(RNNFUSED_VECTOR_BYTES)));
  typedef int64_t Integers __attribute__((vector_size(RNNFUSED_VECTOR_BYTES)));
  typedef uint64_t Bits __attribute__((vector_size(RNNFUSED_VECTOR_BYTES)));
};

// A register of values of T, in the type of their arithmetic.
template <class T>
using Vector = typename Simd<Sum<T>>::Vector;
template <class T>
using Integers = typename Simd<Sum<T>>::Integers;
template <class T>
using Bits = typename Simd<Sum<T>>::Bits;  // unsigned: shifts and sums of any lanes are defined

// The number of values in a register.
template <class T>
constexpr int kLanes = RNNFUSED_VECTOR_BYTES / sizeof(Sum<T>);

template <class T>
RNNFUSED_INLINE Vector<T> load(const T* from) {
  Vector<T> v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}

template <class T>
RNNFUSED_INLINE void store(T* to, Vector<T> v) {
  __builtin_memcpy(to, &v, sizeof v);
}

template <class T>
RNNFUSED_INLINE Vector<T> splat(T x) {
  return x - Vector<T>{};
}

// The lesser of x and the limit; NaN stays NaN.
RNNFUSED_INLINE Vector<float> at_most(Vector<float> x, float limit) {
#if defined(__AVX512F__)
  return (Vector<float>)_mm512_maskz_min_ps(0xffff, (__m512)splat(limit), (__m512)x);
#elif defined(__AVX2__)
  return (Vector<float>)_mm256_min_ps((__m256)splat(limit), (__m256)x);
#else
  return limit < x ? splat(limit) : x;
#endif
}

// The nearest values of T, ties to even; NaN stays NaN. store() expects rounded values.
template <class T>
RNNFUSED_INLINE Vector<T> rounded(Vector<T> v) {
  return v;
}
// The first n lanes from memory, the others zero; 0 < n < kLanes<T>.
#if defined(__AVX512F__)

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

#elif defined(__AVX2__)

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

#else

template <class T>
RNNFUSED_INLINE Vector<T> load_first(const T* from, int64_t n) {
  Vector<T> v{};
  for (int64_t i = 0; i < n; ++i) v[i] = from[i];
  return v;
}
template <class T>
RNNFUSED_INLINE void store_first(T* to, Vector<T> v, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = v[i];
}

#endif

// Prefetches n values that will soon be read, or written.
template <bool kWrites, class T>
RNNFUSED_INLINE void prefetch_row(const T* from, int64_t n) {
  for (int64_t j = 0; j < n; j += kCacheLine / static_cast<int64_t>(sizeof(T))) __builtin_prefetch(from + j, kWrites);
}

// Adds n values to n others.
template <class From, class To>
RNNFUSED_INLINE void add_row(const From* from, To* to, int64_t n) {
  int64_t j = 0;
  for (; j + kLanes<To> <= n; j += kLanes<To>) store(to + j, load(to + j) + load(from + j));
  if (j < n) store_first(to + j, load_first(to + j, n - j) + load_first(from + j, n - j), n - j);
}

// Copies n values, rounded to the type of the destination.
template <class From, class To>
RNNFUSED_INLINE void copy_row(const From* from, To* to, int64_t n) {
  int64_t j = 0;
  for (; j + kLanes<To> <= n; j += kLanes<To>) store(to + j, rounded<To>(load(from + j)));
  if (j < n) store_first(to + j, rounded<To>(load_first(from + j, n - j)), n - j);
}

}  // namespace RNNFUSED_ISA
}  // namespace rnnfused
