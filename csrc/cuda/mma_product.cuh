// A step's product on the tensor cores, for the 16-bit types: h^T = W h^T. So the weight, which stays in registers,
// fills the 16 rows of an instruction, and 8 rows of the batch fill its columns. Sums are in float32.
//
// The instruction is mma.m16n8k16 (PTX ISA, "Matrix Fragments for mma.m16n8k16"). With q = lane / 4 and
// r = lane % 4 a lane holds, two 16-bit values to a register:
//   A (16x16)  a0 (q, 2r..2r+1)    a1 (q+8, 2r..)    a2 (q, 2r+8..)    a3 (q+8, 2r+8..)
//   B (16x8)   b0 (2r..2r+1, q)    b1 (2r+8.., q)
//   C (16x8)   c0 (q, 2r)  c1 (q, 2r+1)  c2 (q+8, 2r)  c3 (q+8, 2r+1)         in float32
#pragma once

#include <cstring>

#include "cuda/memory.cuh"
#include "cuda/plan.h"
#include "cuda/tuning.h"

namespace rnnfused {
namespace cuda {

template <class Stored_>
struct Mma {
  using Stored = Stored_;
  using T = float;
  using Word = uint32_t;
  static constexpr int kValues = 2;
  static constexpr int kUnits = 32;  // two instructions take the same part of the state
  static constexpr int kLanes = 32;
  static constexpr int kRows = 8;
  static constexpr int kDepths[] = {32, 128, 256};
  // A lane's weights take depth / 2 registers, of 168 with 384 threads and of 255 with 256.
  RNNFUSED_EVERYWHERE static constexpr int max_threads(int depth) { return depth > 32 ? 256 : 384; }
  RNNFUSED_EVERYWHERE static constexpr int max_items(int) { return kItemsPerThread; }

  // Four words more than the values: a warp reads 8 rows at once from different banks.
  RNNFUSED_EVERYWHERE static int row_words(const Plan& plan) { return plan.slices * plan.depth / kValues + 4; }
  // Four elements more than the units, for the same reason.
  RNNFUSED_EVERYWHERE static int sum_row(const Plan& plan) { return plan.groups * kUnits + 4; }

  RNNFUSED_PHASE static Word pack(const T (&values)[kValues]) {
    const Stored stored[2] = {static_cast<Stored>(values[0]), static_cast<Stored>(values[1])};
    Word word;
    memcpy(&word, stored, sizeof word);
    return word;
  }
  RNNFUSED_PHASE static void unpack(Word word, T (&values)[kValues]) {
    Stored stored[2];
    memcpy(stored, &word, sizeof word);
    values[0] = static_cast<T>(stored[0]);
    values[1] = static_cast<T>(stored[1]);
  }

  struct alignas(kValues * sizeof(T)) Pair {
    T values[kValues];
  };
  RNNFUSED_PHASE static void load_sums(const T* from, T (&values)[kValues]) {
    const Pair pair = *reinterpret_cast<const Pair*>(from);
    values[0] = pair.values[0];
    values[1] = pair.values[1];
  }

  // The product for a depth known at compile time.
  template <int kDepth>
  struct Of;
};

template <class Stored_>
template <int kDepth>
struct Mma<Stored_>::Of : Mma<Stored_> {
  static constexpr int kItems = Mma::max_items(kDepth);
  static constexpr int kTiles = kDepth / 16;
  using Weights = Word[kTiles][2][4];

  RNNFUSED_PHASE static int word(const Plan& plan, int row, int k) { return row * row_words(plan) + k / kValues; }

  // The hidden unit at a word of a row, or the next one.
  RNNFUSED_PHASE static int unit_at(const Plan&, int word) { return word * kValues; }

  // Loads through shared memory, 16 values of the state at a time, so that words are packed before they take
  // registers. `weight(me, k, local)` is the weight of the block's unit `local`, 0 where it does not exist.
  template <class Team, class Weight>
  RNNFUSED_PHASE static void load_weights(Team& team, const Plan& plan, const Weight& weight) {
    const int units = plan.groups * kUnits;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      team.phase([&](auto& me) {
        Word* stage = staged(me);
#pragma unroll 1
        for (int i = me.index; i < plan.slices * units * 8; i += plan.threads) {
          const int unit = i / 8 % units, k = i / 8 / units * kDepth + tile * 16 + i % 8 * kValues;
          stage[i] = pack({weight(me, k, unit), weight(me, k + 1, unit)});
        }
      });
      team.phase([&](auto& me) {
        const int q = me.index % kLanes / 4, r = me.index % 4;
        const Word* from = staged(me) + (me.slice * units + me.group * kUnits + q) * 8 + r;
#pragma unroll
        for (int m = 0; m < 2; ++m) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            me.weights[tile][m][i] = from[(m * 16 + i % 2 * 8) * 8 + i / 2 * 4];
          }
        }
      });
    }
  }

  // The staging area has 8 words per unit and slice, and reuses the memory of 8 rows of sums.
  template <class Member>
  RNNFUSED_PHASE static Word* staged(const Member& me) {
    return reinterpret_cast<Word*>(me.shared.sums);
  }

  template <class Team, class Member>
  RNNFUSED_PHASE static void multiply(Team& team, Member& me, const Plan& plan, const Word* state, T* sums, int begin,
                                      int end) {
    const int q = me.index % kLanes / 4, r = me.index % 4;
#pragma unroll 1
    for (int row = begin / kRows * kRows; row < end; row += kRows) {
      T acc[2][2][4] = {};  // two sums each, because an instruction waits for the sum that it adds to
      const Word* from = state + word(plan, row, me.slice * kDepth);
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        const auto load_b = [&](int lane, Word(&b)[2]) {
          const Word* words = from + lane / 4 * me.shared.state_row + tile * 8 + lane % 4;
          b[0] = words[0];
          b[1] = words[4];
        };
        team.template mma<Stored>(me, me.weights[tile], load_b, acc[tile % 2]);
      }
      T* to = sums + me.slice * me.shared.between_sums + row * me.shared.sum_row + me.group * kUnits;
#pragma unroll
      for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          to[(2 * r + i % 2) * me.shared.sum_row + m * 16 + q + i / 2 * 8] = acc[0][m][i] + acc[1][m][i];
        }
      }
    }
  }
};

}  // namespace cuda
}  // namespace rnnfused
