// Folds the lanes of registers: sums, or maxima, of as many rows at once as a register has lanes.
#pragma once

#include "cpu/kernels/shuffle.h"

namespace rnnfused {
namespace RNNFUSED_ISA {

struct Larger {
  template <class Value>
  RNNFUSED_INLINE Value operator()(Value a, Value b) const {
    return a < b ? b : a;
  }
};
struct Plus {
  template <class Value>
  RNNFUSED_INLINE Value operator()(Value a, Value b) const {
    return a + b;
  }
};

// The lanes of one half of a stage. The registers have segments of `size` lanes; the stage keeps each segment's lower
// (half = 0) or upper (1) lanes. Segments stay in their 16 bytes where they fit, because shuffles within 16 bytes are
// the cheap ones.
template <class T>
constexpr Lanes<T> lanes_of_stage(int size, int half) {
  constexpr int kBlock = 16 / sizeof(Sum<T>);
  const int block = size > kBlock ? kLanes<T> : kBlock, kept = size / 2, segments = block / size;
  Lanes<T> lanes = {};
  for (int to = 0; to < kLanes<T>; ++to) {
    const int first = to / block * block, segment = to % block / kept;
    const int from = first + segment % segments * size + half * kept + to % kept;
    lanes.from[to] = segment < segments ? from : kLanes<T> + from;
  }
  return lanes;
}

// The lane in which the stages leave the fold of each register.
template <class T>
constexpr Lanes<T> lanes_of_registers() {
  Lanes<T> lanes = {};
  for (int i = 0; i < kLanes<T>; ++i) {
    int lane = 0;
    for (int number = i, size = kLanes<T>; size > 1; size /= 2) {
      const Lanes<T> stage = lanes_of_stage<T>(size, 0);
      // Registers of the upper half are a shuffle's second.
      const int from = number < size / 2 ? lane : kLanes<T> + lane;
      number %= size / 2;
      for (int to = 0; to < kLanes<T>; ++to) {
        if (stage.from[to] == from) lane = to;
      }
    }
    lanes.from[i] = lane;
  }
  return lanes;
}

// Folds each register's lanes, i with i + lanes / 2 and so on; lane r of the result is that of register r. Overwrites
// the registers.
template <class T, class Fold, int kSize = kLanes<T>>
RNNFUSED_INLINE Vector<T> folded_lanes(Vector<T>* registers, const Fold& fold) {
  if constexpr (kSize > 1) {
    constexpr Lanes<T> kLower = lanes_of_stage<T>(kSize, 0), kUpper = lanes_of_stage<T>(kSize, 1);
#pragma GCC unroll 8
    for (int i = 0; i < kSize / 2; ++i) {
      const Vector<T> a = registers[i], b = registers[i + kSize / 2];
      registers[i] = fold(shuffle<T>(a, b, kLower), shuffle<T>(a, b, kUpper));
    }
    return folded_lanes<T, Fold, kSize / 2>(registers, fold);
  } else {
    constexpr Lanes<T> kOrder = lanes_of_registers<T>();
    return shuffle<T>(registers[0], registers[0], kOrder);
  }
}

}  // namespace RNNFUSED_ISA
}  // namespace rnnfused
