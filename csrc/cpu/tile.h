// The register tile: R rows of the state times V vectors of packed columns.
// Every output is the sum over k = 0, 1, 2, ... in that order, starting from zero, whatever the tile:
// so a row's result does not depend on how many rows it is computed with.
#pragma once

#include "pack.h"
#include "simd.h"

namespace rnnfused {
namespace RNNFUSED_ISA {

// Fewer rows take more columns, so that there are enough independent sums to hide the FMA's latency.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kMaxRows = 14;  // of 32 registers: 14 x 2 sums, 2 weights, 1 state
constexpr int max_vectors(int rows) { return rows <= 3 ? 8 : rows <= 6 ? 4 : 2; }
constexpr int kMaxTileVectors = 14 * 2;
#else
constexpr int kMaxRows = 6;  // of 16 registers: 6 x 2 sums, 2 weights, 1 state
constexpr int max_vectors(int rows) { return rows <= 1 ? 8 : rows <= 3 ? 4 : 2; }
constexpr int kMaxTileVectors = 6 * 2;
#endif

// sums[r][v] = sum_k state[r][k] * packed[k][v]; sums has V * kLanes<T> columns.
template <class T>
using TileFunction = void (*)(const T* state, int64_t state_stride, const T* packed, int64_t size,
                              T* sums);

template <class T, int R, int V>
void tile(const T* state, int64_t state_stride, const T* packed, int64_t size, T* sums) {
  constexpr int kWidth = V < kPanelVectors ? V : kPanelVectors;
  constexpr int kPanels = V / kWidth;
  const int64_t panel_stride = size * kPanelColumns<T>;
  Vector<T> acc[R][V] = {};
  for (int64_t k = 0; k < size; ++k) {
    const T* row = packed + k * kWidth * kLanes<T>;
    if constexpr (R <= 3) {
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) {
        const Vector<T> w =
            load(row + (v / kWidth) * panel_stride + (v % kWidth) * kLanes<T>);
#pragma GCC unroll 3
        for (int r = 0; r < R; ++r) acc[r][v] += w * state[r * state_stride + k];
      }
    } else {
      Vector<T> w[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        w[v] = load(row + (v / kWidth) * panel_stride + (v % kWidth) * kLanes<T>);
      }
#pragma GCC unroll 14
      for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) acc[r][v] += w[v] * state[r * state_stride + k];
      }
    }
  }
  static_assert(kPanels * kWidth == V, "a tile is one narrow panel or whole panels");
#pragma GCC unroll 14
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) store(sums + (r * V + v) * kLanes<T>, acc[r][v]);
  }
}

// The tile for this many rows and vectors; vectors is a power of two up to max_vectors(rows).
template <class T, int R = kMaxRows, int V = max_vectors(R)>
RNNFUSED_INLINE TileFunction<T> tile_for(int rows, int vectors) {
  if constexpr (R > 1) {
    if (rows < R) return tile_for<T, R - 1>(rows, vectors);
  }
  if constexpr (V > 1) {
    if (vectors < V) return tile_for<T, R, V / 2>(rows, vectors);
  }
  return &tile<T, R, V>;
}

}  // namespace RNNFUSED_ISA
}  // namespace rnnfused
