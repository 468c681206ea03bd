// A step's product on the ordinary cores, for float32 and float64. Each thread holds kUnits rows of the weight over
// kDepth values of the state in registers.
#pragma once

#include "cuda/memory.cuh"
#include "cuda/plan.h"
#include "cuda/tuning.h"

namespace rnnfused {
namespace cuda {

template <class T_>
struct Fma {
  using T = T_;                      // of the arithmetic
  using Word = T_;                   // the unit of stores into a state
  using Stored = T_;                 // the type of the tensors
  static constexpr int kValues = 1;  // values in a word
  static constexpr int kUnits = 4;   // hidden units of a group
  static constexpr int kLanes = 1;   // threads that share a slice and a group
  static constexpr int kRows = 1;    // rows are multiplied in multiples of this
  static constexpr int kDepths[] = {8, 16, 32, 36};
  // kUnits * depth weights and little else fit a thread's 255 registers; a double takes two.
  RNNFUSED_EVERYWHERE static constexpr int max_threads(int depth) {
    return depth * static_cast<int>(sizeof(T)) <= 36 * 4 ? 256 : 0;
  }
  // Words of a new state that one thread finishes in a step.
  RNNFUSED_EVERYWHERE static constexpr int max_items(int) { return kItemsPerThread; }

  // Elements between two slices of a state: 16 bytes more than a slice, so that threads of one warp read different
  // slices from different banks.
  RNNFUSED_EVERYWHERE static constexpr int slice_stride(int depth) { return depth + 16 / static_cast<int>(sizeof(T)); }
  // Words of one row of a state.
  RNNFUSED_EVERYWHERE static int row_words(const Plan& plan) { return plan.slices * slice_stride(plan.depth); }
  // Elements of one row of a slice's sums.
  RNNFUSED_EVERYWHERE static int sum_row(const Plan& plan) { return plan.groups * kUnits; }

  RNNFUSED_PHASE static Word pack(const T (&values)[kValues]) { return values[0]; }
  RNNFUSED_PHASE static void unpack(Word word, T (&values)[kValues]) { values[0] = word; }
  RNNFUSED_PHASE static void load_sums(const T* from, T (&values)[kValues]) { values[0] = *from; }

  // The product for a depth known at compile time.
  template <int kDepth>
  struct Of;
};

template <class T_>
template <int kDepth>
struct Fma<T_>::Of : Fma<T_> {
  static constexpr int kItems = Fma::max_items(kDepth);
  using Weights = T[kUnits][kDepth];

  // The word of a state that holds hidden unit `k` of a row.
  RNNFUSED_PHASE static int word(const Plan& plan, int row, int k) {
    return (row * plan.slices + k / kDepth) * slice_stride(kDepth) + k % kDepth;
  }

  // The hidden unit at a word of a row, or the next one.
  RNNFUSED_PHASE static int unit_at(const Plan&, int word) {
    const int slice = word / slice_stride(kDepth), within = word % slice_stride(kDepth);
    return slice * kDepth + (within < kDepth ? within : kDepth);
  }

  // `weight(me, k, local)` is the weight of the block's unit `local`, 0 where it does not exist.
  template <class Team, class Weight>
  RNNFUSED_PHASE static void load_weights(Team& team, const Plan&, const Weight& weight) {
#pragma unroll
    for (int u = 0; u < kUnits; ++u) {
      team.phase([&](auto& me) {
#pragma unroll
        for (int d = 0; d < kDepth; ++d) {
          me.weights[u][d] = weight(me, me.slice * kDepth + d, me.group * kUnits + u);
        }
      });
    }
  }

  // sums[slice][row] = the thread's share of (row of the state) W^T for its units, for rows [begin, end).
  template <class Team, class Member>
  RNNFUSED_PHASE static void multiply(Team& team, Member& me, const Plan& plan, const Word* state, T* sums, int begin,
                                      int end) {
    const T* from = state + word(plan, begin, me.slice * kDepth);
    T* to = sums + me.slice * me.shared.between_sums + begin * me.shared.sum_row + me.group * kUnits;
    for (int row = begin; row < end; ++row, from += me.shared.state_row, to += me.shared.sum_row) {
      T acc[kUnits] = {};
#pragma unroll
      for (int d = 0; d < kDepth; d += 4) {
        T h[4];
        team.load4(from + d, h);
#pragma unroll
        for (int e = 0; e < 4; ++e) {
#pragma unroll
          for (int u = 0; u < kUnits; ++u) acc[u] += me.weights[u][d + e] * h[e];
        }
      }
      team.store4(to, acc);
    }
  }
};

}  // namespace cuda
}  // namespace rnnfused
