// Packs a weight for the tiles, once per call: panels of 2 vectors of columns, all rows of a panel adjacent.
// The last columns form a narrow panel of one vector if they fit. The values of a column that one multiply-add
// takes are adjacent. Zeros pad rows and columns.
#pragma once

#include "cpu/kernels/operand.h"
#include "cpu/kernels/simd.h"
#include "cpu/kernels/transpose.h"
#include "params.h"
#include "sizes.h"

namespace rnnfused {
namespace RNNFUSED_ISA {

constexpr int kPanelVectors = 2;

template <class T>
constexpr int kPanelColumns = kPanelVectors * kLanes<T>;

template <class T>
RNNFUSED_INLINE int64_t count_panels(int64_t columns) {
  return (columns + kPanelColumns<T> - 1) / kPanelColumns<T>;
}

// The vectors of the panel that starts at a column: 2, or 1 in a narrow last panel.
template <class T>
RNNFUSED_INLINE int panel_vectors(int64_t columns, int64_t first_column) {
  return columns - first_column > kLanes<T> ? kPanelVectors : 1;
}

// The elements of a packed matrix of `depth` rows, and its bytes; either is at most kTooLarge.
template <class T>
RNNFUSED_INLINE int64_t packed_elements(int64_t depth, int64_t columns) {
  const int64_t panels = count_panels<T>(smaller(columns, kTooLarge));
  return product_of(panels * kPanelColumns<T>, padded_depth<T>(smaller(depth, kTooLarge)));
}
template <class T>
RNNFUSED_INLINE int64_t packed_bytes(int64_t depth, int64_t columns) {
  return product_of(packed_elements<T>(depth, columns), sizeof(Operand<T>));
}

// The place of row k in the register of columns that starts at `column`.
template <class T>
RNNFUSED_INLINE Operand<T>* packed_at(Operand<T>* packed, int64_t depth, int64_t columns, int64_t k, int64_t column) {
  const int64_t panel = column / kPanelColumns<T> * kPanelColumns<T>;
  const int64_t width = panel_vectors<T>(columns, panel) * kLanes<T>;
  return packed + panel * padded_depth<T>(depth) + k * width + (column - panel) * kProducts<T>;
}

// Packs panels [begin, end) row by row. row_of(k) is a row; load_columns(row, column, n) loads n of its columns.
template <class T, class RowOf, class LoadColumns>
RNNFUSED_INLINE void pack_by_row(const RowOf& row_of, const LoadColumns& load_columns, int64_t depth, int64_t columns,
                                 Operand<T>* packed, int64_t begin, int64_t end) {
  const int64_t last = smaller(end * kPanelColumns<T>, columns);
  for (int64_t k = 0; k < depth; k += kProducts<T>) {
    const T* rows[kProducts<T>];
    for (int i = 0; i < kProducts<T>; ++i) rows[i] = k + i < depth ? row_of(k + i) : nullptr;
    for (int64_t column = begin * kPanelColumns<T>; column < last; column += kLanes<T>) {
      const int64_t n = smaller(columns - column, kLanes<T>);
      store_packed<T>(packed_at<T>(packed, depth, columns, k, column),
                      [&](int64_t i) { return rows[i] ? load_columns(rows[i], column, n) : Vector<T>{}; });
    }
  }
}

// The same for rows whose columns are adjacent.
template <class T, class RowOf>
RNNFUSED_INLINE void pack_rows(const RowOf& row_of, int64_t depth, int64_t columns, Operand<T>* packed, int64_t begin,
                               int64_t end) {
  const auto load_columns = [&](const T* row, int64_t column, int64_t n) {
    return n == kLanes<T> ? load(row + column) : load_first(row + column, n);
  };
  pack_by_row<T>(row_of, load_columns, depth, columns, packed, begin, end);
}

// The same for columns whose rows are adjacent.
template <class T>
void pack_columns(const T* data, int64_t stride, int64_t depth, int64_t columns, Operand<T>* packed, int64_t begin,
                  int64_t end) {
  constexpr int64_t kRows = kLanes<T> * kProducts<T>;
  const int64_t last = smaller(end * kPanelColumns<T>, columns);
  for (int64_t column = begin * kPanelColumns<T>; column < last; column += kLanes<T>) {
    const T* const from = data + column * stride;
    Operand<T>* const to = packed_at<T>(packed, depth, columns, 0, column);
    const int64_t distance = packed_at<T>(packed, depth, columns, kProducts<T>, column) - to;
    // Whole squares stay in registers, because their bounds are constants.
    const auto pack_square = [&](int64_t k, int64_t rows, int64_t n) __attribute__((always_inline)) {
      Vector<T> square[kLanes<T>] = {};
#pragma GCC unroll 16
      for (int64_t c = 0; c < n; ++c) square[c] = load_operands<T>(from + c * stride + k, rows);
      transpose<T>(square);
#pragma GCC unroll 16
      for (int64_t i = 0; i * kProducts<T> < rows; ++i) {
        __builtin_memcpy(to + (k / kProducts<T> + i) * distance, &square[i], sizeof square[i]);
      }
    };
    const int64_t n = smaller(columns - column, kLanes<T>);
    int64_t k = 0;
    for (; n == kLanes<T> && k + kRows <= depth; k += kRows) pack_square(k, kRows, kLanes<T>);
    for (; k < depth; k += kRows) pack_square(k, smaller(depth - k, kRows), n);
  }
}

// Packs panels [begin, end) of a (depth, columns) matrix.
template <class T>
void pack_panels(const ConstMatrix& matrix, int64_t depth, int64_t columns, Operand<T>* packed, int64_t begin,
                 int64_t end) {
  const T* const data = static_cast<const T*>(matrix.data);
  const auto row_of = [&](int64_t k) { return data + k * matrix.row_stride; };
  if (matrix.column_stride == 1) {
    pack_rows<T>(row_of, depth, columns, packed, begin, end);
  } else if (matrix.row_stride == 1) {
    pack_columns<T>(data, matrix.column_stride, depth, columns, packed, begin, end);
  } else {
    const auto gather = [&](const T* row, int64_t column, int64_t n) {
      T values[kLanes<T>] = {};
      for (int64_t c = 0; c < n; ++c) values[c] = row[(column + c) * matrix.column_stride];
      return load(values);
    };
    pack_by_row<T>(row_of, gather, depth, columns, packed, begin, end);
  }
}

}  // namespace RNNFUSED_ISA
}  // namespace rnnfused
