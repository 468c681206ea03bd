// A weight rearranged for the tiles, once a call: panels of 2 vectors of columns, all k of a panel adjacent.
// The columns that are left over at the end form a narrow panel of one vector if that holds them.
#pragma once

#include "recurrence.h"
#include "simd.h"

namespace rnnfused {
namespace RNNFUSED_ISA {

constexpr int kPanelVectors = 2;

template <class T>
constexpr int kPanelColumns = kPanelVectors * kLanes<T>;

template <class T>
RNNFUSED_INLINE int64_t count_panels(int64_t columns) {
  return (columns + kPanelColumns<T> - 1) / kPanelColumns<T>;
}

// Vectors in the panel that starts at this column: 2, or 1 in a narrow last panel.
template <class T>
RNNFUSED_INLINE int panel_vectors(int64_t columns, int64_t first_column) {
  return columns - first_column > kLanes<T> ? kPanelVectors : 1;
}

// Elements of a packed matrix of `depth` rows.
template <class T>
RNNFUSED_INLINE int64_t packed_elements(int64_t depth, int64_t columns) {
  return count_panels<T>(columns) * kPanelColumns<T> * depth;
}

// Packs panels [begin, end) of a (depth, columns) matrix. Columns past the end are zeros.
template <class T>
void pack_panels(const ConstMatrix& matrix, int64_t depth, int64_t columns, T* packed, int64_t begin,
                 int64_t end) {
  const T* data = static_cast<const T*>(matrix.data);
  for (int64_t panel = begin; panel < end; ++panel) {
    const int64_t first = panel * kPanelColumns<T>;
    const int width = panel_vectors<T>(columns, first) * kLanes<T>;
    const int used = static_cast<int>(columns - first < width ? columns - first : width);
    T* to = packed + first * depth;
    // Strips of k keep the lines of every column in L1 when the columns are the strided way.
    constexpr int64_t kStrip = 16;
    for (int64_t k0 = 0; k0 < depth; k0 += kStrip) {
      const int64_t k1 = k0 + kStrip < depth ? k0 + kStrip : depth;
      for (int c = 0; c < used; ++c) {
        const T* from = data + (first + c) * matrix.column_stride;
        for (int64_t k = k0; k < k1; ++k) to[k * width + c] = from[k * matrix.row_stride];
      }
      for (int c = used; c < width; ++c) {
        for (int64_t k = k0; k < k1; ++k) to[k * width + c] = T(0);
      }
    }
  }
}

}  // namespace RNNFUSED_ISA
}  // namespace rnnfused
