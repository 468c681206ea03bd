// Rows times a packed matrix, in register tiles; what is done with the sums is the caller's.
#pragma once

#include "pack.h"
#include "simd.h"
#include "tile.h"

namespace rnnfused {
namespace RNNFUSED_ISA {

// A packed matrix up to this size stays in L2 while rows take turns with it.
constexpr int64_t kResidentBytes = 640 * 1024;

template <class T>
RNNFUSED_INLINE bool fits_l2(int64_t depth, int64_t columns) {
  return packed_elements<T>(depth, columns) * static_cast<int64_t>(sizeof(T)) <= kResidentBytes;
}

// Whether rows at this distance meet in few sets of L1, as those of a power of two do.
template <class T>
RNNFUSED_INLINE bool aliases(int64_t stride) {
  return stride * static_cast<int64_t>(sizeof(T)) % 1024 == 0;
}

// Elements between rows that don't: 64 bytes mod 256.
template <class T>
RNNFUSED_INLINE int64_t padded_stride(int64_t size) {
  const int64_t padded = (size + kPanelColumns<T> - 1) / kPanelColumns<T> * kPanelColumns<T>;
  const int64_t unit = 256 / sizeof(T);
  return (padded + unit - unit / 4 - 1) / unit * unit + unit / 4;
}

// Calls emit(row, first_column, columns, sums) for every row in [0, rows) and group of the `size` columns,
// with sums = the row of state * B in these columns. Rows from `zero_from` on have a zero state: no product.
template <class T, class Emit>
RNNFUSED_INLINE void multiply(const T* state, int64_t stride, int64_t rows, int64_t zero_from,
                              const T* packed, int64_t depth, int64_t size, const Emit& emit) {
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
        tile_for<T>(count, vectors)(state + first * stride, stride, packed + column * depth,
                                  depth, sums);
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

}  // namespace RNNFUSED_ISA
}  // namespace rnnfused
