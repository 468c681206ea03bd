// One vector register of the instruction set that this file is compiled for, and rows of values in memory. GCC and
// Clang vector extensions provide most arithmetic.
#pragma once

#include <cstdint>

#include "cpu/tuning.h"

// The registers: their size in bytes, and how many there are. RNNFUSED_PLAIN_VECTORS sets a size for tests, without
// intrinsics.
#if defined(RNNFUSED_PLAIN_VECTORS)
#define RNNFUSED_VECTOR_BYTES RNNFUSED_PLAIN_VECTORS
#define RNNFUSED_REGISTERS 32
#elif defined(__AVX512F__)
#define RNNFUSED_AVX512
#define RNNFUSED_VECTOR_BYTES 64
#define RNNFUSED_REGISTERS 32
#elif defined(__AVX2__)
#define RNNFUSED_AVX2
#define RNNFUSED_VECTOR_BYTES 32
#define RNNFUSED_REGISTERS 16
#elif defined(__aarch64__)
#define RNNFUSED_NEON
#define RNNFUSED_VECTOR_BYTES 16
#define RNNFUSED_REGISTERS 32
#else
#define RNNFUSED_VECTOR_BYTES 16
#define RNNFUSED_REGISTERS 16
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
using Bits = typename Simd<Sum<T>>::Bits;  // unsigned: shifts and sums of any
                                           // lanes are defined

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

// The nearest values of T, ties to even; NaN stays NaN. store() expects rounded values.
template <class T>
RNNFUSED_INLINE Vector<T> rounded(Vector<T> v) {
  return v;
}

}  // namespace RNNFUSED_ISA
}  // namespace rnnfused

// The operations that need intrinsics:
//   fma(a, b, c)              a * b + c, rounded once; rounded twice on a processor without fused multiply-adds
//   at_most, at_least(x, y)   the lesser, or the greater, of x and a limit; NaN stays NaN
//   lookup(row, index)        in each lane, the value that the low three bits of the index select; the second half of the
//                             row repeats the first
//   load_first, store_first   the first n lanes, 0 < n < kLanes<T>; load_first fills the others with zeros
#if defined(RNNFUSED_AVX512)
#include "cpu/kernels/simd_avx512.h"
#elif defined(RNNFUSED_AVX2)
#include "cpu/kernels/simd_avx2.h"
#elif defined(RNNFUSED_NEON)
#include "cpu/kernels/simd_neon.h"
#else
#include "cpu/kernels/simd_plain.h"
#endif

namespace rnnfused {
namespace RNNFUSED_ISA {

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
