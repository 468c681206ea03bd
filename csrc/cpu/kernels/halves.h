// 16-bit values, one for each 32-bit lane of a register.
#pragma once

#include "cpu/kernels/simd.h"

namespace rnnfused {
namespace RNNFUSED_ISA {

typedef uint16_t Halves __attribute__((vector_size(RNNFUSED_VECTOR_BYTES / 2)));
using Words = Bits<float>;

template <class T>
RNNFUSED_INLINE Halves load_halves(const T* from) {
  Halves halves;
  __builtin_memcpy(&halves, from, sizeof halves);
  return halves;
}
template <class T>
RNNFUSED_INLINE void store_halves(T* to, Halves halves) {
  __builtin_memcpy(to, &halves, sizeof halves);
}

// The first n values, the others zero; 0 < n < kLanes<float>.
#if defined(RNNFUSED_AVX512)

template <class T>
RNNFUSED_INLINE Halves load_first_halves(const T* from, int64_t n) {
  return (Halves)_mm256_maskz_loadu_epi16(static_cast<__mmask16>((1u << n) - 1), from);
}
template <class T>
RNNFUSED_INLINE void store_first_halves(T* to, Halves halves, int64_t n) {
  _mm256_mask_storeu_epi16(to, static_cast<__mmask16>((1u << n) - 1), (__m256i)halves);
}

#else

template <class T>
RNNFUSED_INLINE Halves load_first_halves(const T* from, int64_t n) {
  Halves halves{};
  for (int64_t i = 0; i < n; ++i) halves[i] = from[i].bits;
  return halves;
}
template <class T>
RNNFUSED_INLINE void store_first_halves(T* to, Halves halves, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i].bits = halves[i];
}

#endif

}  // namespace RNNFUSED_ISA
}  // namespace rnnfused
