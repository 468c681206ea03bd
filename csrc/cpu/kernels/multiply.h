// Multiplies rows with a packed matrix, in register tiles; the caller's epilogue processes the sums.
#pragma once

#include "cpu/kernel_table.h"
#include "cpu/kernels/pack.h"
#include "cpu/kernels/simd.h"
#include "cpu/kernels/tile.h"
#include "cpu/tuning.h"

namespace rnnfused {
namespace RNNFUSED_ISA {

template <class T>
RNNFUSED_INLINE bool fits_l2(int64_t depth, int64_t columns) {
  return packed_bytes<T>(depth, columns) <= kResidentBytes;
}

// Whether rows at this distance map to few sets of L1, as rows of a power of two do.
template <class T>
RNNFUSED_INLINE bool aliases(int64_t stride) {
  return static_cast<uint64_t>(stride) * sizeof(Operand<T>) % kAliasBytes == 0;
}

// A distance between rows, in elements, that maps them to many sets: 64 bytes modulo 256.
template <class T>
RNNFUSED_INLINE int64_t padded_stride(int64_t size) {
  const int64_t padded = (size + kPanelColumns<T> - 1) / kPanelColumns<T> * kPanelColumns<T>;
  const int64_t unit = kPaddedStrideUnit / sizeof(Operand<T>);
  return (padded + unit - unit / 4 - 1) / unit * unit + unit / 4;
}

// A block of a product: rows [first, end), `columns` columns from `column` on. A row of `sums` has `width` values.
template <class T>
struct Sums {
  int64_t first, end, column, columns, width;
  const Sum<T>* sums;
};

// Where the tiles write rows of sums, in whole vectors; null: into a buffer of their own.
template <class T>
struct Place {
  Sum<T>* rows = nullptr;
  int64_t stride = 0;
};

// Calls emit(sums) for each block of rows [0, rows) and columns [begin, end), which are whole panels. sums = start +
// rows * B over the factors; rows from `zero_from` on skip the last factor. start(row, rows, column, columns, width,
// sums) returns the initial sums of a block; it may write them into `sums`, whose rows have `width` values. A block
// with a place_of(row, column, columns, width) is written there and not emitted.
template <class T, class StartOf, class Emit, class PlaceOf>
RNNFUSED_INLINE void multiply(const Factor<T> (&factors)[2], int count, int64_t rows, int64_t zero_from, int64_t begin,
                              int64_t end, bool backwards, const StartOf& start, const Emit& emit,
                              const PlaceOf& place_of) {
  alignas(64) Sum<T> sums[kMaxTileVectors * kLanes<T>];
  // Blocks of even size: 16 rows run as 8 + 8, not as 14 + 2.
  const int64_t blocks = (rows + kMaxRows - 1) / kMaxRows;
  const Parts parts(rows, blocks);
  const int widest = max_vectors(blocks == 1 ? static_cast<int>(rows) : kMaxRows);
  // Whole tiles may run in reverse order, to start with the panels that are still in cache.
  const int64_t tile_columns = widest * kLanes<T>, size = end - begin;
  const int64_t whole = size / tile_columns * tile_columns;
  int vectors = widest;
  for (int64_t done = 0; done < size;) {
    while (vectors > (size - done + kLanes<T> - 1) / kLanes<T>) vectors /= 2;
    const int64_t column = begin + (backwards && done < whole ? whole - tile_columns - done : done);
    const int64_t width = vectors * kLanes<T>, columns = smaller(width, end - column);
    const auto run = [&](int64_t first, int64_t last, int factor_count) {
      if (first >= last) return;
      Factor<T> here[2];
      for (int f = 0; f < factor_count; ++f) {
        here[f] = factors[f];
        here[f].rows += first * factors[f].stride;
        here[f].packed += column * padded_depth<T>(factors[f].depth);
      }
      const Start<T> from = start(first, last - first, column, columns, width, sums);
      const auto run_tile = tile_for<T>(static_cast<int>(last - first), vectors);
      const Place<T> place = place_of(first, column, columns, width);
      if (place.rows) {
        run_tile(from, here, factor_count, place.rows, place.stride);
      } else {
        run_tile(from, here, factor_count, sums, width);
        emit(Sums<T>{first, last, column, columns, width, sums});
      }
    };
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t first = parts.begin(block), last = parts.begin(block + 1);
      const int64_t middle = zero_from < first ? first : smaller(zero_from, last);
      run(first, middle, count);
      run(middle, last, count - 1);
    }
    done += columns;
  }
}

// The same with all blocks emitted.
template <class T, class StartOf, class Emit>
RNNFUSED_INLINE void multiply(const Factor<T> (&factors)[2], int count, int64_t rows, int64_t zero_from, int64_t begin,
                              int64_t end, bool backwards, const StartOf& start, const Emit& emit) {
  multiply<T>(factors, count, rows, zero_from, begin, end, backwards, start, emit,
              [](int64_t, int64_t, int64_t, int64_t) { return Place<T>(); });
}

// Initial sums of zero.
template <class T>
struct FromZero {
  RNNFUSED_INLINE Start<T> operator()(int64_t, int64_t, int64_t, int64_t, int64_t, Sum<T>*) const { return {}; }
};

// The same initial sums for all rows: a bias, padded with zeros to whole panels; null: zeros.
template <class T>
struct FromBias {
  const Sum<T>* bias;
  RNNFUSED_INLINE Start<T> operator()(int64_t, int64_t, int64_t column, int64_t, int64_t, Sum<T>*) const {
    return {bias ? bias + column : nullptr, 0};
  }
};

// Initial sums from the row of a packed matrix that a token id selects, plus a bias.
template <class T>
struct FromTokens {
  const Operand<T>* packed;
  int64_t depth;
  const Sum<T>* bias;
  const int64_t* ids;
  int64_t stride;
  const int64_t* order;  // the row that each row is read from; null: its own
  RNNFUSED_INLINE Start<T> operator()(int64_t first, int64_t count, int64_t column, int64_t, int64_t width,
                                      Sum<T>* sums) const {
    constexpr int kTogether = kProducts<T>;
    const int64_t panel_width = smaller(width, kPanelColumns<T>);
    // The tile itself selects the rows of a table of sums.
    if constexpr (kTogether == 1) {
      if (!order && width == panel_width) {
        return {packed + column * padded_depth<T>(depth), width, ids + first * stride, stride,
                bias ? bias + column : nullptr};
      }
    }
    for (int64_t c = 0; c < width; c += kLanes<T>) {
      const int64_t panel = c / panel_width * panel_width, in_panel = c - panel;
      const Operand<T>* const columns = packed + (column + panel) * padded_depth<T>(depth) + in_panel * kTogether;
      const Vector<T> added = bias ? load(bias + column + c) : Vector<T>{};
      for (int64_t r = 0; r < count; ++r) {
        const int64_t id = ids[(order ? order[first + r] : first + r) * stride], in_pair = id % kTogether;
        const Vector<T> value = unpacked<T>(columns + (id - in_pair) * panel_width, in_pair);
        store(sums + r * width + c, value + added);
      }
    }
    return {sums, width};
  }
};

// Initial sums from rows in memory, copied first unless they are sums in whole vectors and consecutive rows.
template <class T, class Value>
struct FromRows {
  const Value* rows;
  int64_t stride;
  const int64_t* order;
  RNNFUSED_INLINE Start<T> operator()(int64_t first, int64_t count, int64_t column, int64_t columns, int64_t width,
                                      Sum<T>* sums) const {
    const Value* const from = rows + column;
    if constexpr (sizeof(Value) == sizeof(Sum<T>)) {
      if (columns == width && !order) return {from + first * stride, stride};
    }
    for (int64_t r = 0; r < count; ++r) {
      const int64_t row = order ? order[first + r] : first + r;
      copy_row(from + row * stride, sums + r * width, columns);
    }
    return {sums, width};
  }
};

}  // namespace RNNFUSED_ISA
}  // namespace rnnfused
