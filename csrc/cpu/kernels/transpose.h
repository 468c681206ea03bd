// Transposes a square of registers.
#pragma once

#include "cpu/kernels/shuffle.h"

namespace rnnfused {
namespace RNNFUSED_ISA {

// The lanes of the lower (half = 0) or upper (1) halves of two registers, alternating.
template <class T>
constexpr Lanes<T> interleaved(int half) {
  constexpr int n = kLanes<T>;
  Lanes<T> lanes = {};
  for (int i = 0; i < n; ++i) lanes.from[i] = i % 2 * n + half * n / 2 + i / 2;
  return lanes;
}

// log2(lanes) perfect shuffles of the registers exchange the number of a register with that of its lane.
template <class T>
RNNFUSED_INLINE void transpose(Vector<T> (&square)[kLanes<T>]) {
  constexpr int n = kLanes<T>;
  constexpr Lanes<T> kLower = interleaved<T>(0), kUpper = interleaved<T>(1);
#pragma GCC unroll 4
  for (int done = 1; done < n; done *= 2) {
    Vector<T> shuffled[n];
#pragma GCC unroll 8
    for (int i = 0; i < n / 2; ++i) {
      shuffled[2 * i] = shuffle<T>(square[i], square[i + n / 2], kLower);
      shuffled[2 * i + 1] = shuffle<T>(square[i], square[i + n / 2], kUpper);
    }
#pragma GCC unroll 16
    for (int i = 0; i < n; ++i) square[i] = shuffled[i];
  }
}

}  // namespace RNNFUSED_ISA
}  // namespace rnnfused
