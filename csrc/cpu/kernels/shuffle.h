// Moves lanes of two registers into one, by a table that the compiler knows.
#pragma once

#include "cpu/kernels/simd.h"

namespace rnnfused {
namespace RNNFUSED_ISA {

// The lanes that a shuffle takes: 0 .. lanes - 1 of its first register, the others of its second.
template <class T>
struct Lanes {
  int from[kLanes<T>];
};

template <class T>
RNNFUSED_INLINE Vector<T> shuffle(Vector<T> a, Vector<T> b, const Lanes<T>& lanes) {
#if defined(__clang__)
  Vector<T> result;
  for (int i = 0; i < kLanes<T>; ++i) result[i] = (lanes.from[i] < kLanes<T> ? a : b)[lanes.from[i] % kLanes<T>];
  return result;
#else
  Integers<T> from{};
  for (int i = 0; i < kLanes<T>; ++i) from[i] = lanes.from[i];
  return __builtin_shuffle(a, b, from);
#endif
}

}  // namespace RNNFUSED_ISA
}  // namespace rnnfused
