// Registers, and rows of values in memory. Each instruction set has a file with the operations that need intrinsics:
//   fma(a, b, c)              a * b + c, rounded once; rounded twice on a processor without fused multiply-adds
//   fused(a, b, c)            the same with an exact product on these too, in several times the instructions
//   at_most, at_least(x, y)   the lesser, or the greater, of x and a limit; NaN stays NaN
//   lookup(row, index)        in each lane, the value that the low three bits of the index select; the second half of the
//                             row repeats the first
//   load_first, store_first   the first n lanes, 0 < n < kLanes<T>; load_first fills the others with zeros
#pragma once

#include <cstdint>

#include "cpu/kernels/registers.h"
#include "cpu/tuning.h"

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

#if !defined(RNNFUSED_NO_FMA)
template <class V>
RNNFUSED_INLINE V fused(V a, V b, V c) {
  return fma(a, b, c);
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
