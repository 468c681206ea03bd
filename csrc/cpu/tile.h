// The register tile: R rows times V vectors of packed columns.
// Every output is its initial value, plus the sum over k = 0, 1, 2, ... of the first factor in that order, plus
// that of the second, whatever the tile: so a row's result does not depend on the rows it is computed with.
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

// Rows, and the packed columns that they are multiplied with.
template <class T>
struct Factor {
  const T* rows;
  int64_t stride;
  const T* packed;
  int64_t depth;
};

// sums[r][v] = start[r][v] + sum_k rows[r][k] * packed[k][v] of each factor; start may be null, for zeros, or
// sums itself. sums has V * kLanes<T> columns.
template <class T>
using TileFunction = void (*)(const T* start, int64_t start_stride, const Factor<T>* factors, int count,
                              T* sums);

template <class T, int R, int V>
void tile(const T* start, int64_t start_stride, const Factor<T>* factors, int count, T* sums) {
  constexpr int kWidth = V < kPanelVectors ? V : kPanelVectors;
  static_assert(V % kWidth == 0, "a tile is one narrow panel or whole panels");
  Vector<T> acc[R][V] = {};
  if (start) {
#pragma GCC unroll 14
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) acc[r][v] = load(start + r * start_stride + v * kLanes<T>);
    }
  }
  for (int f = 0; f < count; ++f) {
    const T* const rows = factors[f].rows;
    const T* const packed = factors[f].packed;
    const int64_t stride = factors[f].stride, depth = factors[f].depth;
    const int64_t panel_stride = depth * kPanelColumns<T>;
    for (int64_t k = 0; k < depth; ++k) {
      const T* row = packed + k * kWidth * kLanes<T>;
      if constexpr (R <= 3) {
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) {
          const Vector<T> w = load(row + (v / kWidth) * panel_stride + (v % kWidth) * kLanes<T>);
#pragma GCC unroll 3
          for (int r = 0; r < R; ++r) acc[r][v] += w * rows[r * stride + k];
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
          for (int v = 0; v < V; ++v) acc[r][v] += w[v] * rows[r * stride + k];
        }
      }
    }
  }
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
