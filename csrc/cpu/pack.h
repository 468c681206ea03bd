// W_hh rearranged for the tiles, once a call: panels of 2 vectors of columns, all k of a panel adjacent.
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

template <class T>
RNNFUSED_INLINE int64_t packed_elements(int64_t hidden_size) {
  return count_panels<T>(hidden_size) * kPanelColumns<T> * hidden_size;
}

// Packs panels [begin, end) of B, where the loop computes (row of state) * B:
// B = W^T forward (transposed), B = W backward. Columns past the end are zeros.
template <class T>
void pack_panels(const Recurrence& call, bool transposed, T* packed, int64_t begin, int64_t end) {
  const int64_t size = call.hidden_size;
  const T* weight = static_cast<const T*>(call.weight_hh.data);
  const int64_t k_stride = transposed ? call.weight_hh.column_stride : call.weight_hh.row_stride;
  const int64_t c_stride = transposed ? call.weight_hh.row_stride : call.weight_hh.column_stride;
  for (int64_t panel = begin; panel < end; ++panel) {
    const int64_t first = panel * kPanelColumns<T>;
    const int width = panel_vectors<T>(size, first) * kLanes<T>;
    const int used = static_cast<int>(size - first < width ? size - first : width);
    T* to = packed + first * size;
    // Strips of k keep the lines of every column in L1 when the columns are the strided way.
    constexpr int64_t kStrip = 16;
    for (int64_t k0 = 0; k0 < size; k0 += kStrip) {
      const int64_t k1 = k0 + kStrip < size ? k0 + kStrip : size;
      for (int c = 0; c < used; ++c) {
        const T* from = weight + (first + c) * c_stride;
        for (int64_t k = k0; k < k1; ++k) to[k * width + c] = from[k * k_stride];
      }
      for (int c = used; c < width; ++c) {
        for (int64_t k = k0; k < k1; ++k) to[k * width + c] = T(0);
      }
    }
  }
}

}  // namespace RNNFUSED_ISA
}  // namespace rnnfused
