// Generation on the CPU: every step runs all layers and the head for a block of rows; the caller chooses the symbols.
#pragma once

#include "cpu/kernels/exp.h"
#include "cpu/kernels/forward.h"
#include "cpu/kernels/multiply.h"
#include "cpu/kernels/pack.h"
#include "cpu/kernels/scan.h"
#include "cpu/kernels/simd.h"
#include "generation.h"

namespace rnnfused {
namespace RNNFUSED_ISA {

// Initial sums from the table's rows of token ids.
template <class T>
struct FromTable {
  const Sum<T>* table;
  int64_t stride;
  const int64_t* ids;
  RNNFUSED_INLINE Start<T> operator()(int64_t first, int64_t, int64_t column, int64_t, int64_t, Sum<T>*) const {
    return {table + column, stride, ids + first, 1};
  }
};

// The rows that run through a step at once: enough to share each read of large weights.
template <class T>
RNNFUSED_INLINE int64_t block_rows(int64_t rows) {
  return smaller(rows, kGeneratedTiles * kMaxRows);
}

// Scratch memory: two sets of states for all layers, logits, ids.
template <class T>
RNNFUSED_INLINE int64_t state_elements(const GeneratorSizes& sizes, int64_t rows) {
  return product_of(2 * sizes.num_layers, block_rows<T>(rows), padded_stride<T>(sizes.hidden_size));
}
template <class T>
RNNFUSED_INLINE int64_t generate_scratch_bytes(const GeneratorSizes& sizes, int64_t rows) {
  return product_of(state_elements<T>(sizes, rows), sizeof(Operand<T>)) +
         product_of(block_rows<T>(rows), sizes.logits_stride(), sizeof(Sum<T>)) +
         block_rows<T>(rows) * static_cast<int64_t>(sizeof(int64_t));
}

template <Nonlinearity F, class T>
struct Generator {
  const GenerateParams& params;
  int64_t rows;
  Operand<T>*states, *next;  // (layers, rows, stride)
  Sum<T>* logits;            // (rows, logits_stride)
  int64_t* ids;              // (rows)
  const GeneratorSizes& sizes = params.weights.sizes;
  const int64_t size = sizes.hidden_size;
  const int64_t stride = padded_stride<T>(size);

  // Sums of a block of rows and columns to states.
  RNNFUSED_INLINE void activate_sums(const Sums<T>& of, Operand<T>* to) const {
    for (int64_t row = of.first; row < of.end; ++row) {
      const Sum<T>* const sums = of.sums + (row - of.first) * of.width;
      // Columns past the last are written too, into the padding of the row.
      for (int64_t j = 0; j < of.columns; j += kLanes<T>) {
        store(to + row * stride + of.column + j, rounded<T>(activate<F, T>(load(sums + j))));
      }
    }
  }

  RNNFUSED_INLINE Factor<T> factor(const Operand<T>* rows_of, const char* packed) const {
    return {rows_of, stride, reinterpret_cast<const Operand<T>*>(packed), size};
  }

  void advance(bool backwards) {
    const auto& weights = params.weights;
    const auto sums_at = [](const char* memory) { return reinterpret_cast<const Sum<T>*>(memory); };
    for (int64_t layer = 0; layer < sizes.num_layers; ++layer) {
      Operand<T>* const to = next + layer * rows * stride;
      const Factor<T> of_state = factor(states + layer * rows * stride, weights.hh(layer));
      const auto emit = [&](const Sums<T>& of) __attribute__((always_inline)) { activate_sums(of, to); };
      if (layer == 0) {
        const Factor<T> factors[2] = {of_state, {}};
        multiply<T>(factors, 1, rows, rows, 0, size, backwards,
                    FromTable<T>{sums_at(weights.table()), sizes.table_stride(), ids}, emit);
      } else {
        const Factor<T> factors[2] = {factor(to - rows * stride, weights.ih(layer)), of_state};
        multiply<T>(factors, 2, rows, rows, 0, size, backwards, FromBias<T>{sums_at(weights.bias(layer))}, emit);
      }
    }
    Operand<T>* const last = next + (sizes.num_layers - 1) * rows * stride;
    const Factor<T> factors[2] = {factor(last, weights.head()), {}};
    multiply<T>(factors, 1, rows, rows, 0, sizes.vocab_size, backwards, FromBias<T>{sums_at(weights.head_bias())},
                [&](const Sums<T>& of) __attribute__((always_inline)) {
                  for (int64_t row = of.first; row < of.end; ++row) {
                    const Sum<T>* const sums = of.sums + (row - of.first) * of.width;
                    Sum<T>* const to = logits + row * sizes.logits_stride() + of.column;
                    for (int64_t j = 0; j < of.columns; j += kLanes<T>) store(to + j, load(sums + j));
                  }
                });
    Operand<T>* const swap = states;
    states = next;
    next = swap;
  }

