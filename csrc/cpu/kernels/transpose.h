// Transposes a square of registers.
#pragma once

#include "cpu/kernels/simd.h"

namespace rnnfused {
namespace RNNFUSED_ISA {

// The lanes of the lower (half = 0) or upper (1) halves of a and b, alternating.
template <class T>
RNNFUSED_INLINE Vector<T> interleave(Vector<T> a, Vector<T> b, int half) {
  constexpr int n = kLanes<T>;
#if defined(__clang__)
  Vector<T> result;
  for (int i = 0; i < n; ++i) result[i] = (i % 2 ? b : a)[half * n / 2 + i / 2];
  return result;
#else
  Integers<T> from{};
  for (int i = 0; i < n; ++i) from[i] = i % 2 * n + half * n / 2 + i / 2;
  return __builtin_shuffle(a, b, from);
#endif
}

// log2(lanes) perfect shuffles of the registers exchange the number of a register with that of its lane.
template <class T>
RNNFUSED_INLINE void transpose(Vector<T> (&square)[kLanes<T>]) {
  constexpr int n = kLanes<T>;
#pragma GCC unroll 4
  for (int done = 1; done < n; done *= 2) {
    Vector<T> shuffled[n];
#pragma GCC unroll 8
    for (int i = 0; i < n / 2; ++i) {
      shuffled[2 * i] = interleave<T>(square[i], square[i + n / 2], 0);
      shuffled[2 * i + 1] = interleave<T>(square[i], square[i + n / 2], 1);
    }
#pragma GCC unroll 16
    for (int i = 0; i < n; ++i) square[i] = shuffled[i];
  }
}

}  // namespace RNNFUSED_ISA
}  // namespace rnnfused
