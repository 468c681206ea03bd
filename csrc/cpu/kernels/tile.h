// The register tile: R rows times V vectors of packed columns.
// Every output is its initial value, plus the sum over k = 0, 1, 2, ... of the first factor in that order, plus the
// sum of the second, in every tile. So a row's result does not depend on the rows that share its tile.
#pragma once

#include "cpu/kernels/operand.h"
#include "cpu/kernels/pack.h"
#include "cpu/kernels/simd.h"
#include "cpu/tuning.h"

namespace rnnfused {
namespace RNNFUSED_ISA {

// Tiles of fewer rows have more columns: enough independent sums to hide the latency of a multiply-add. ARM's cores have
// up to 4 units for them, and a latency of 4 cycles; those of x86 have 2 units.
#if RNNFUSED_REGISTERS == 32
#if defined(RNNFUSED_NEON)
constexpr int kRowVectors = 16;
#else
constexpr int kRowVectors = 8;
#endif
constexpr int kMaxRows = kWideTileRows;
constexpr int max_vectors(int rows) { return rows <= 1 ? kRowVectors : rows <= 3 ? 8 : rows <= 6 ? 4 : 2; }
#else
constexpr int kMaxRows = kNarrowTileRows;
constexpr int max_vectors(int rows) { return rows <= 1 ? 8 : rows <= 3 ? 4 : 2; }
#endif
constexpr int kMaxTileVectors = kMaxRows * 2;

// Rows and the packed columns to multiply them with.
template <class T>
struct Factor {
  const Operand<T>* rows;
  int64_t stride;
  const Operand<T>* packed;
  int64_t depth;
};

// The initial sums of a tile: row r of `rows`, or row index[r] of a table plus `added`; by default zeros.
template <class T>
struct Start {
  const Sum<T>* rows = nullptr;
  int64_t stride = 0;
  const int64_t* index = nullptr;
  int64_t index_stride = 0;
  const Sum<T>* added = nullptr;  // only for a table; null: zeros
};

// sums[r][v] = start[r][v] + sum_k rows[r][k] * packed[k][v] over both factors. `sums` may hold the initial sums; its
// rows are `stride` values apart.
template <class T>
using TileFunction = void (*)(const Start<T>& start, const Factor<T>* factors, int count, Sum<T>* sums, int64_t stride);

template <class T, int R, int V>
void tile(const Start<T>& start, const Factor<T>* factors, int count, Sum<T>* sums, int64_t stride) {
  constexpr int kWidth = V < kPanelVectors ? V : kPanelVectors;
  static_assert(V % kWidth == 0, "a tile is one narrow panel or whole panels");
  Vector<T> acc[R][V] = {};
  if (start.index) {
    Vector<T> added[V] = {};
    for (int v = 0; start.added && v < V; ++v) added[v] = load(start.added + v * kLanes<T>);
#pragma GCC unroll 14
    for (int r = 0; r < R; ++r) {
      const Sum<T>* const row = start.rows + start.index[r * start.index_stride] * start.stride;
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) acc[r][v] = load(row + v * kLanes<T>) + added[v];
    }
  } else if (start.rows) {
#pragma GCC unroll 14
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) acc[r][v] = load(start.rows + r * start.stride + v * kLanes<T>);
    }
  }
  // Every fifth row has its address in a register; the others are addressed relative to it.
  constexpr int kReach = kRowsPerBase, kBases = (R + kReach - 1) / kReach;
  // One multiply-add per sum: the rows' values at `bases` times the packed values at `columns`.
  const auto add = [&](const Operand<T>* const* bases, int64_t row_stride, const Operand<T>* columns,
                       int64_t panel_stride) __attribute__((always_inline)) {
    const auto column_vector = [&](int v) __attribute__((always_inline)) {
      const int64_t panel = v / kWidth, in_panel = v % kWidth;
      return load_packed<T>(columns + panel * panel_stride + in_panel * kLanes<T> * kProducts<T>);
    };
    if constexpr (R <= 3) {
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) {
        const Vector<T> w = column_vector(v);
#pragma GCC unroll 3
        for (int r = 0; r < R; ++r) multiply_add<T>(acc[r][v], w, bases[r / kReach] + r % kReach * row_stride);
      }
    } else {
      Vector<T> w[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) w[v] = column_vector(v);
#pragma GCC unroll 14
      for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) multiply_add<T>(acc[r][v], w[v], bases[r / kReach] + r % kReach * row_stride);
      }
    }
  };
  for (int f = 0; f < count; ++f) {
    const Operand<T>* const rows = factors[f].rows;
    const Operand<T>* const packed = factors[f].packed;
    const int64_t row_stride = factors[f].stride, depth = factors[f].depth;
    const int64_t panel_stride = padded_depth<T>(depth) * kPanelColumns<T>;
    const Operand<T>* bases[kBases];
    for (int i = 0; i < kBases; ++i) {
      bases[i] = rows + i * kReach * row_stride;
      __asm__("" : "+r"(bases[i]));  // otherwise the compiler derives all addresses from one base
    }
    int64_t k = 0;
    if constexpr (R <= 3) {  // so few multiply-adds that loop overhead matters
#pragma GCC unroll 2
      for (; k + kProducts<T> <= depth; k += kProducts<T>) {
        add(bases, row_stride, packed + k * kWidth * kLanes<T>, panel_stride);
        bases[0] += kProducts<T>;
      }
    } else {
      for (; k + kProducts<T> <= depth; k += kProducts<T>) {
        add(bases, row_stride, packed + k * kWidth * kLanes<T>, panel_stride);
        for (int i = 0; i < kBases; ++i) bases[i] += kProducts<T>;
      }
    }
    if constexpr (kProducts<T> > 1) {
      if (k < depth) {  // reading past a row's end could fault
        Operand<T> last[R][kProducts<T>] = {};
        for (int r = 0; r < R; ++r) last[r][0] = rows[r * row_stride + k];
        const Operand<T>* last_bases[kBases];
        for (int i = 0; i < kBases; ++i) last_bases[i] = last[i * kReach];
        add(last_bases, kProducts<T>, packed + k * kWidth * kLanes<T>, panel_stride);
      }
    }
  }
#pragma GCC unroll 14
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) store(sums + r * stride + v * kLanes<T>, acc[r][v]);
  }
}

template <class T, int R, int V = max_vectors(R)>
RNNFUSED_INLINE TileFunction<T> tile_of_rows(int vectors) {
  if constexpr (V > 1) {
    if (vectors < V) return tile_of_rows<T, R, V / 2>(vectors);
  }
  return &tile<T, R, V>;
}

// The tile for this many rows and vectors; vectors is a power of two up to max_vectors(rows). One search after the
// other: within each other, their inlined code would double with every row.
template <class T, int R = kMaxRows>
RNNFUSED_INLINE TileFunction<T> tile_for(int rows, int vectors) {
  if constexpr (R > 1) {
    if (rows < R) return tile_for<T, R - 1>(rows, vectors);
  }
  return tile_of_rows<T, R>(vectors);
}

}  // namespace RNNFUSED_ISA
}  // namespace rnnfused