  // Rows [first, first + rows) of the batch, through all symbols.
  void run(int64_t first, ChooseSymbol choose, void* context) {
    const int64_t batch = params.batch_size;
    for (int64_t layer = 0; layer < sizes.num_layers; ++layer) {
      const T* const from = static_cast<const T*>(params.states) + (layer * batch + first) * size;
      for (int64_t row = 0; row < rows; ++row) {
        copy_row(from + row * size, states + (layer * rows + row) * stride, size);
      }
    }
    for (int64_t row = 0; row < rows; ++row) ids[row] = params.ids[first + row];
    for (int64_t step = 0; step < params.num_symbols; ++step) {
      advance(step % 2 == 1);
      for (int64_t row = 0; row < rows; ++row) {
        ids[row] = choose(context, first + row, step, logits + row * sizes.logits_stride());
      }
    }
    for (int64_t layer = 0; layer < sizes.num_layers; ++layer) {
      T* const to = static_cast<T*>(params.new_states) + (layer * batch + first) * size;
      for (int64_t row = 0; row < rows; ++row) {
        copy_row(states + (layer * rows + row) * stride, to + row * size, size);
      }
    }
  }
};

template <Nonlinearity F, class T>
void generate_blocks(const GenerateParams& params, char* scratch, int64_t begin, int64_t end, ChooseSymbol choose,
                     void* context) {
  const int64_t most = block_rows<T>(end - begin);
  const int64_t blocks = (end - begin + most - 1) / most;
  const int64_t elements = state_elements<T>(params.weights.sizes, end - begin);
  auto* const states = reinterpret_cast<Operand<T>*>(scratch);
  auto* const logits = reinterpret_cast<Sum<T>*>(states + elements);
  auto* const ids = reinterpret_cast<int64_t*>(logits + most * params.weights.sizes.logits_stride());
  const Parts parts(end - begin, blocks);
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t first = parts.begin(block), rows = parts.begin(block + 1) - first;
    Generator<F, T>{params, rows, states, states + elements / 2, logits, ids}.run(begin + first, choose, context);
  }
}

// The place of the largest of n > 0 logits, the first of equal ones; -1 where one is NaN or +inf, or all are -inf.
template <class T>
int64_t largest_of(const T* logits, int64_t n) {
  const T infinity = __builtin_inf();
  Vector<T> most = splat(-infinity);
  Integers<T> finite = ~Integers<T>{};
  int64_t i = 0;
  const auto take = [&](Vector<T> x) __attribute__((always_inline)) {
    most = x > most ? x : most;
    finite &= (Integers<T>)(x < infinity);
  };
  for (; i + kLanes<T> <= n; i += kLanes<T>) take(load(logits + i));
  // The rest again with its predecessors, or beside -inf.
  if (i < n && n >= kLanes<T>) take(load(logits + n - kLanes<T>));
  T largest = -infinity;
  bool all_finite = true;
  for (int lane = 0; lane < kLanes<T>; ++lane) {
    largest = most[lane] > largest ? most[lane] : largest;
    all_finite = all_finite && finite[lane];
  }
  for (int64_t j = 0; n < kLanes<T> && j < n; ++j) {
    largest = logits[j] > largest ? logits[j] : largest;
    all_finite = all_finite && logits[j] < infinity;
  }
  if (!all_finite || largest == -infinity) return -1;
  int64_t place = 0;
  while (logits[place] != largest) ++place;
  return place;
}

// exp((logits[i] - largest) * factor) in place, for n values.
template <class T>
void weigh(T* logits, int64_t n, T largest, T factor) {
  const auto weight = [&](Vector<T> x) __attribute__((always_inline)) { return exp<T>((x - largest) * factor); };
  int64_t i = 0;
  for (; i + kLanes<T> <= n; i += kLanes<T>) store(logits + i, weight(load(logits + i)));
  if (i < n) store_first(logits + i, weight(load_first(logits + i, n - i)), n - i);
}

}  // namespace RNNFUSED_ISA
}  // namespace rnnfused
