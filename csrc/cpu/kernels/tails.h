// Loads and stores of a vector's first values, where an instruction set lacks masks.
#pragma once

#include <cstdint>

#include "cpu/kernels/registers.h"

namespace rnnfused {
namespace RNNFUSED_ISA {

// Lane by lane: compilers make a loop of n rounds a call of memcpy, around which no sum can stay in a register.
template <class T>
RNNFUSED_INLINE Vector<T> load_first(const T* from, int64_t n) {
  Vector<T> v{};
#pragma GCC unroll 64
  for (int i = 0; i < kLanes<T>; ++i) {
    if (i < n) v[i] = from[i];
  }
  return v;
}
template <class T>
RNNFUSED_INLINE void store_first(T* to, Vector<T> v, int64_t n) {
#pragma GCC unroll 64
  for (int i = 0; i < kLanes<T>; ++i) {
    if (i < n) to[i] = v[i];
  }
}

}  // namespace RNNFUSED_ISA
}  // namespace rnnfused
