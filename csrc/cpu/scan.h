// The time loop that forward and backward share: for every step, state = emit(state * B), where B is the
// packed weight and `emit` is the step's own arithmetic (see forward.h, backward.h).
// Rows join and leave as batch_sizes says; a row that is not in a step costs nothing there.
#pragma once

#include "pack.h"
#include "recurrence.h"
#include "simd.h"
#include "tile.h"

namespace rnnfused {
namespace RNNFUSED_ISA {

// Weights up to this size stay in L2 while one block of rows runs through all steps, its state in L1.
// Larger ones stream: then every panel is used for all the thread's rows before the next one is read.
constexpr int64_t kResidentWeightBytes = 640 * 1024;

RNNFUSED_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// Elements between rows of the state: 64 bytes mod 256, since power-of-two strides alias in L1.
template <class T>
RNNFUSED_INLINE int64_t state_stride(int64_t hidden_size) {
  const int64_t padded = (hidden_size + kPanelColumns<T> - 1) / kPanelColumns<T> * kPanelColumns<T>;
  const int64_t unit = 256 / sizeof(T);
  return (padded + unit - unit / 4 - 1) / unit * unit + unit / 4;
}

template <class T>
RNNFUSED_INLINE bool weights_resident(int64_t hidden_size) {
  return packed_elements<T>(hidden_size) * static_cast<int64_t>(sizeof(T)) <= kResidentWeightBytes;
}

// Rows whose state a thread holds at once.
template <class T>
RNNFUSED_INLINE int64_t rows_at_once(int64_t hidden_size, int64_t rows) {
  return weights_resident<T>(hidden_size) ? smaller(rows, kMaxRows) : rows;
}

// Two states: the one that a step reads and the one that it writes.
template <class T>
RNNFUSED_INLINE int64_t scratch_elements(int64_t hidden_size, int64_t rows) {
  return 2 * rows_at_once<T>(hidden_size, rows) * state_stride<T>(hidden_size);
}

// Calls emit(row, first_column, columns, sums) for every row in [0, rows) and group of columns, with
// sums = the row of state * B in these columns. Rows from `zero_from` on have a zero state: no product.
template <class T, class Emit>
RNNFUSED_INLINE void multiply(const T* state, int64_t stride, int64_t rows, int64_t zero_from,
                              const T* packed, int64_t size, const Emit& emit) {
  alignas(64) T sums[kMaxTileVectors * kLanes<T>];
  // Even blocks: 16 rows run as 8 + 8, not as 14 + 2.
  const int64_t blocks = (rows + kMaxRows - 1) / kMaxRows;
  const int widest = max_vectors(blocks == 1 ? static_cast<int>(rows) : kMaxRows);
  for (int64_t column = 0; column < size;) {
    const int64_t left = (size - column + kLanes<T> - 1) / kLanes<T>;
    int vectors = widest;
    while (vectors > left) vectors /= 2;
    const int64_t columns = smaller(vectors * kLanes<T>, size - column);
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t first = rows * block / blocks;
      const int count = static_cast<int>(rows * (block + 1) / blocks - first);
      if (first < zero_from) {
        tile_for<T>(count, vectors)(state + first * stride, stride, packed + column * size, size, sums);
      }
      // Rows of zeros beside others in the tile too: 0 times a NaN or infinite weight is not their sum.
      for (int64_t row = first > zero_from ? first : zero_from; row < first + count; ++row) {
        T* const sum = sums + (row - first) * vectors * kLanes<T>;
        for (int v = 0; v < vectors; ++v) store(sum + v * kLanes<T>, Vector<T>{});
      }
      for (int r = 0; r < count; ++r) {
        emit(first + r, column, columns, sums + r * vectors * kLanes<T>);
      }
    }
    column += columns;
  }
}

// Runs rows [begin, end) of the call through all steps. `Step` has
//   ascending        whether time runs upwards
//   starts_at_zero   whether a row's first state is zero
//   start            writes a row's first state
//   emit             makes a row's new state, in a group of columns, from its product
//   finish           takes the last state of rows that end
template <class T, class Step>
void scan_rows(const Step& step, const T* packed, T* scratch, int64_t begin, int64_t end) {
  const Recurrence& call = step.call;
  const int64_t size = call.hidden_size;
  const int64_t stride = state_stride<T>(size);
  T* state = scratch;
  T* next = scratch + (end - begin) * stride;
  for (int64_t row = begin; row < end; ++row) {
    step.start(row, state + (row - begin) * stride);
    step.start(row, next + (row - begin) * stride);
  }
  const auto rows_in = [&](int64_t i) -> int64_t {  // of ours, in the loop's i-th step
    if (i < 0 || i >= call.num_steps) return 0;
    const int64_t t = step.ascending ? i : call.num_steps - 1 - i;
    const int64_t rows = smaller(call.rows_in_step(t), end) - begin;
    return rows > 0 ? rows : 0;
  };
  int64_t before = 0;
  int64_t now = rows_in(0);
  for (int64_t i = 0; i < call.num_steps; ++i) {
    const int64_t after = rows_in(i + 1);
    if (now > 0) {
      const int64_t t = step.ascending ? i : call.num_steps - 1 - i;
      const int64_t start = call.step_start(t);
      multiply<T>(state, stride, now, step.starts_at_zero ? before : now, packed, size,
                  [&](int64_t row, int64_t column, int64_t columns, const T* sums) {
                    step.emit(start, begin + row, row >= before, column, columns, sums,
                              next + row * stride + column);
                  });
      if (after < now) {
        step.finish(begin + after, begin + now, next + after * stride, stride, packed);
      }
      T* const swap = state;
      state = next;
      next = swap;
    }
    before = now;
    now = after;
  }
}

// The thread's share of the batch, in the order that suits the size of the weights.
template <class T, class Step>
void scan(const Step& step, const T* packed, T* scratch, int64_t begin, int64_t end) {
  const int64_t rows = end - begin;
  const int64_t at_once = rows_at_once<T>(step.call.hidden_size, rows);
  if (at_once == 0) return;
  const int64_t blocks = (rows + at_once - 1) / at_once;
  for (int64_t block = 0; block < blocks; ++block) {
    scan_rows<T>(step, packed, scratch, begin + rows * block / blocks,
                 begin + rows * (block + 1) / blocks);
  }
}

}  // namespace RNNFUSED_ISA
}  // namespace rnnfused
