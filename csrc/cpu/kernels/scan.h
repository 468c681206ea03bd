// The time loop that forward and backward share: at every step, state = emit(start + .. + state * B). B is the packed
// weight; start and emit are the arithmetic of forward.h and backward.h. batch_sizes gives the rows of each step; a
// step costs nothing for other rows.
#pragma once

#include "cpu/kernel_table.h"
#include "cpu/kernels/multiply.h"
#include "cpu/team.h"
#include "cpu/tuning.h"
#include "params.h"

namespace rnnfused {
namespace RNNFUSED_ISA {

// The rows whose states a worker holds at once. If the weight stays in L2, a few rows run through all steps with
// their states in L1. Otherwise each panel is used for all the worker's rows before the next one is read.
template <class T>
RNNFUSED_INLINE int64_t rows_at_once(int64_t hidden_size, int64_t rows) {
  if (!fits_l2<T>(hidden_size, hidden_size)) return rows;
  const int64_t bytes = kMaxRows * padded_stride<T>(hidden_size) * static_cast<int64_t>(sizeof(Operand<T>));
  const int64_t tiles = kStateBytes < bytes ? 1 : kStateBytes / bytes;
  const int64_t most = tiles * kMaxRows;
  return smaller(rows, most < kMaxTeamRows ? kMaxTeamRows : most);  // a team holds all its rows at once
}

// A row of a sequence, in the step that starts at `start`.
template <class T>
RNNFUSED_INLINE const T* row_at(const ConstSequence& sequence, int64_t start, int64_t row) {
  return static_cast<const T*>(sequence.data) + start * sequence.time_stride + row * sequence.batch_stride;
}
template <class T>
RNNFUSED_INLINE T* row_at(const Sequence& sequence, int64_t start, int64_t row) {
  return static_cast<T*>(sequence.data) + start * sequence.time_stride + row * sequence.batch_stride;
}

// Elements of two states: one that a step reads, one that it writes.
template <class T>
RNNFUSED_INLINE int64_t scratch_elements(int64_t hidden_size, int64_t rows) {
  return 2 * product_of(rows_at_once<T>(hidden_size, rows), padded_stride<T>(hidden_size));
}

// Packs the panels of [first, last) that are not packed yet, if the worker owns the weights.
template <class Step>
RNNFUSED_INLINE void pack_missing(const Step& step, const PackedWeights& weights, int64_t first, int64_t last) {
  while (weights.have && first < last) {
    int64_t end = first;
    while (end < last && !weights.have[end]) weights.have[end++] = true;
    if (end > first) step.pack(weights, first, end);
    first = end + 1;
  }
}

// Runs batch rows [begin, end) through all steps. `Step` has
//   pack                packs panels of the weights
//   ascending           whether the loop runs from the first step to the last
//   first_state         the first states of the rows; null: zeros
//   product             passes on the initial sums of the state's product, and perhaps one more product
//   emit                makes new states from the sums of a block; rows from `before` on start at this step
//   finish              takes the last states of rows that end
//   finish_multiplies   whether finish multiplies with the weight
template <class T, class Step>
void scan_rows(const Step& step, const PackedWeights& weights, Operand<T>* scratch, int64_t begin, int64_t end,
               Member member) {
  const auto* const packed = static_cast<const Operand<T>*>(weights.hh);
  const RecurrenceParams& params = step.params;
  const int64_t size = params.hidden_size;
  const int64_t stride = padded_stride<T>(size);
  Operand<T>* state = scratch;
  Operand<T>* next = scratch + (end - begin) * stride;
  const bool starts_at_zero = step.first_state.data == nullptr;
  for (int64_t row = begin; member.number == 0 && row < end; ++row) {
    for (Operand<T>* const to : {state + (row - begin) * stride, next + (row - begin) * stride}) {
      if (starts_at_zero) {
        __builtin_memset(to, 0, size * sizeof *to);
      } else {
        const T* const from = static_cast<const T*>(step.first_state.data);
        copy_row(from + params.state_row(row) * step.first_state.batch_stride, to, size);
      }
    }
  }
  const auto rows_in = [&](int64_t i) -> int64_t {  // this worker's rows in the loop's i-th step
    const int64_t t = step.ascending ? i : params.num_steps - 1 - i;
    const int64_t of_all = i < 0                  ? params.rows_before
                           : i < params.num_steps ? params.rows_in_step(t)
                                                  : params.rows_after;
    const int64_t rows = smaller(of_all, end) - begin;
    return rows > 0 ? rows : 0;
  };
  // Each member of a team has its own columns.
  int64_t first_column = 0, last_column = 0;
  const auto take_columns = [&](int64_t number, int64_t members) {
    const int64_t panels = count_panels<T>(size);
    const int64_t first = panels * number / members, last = panels * (number + 1) / members;
    first_column = first * kPanelColumns<T>;
    last_column = smaller(size, last * kPanelColumns<T>);
    pack_missing(step, weights, first, last);
  };
  if (member.team) {
    take_columns(member.number, member.team->most());
    int64_t first_step = 0;
    while (first_step < params.num_steps && rows_in(first_step) == 0) ++first_step;
    if (!member.team->join(member, first_step)) return;
  }
  take_columns(member.number, member.size);
  // Ends step i; returns whether this thread continues.
  const auto goes_on = [&](int64_t i) {
    if (!member.team) return true;
    const int64_t size_before = member.size;
    if (member.team->meet(member, i)) {
      if (member.size != size_before) take_columns(member.number, member.size);
      return true;
    }
    if (member.number > 0) return false;
    member.team->close();
    member.team = nullptr;
    take_columns(0, 1);
    return true;
  };
  int64_t before = rows_in(-1);
  int64_t now = rows_in(0);
  for (int64_t i = 0; i < params.num_steps; ++i) {
    const int64_t after = rows_in(i + 1);
    if (now > 0 && i >= member.first_step) {
      const int64_t t = step.ascending ? i : params.num_steps - 1 - i;
      const int64_t start = params.step_start(t), part_start = params.part_starts ? params.part_starts[t] : start;
      step.product(start, part_start, begin, now, [&](const auto& from, Factor<T> before_it, int count) {
        const Factor<T> of_state = {state, stride, packed, size};
        const Factor<T> one[2] = {of_state, {}}, two[2] = {before_it, of_state};
        multiply<T>(count == 0 ? one : two, count + 1, now, starts_at_zero ? before : now, first_column, last_column,
                    i % 2 == 1, from, [&](const Sums<T>& sums) {
                      step.emit(start, part_start, begin, before, sums, next + sums.first * stride + sums.column,
                                stride);
                    });
      });
      if (!goes_on(i)) return;
      if (after < now && member.number == 0) {
        if (step.finish_multiplies()) pack_missing(step, weights, 0, count_panels<T>(size));
        step.finish(begin + after, begin + now, next + after * stride, stride);
      }
    }
    if (now > 0) {
      Operand<T>* const swap = state;
      state = next;
      next = swap;
    }
    before = now;
    now = after;
  }
}

// Runs a worker's share of the batch, in blocks that suit the size of the weights.
template <class T, class Step>
void scan(const Step& step, const PackedWeights& weights, Operand<T>* scratch, int64_t begin, int64_t end,
          const Member& member) {
  const int64_t rows = end - begin;
  const int64_t at_once = rows_at_once<T>(step.params.hidden_size, rows);
  if (at_once == 0) return;
  const int64_t blocks = (rows + at_once - 1) / at_once;
  const Parts parts(rows, blocks);
  for (int64_t block = 0; block < blocks; ++block) {
    scan_rows<T>(step, weights, scratch, begin + parts.begin(block), begin + parts.begin(block + 1), member);
  }
}

}  // namespace RNNFUSED_ISA
}  // namespace rnnfused
