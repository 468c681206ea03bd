// The product sum on the CPU: result = sum_r left_r^T right_r, over rows r of all steps. A strip is a part of a run of
// rows, or some short runs. For each strip, a block of right columns is packed into panels, unless its rows are short
// enough to use in place. Then, for a few left columns at a time, a tile of sums runs down the strip. Strips are added
// in order, so the result does not depend on how workers share the columns.
#pragma once

#include "cpu/kernel_table.h"
#include "cpu/kernels/multiply.h"
#include "cpu/kernels/pack.h"
#include "cpu/kernels/simd.h"
#include "cpu/kernels/tile.h"
#include "cpu/tuning.h"
#include "params.h"

namespace rnnfused {
namespace RNNFUSED_ISA {

// Right columns that are packed at once.
template <class T>
constexpr int64_t kBlockColumns = kBlockRowBytes / sizeof(T);

// Whether right rows are used in place.
template <class T>
RNNFUSED_INLINE bool is_short(const ProductSumParams& params) {
  constexpr bool kMasks = RNNFUSED_VECTOR_BYTES > 16, kAsIs = kProducts<T> == 1 && !kConverts<T>;
  return kMasks && kAsIs && product_of(params.right.inner_stride, sizeof(T)) <= kShortRowBytes;
}

// The distance between rows in a copy of a few left columns, in values.
template <class T>
constexpr int kBlockStride = kLanes<T> > kMaxRows ? kLanes<T> : kMaxRows;

// Elements of the packed block of right columns; the scratch memory also holds one of left columns.
template <class T>
RNNFUSED_INLINE int64_t right_elements(const ProductSumParams& params) {
  return packed_elements<T>(kStripRows, smaller(params.right_size, kBlockColumns<T>));
}
template <class T>
RNNFUSED_INLINE int64_t scratch_elements(const ProductSumParams& params) {
  return right_elements<T>(params) + kStripRows * kBlockStride<T>;
}

// The rows of one side of a strip, in runs.
template <class Value>
struct Strip {
  const Value* rows;
  int64_t stride, run_stride;  // between rows of a run; between runs

  // Row k, in runs of run_size rows.
  RNNFUSED_INLINE const Value* row(int64_t k, int64_t run_size) const {
    return k < run_size ? rows + k * stride : rows + k / run_size * run_stride + k % run_size * stride;
  }
};

// result[r][v] += sum_k left[k][r] * right[k][v] over runs of `size` rows, for R left columns and V vectors. Only the
// first `columns` right columns exist; with kWhole, `right` may be read up to V vectors.
template <class T, int R, int V, bool kWhole>
void add_product(const Strip<Operand<T>>& left, const Strip<Operand<T>>& right, int64_t runs, int64_t size,
                 Sum<T>* result, int64_t result_stride, int64_t columns, bool first) {
  constexpr int kTogether = kProducts<T>;
  Vector<T> acc[R][V] = {};
  const int64_t left_stride = left.stride, right_stride = right.stride;
  for (int64_t run = 0; run < runs; ++run) {
    const Operand<T>* const left_rows = left.rows + run * left.run_stride;
    const Operand<T>* const right_rows = right.rows + run * right.run_stride;
    for (int64_t k = 0; k < size; k += kTogether) {
      Vector<T> w[V];
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) {
        const Operand<T>* const at = right_rows + k * right_stride + v * kTogether * kLanes<T>;
        if constexpr (kWhole) {
          w[v] = load_packed<T>(at);
        } else {
          w[v] = v < V - 1 ? load(at) : load_first(at, columns - v * kLanes<T>);
        }
      }
#pragma GCC unroll 14
      for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) {
          multiply_add<T>(acc[r][v], w[v], left_rows + k * left_stride + r * kTogether);
        }
      }
    }
  }
#pragma GCC unroll 14
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      Sum<T>* to = result + r * result_stride + v * kLanes<T>;
      const int64_t left_over = columns - v * kLanes<T>;
      if (left_over >= kLanes<T>) {
        store(to, first ? acc[r][v] : load(to) + acc[r][v]);
      } else if (left_over > 0) {
        store_first(to, first ? acc[r][v] : load_first(to, left_over) + acc[r][v], left_over);
      }
    }
  }
}

template <class T>
using AddProduct = void (*)(const Strip<Operand<T>>&, const Strip<Operand<T>>&, int64_t, int64_t, Sum<T>*, int64_t,
                            int64_t, bool);

template <class T, int R = kMaxRows>
RNNFUSED_INLINE AddProduct<T> add_product_for(int rows, int vectors, bool whole) {
  if constexpr (R > 1) {
    if (rows < R) return add_product_for<T, R - 1>(rows, vectors, whole);
  }
  if constexpr (kProducts<T> == 1 && !kConverts<T>) {
    if (!whole) return vectors == 1 ? &add_product<T, R, 1, false> : &add_product<T, R, kPanelVectors, false>;
  }
  return vectors == 1 ? &add_product<T, R, 1, true> : &add_product<T, R, kPanelVectors, true>;
}

// Copies a few columns of runs of `size` rows into one run, with the rows of one multiply-add adjacent.
template <class T>
void copy_columns(const Strip<T>& from, int64_t runs, int64_t size, int count, Operand<T>* block) {
  constexpr int kTogether = kProducts<T>;
  const int64_t rows = runs * size;
  for (int64_t k = 0; k < rows; k += kTogether) {
    Operand<T>* const to = block + k * kBlockStride<T>;
    if constexpr (kLanes<T> > kMaxRows) {
      store_packed<T>(to,
                      [&](int64_t i) { return k + i < rows ? load_first(from.row(k + i, size), count) : Vector<T>{}; });
    } else {
#pragma GCC unroll 2
      for (int i = 0; i < kTogether; ++i) {
        const bool exists = k + i < rows;
        const T* const row = exists ? from.row(k + i, size) : nullptr;
        for (int r = 0; r < count; ++r) {
          Operand<T>& value = to[r * kTogether + i];
          if (exists) {
            convert(row[r], value);
          } else {
            value = {};
          }
        }
      }
    }
  }
}

// Adds the products of a strip, in runs of `size` rows, to left columns [begin, end) and `columns` right columns from
// `column` on. The right columns are packed unless `packed` is null.
template <class T>
void add_strip(const ProductSumParams& params, const Strip<T>& left, const Strip<T>& right, int64_t runs, int64_t size,
               const Operand<T>* packed, Operand<T>* block, int64_t begin, int64_t end, int64_t column, int64_t columns,
               bool first) {
  constexpr int kTogether = kProducts<T>;
  const int64_t blocks = (end - begin + kMaxRows - 1) / kMaxRows;
  const Parts parts(end - begin, blocks);
  // Rows in pages of their own would take an entry of the TLB each, for every panel.
  const bool is_far = left.stride * static_cast<int64_t>(sizeof(T)) >= kPageBytes;
  const bool copies = kConverts<T> || kTogether > 1 || aliases<T>(left.stride) || is_far;
  const bool is_one = packed && copies;  // of the copies' rows
  const int64_t last_runs = is_one ? 1 : runs, last_size = is_one ? runs * size : size;
  for (int64_t i = 0; i < blocks; ++i) {
    const int64_t start = begin + parts.begin(i);
    const int count = static_cast<int>(begin + parts.begin(i + 1) - start);
    const Strip<T> columns_of = {left.rows + start, left.stride, left.run_stride};
    Strip<Operand<T>> factor = {block, kBlockStride<T>, size * kBlockStride<T>};
    if (copies) {
      copy_columns(columns_of, runs, size, count, block);
    } else if constexpr (!kConverts<T>) {
      factor = columns_of;
    }
    Sum<T>* const result = static_cast<Sum<T>*>(params.result) + start * params.right_size + column;
    for (int64_t c = 0; c < columns; c += kPanelColumns<T>) {
      const int vectors = panel_vectors<T>(columns, c);
      const bool whole = packed || columns - c >= vectors * kLanes<T>;
      const int64_t width = vectors * kLanes<T>;
      Strip<Operand<T>> panel = {};
      if (packed) {
        panel = {packed + c * padded_depth<T>(runs * size), width, size * width};
      } else if constexpr (!kConverts<T>) {
        panel = {right.rows + c, right.stride, right.run_stride};
      }
      add_product_for<T>(count, vectors, whole)(factor, panel, last_runs, last_size, result + c, params.right_size,
                                                columns - c, first);
    }
  }
}

// Makes left columns [begin, end) of the result.
template <class T>
void sum_products(const ProductSumParams& params, Operand<T>* scratch, int64_t begin, int64_t end) {
  Operand<T>* const block = scratch + right_elements<T>(params);
  const bool as_is = is_short<T>(params);
  // Runs of one length that are shorter than a strip are joined.
  const int64_t together = params.inner == 0 ? 1 : kStripRows / params.inner;
  for (int64_t column = 0; column < params.right_size; column += kBlockColumns<T>) {
    const int64_t columns = smaller(params.right_size - column, kBlockColumns<T>);
    bool first = !params.adds;
    const auto add = [&](int64_t start, int64_t inner, int64_t runs, int64_t size) {
      const auto strip_of = [&](const Rows& side, int64_t column) -> Strip<T> {
        const T* const data = static_cast<const T*>(side.data);
        return {data + start * side.outer_stride + inner * side.inner_stride + column, side.inner_stride,
                side.outer_stride};
      };
      const Strip<T> left = strip_of(params.left, 0), right = strip_of(params.right, column);
      if (!as_is) {
        pack_rows<T>([&](int64_t k) { return right.row(k, size); }, runs * size, columns, scratch, 0,
                     count_panels<T>(columns));
      }
      add_strip<T>(params, left, right, runs, size, as_is ? nullptr : scratch, block, begin, end, column, columns,
                   first);
      first = false;
    };
    if (together > 1) {
      const int64_t strips = (params.outer + together - 1) / together;
      const Parts parts(params.outer, strips);
      for (int64_t strip = 0; strip < strips; ++strip) {
        const int64_t run = parts.begin(strip);
        add(run, 0, parts.begin(strip + 1) - run, params.inner);
      }
    }
    for (int64_t outer = 0; together <= 1 && outer < params.outer; ++outer) {
      const int64_t strips = (params.inner + kStripRows - 1) / kStripRows;
      const Parts parts(params.inner, strips);
      for (int64_t strip = 0; strip < strips; ++strip) {
        const int64_t inner = parts.begin(strip);
        add(outer, inner, 1, parts.begin(strip + 1) - inner);
      }
    }
    if (!first) continue;
    for (int64_t i = begin; i < end; ++i) {
      Sum<T>* const result = static_cast<Sum<T>*>(params.result) + i * params.right_size + column;
      for (int64_t j = 0; j < columns; ++j) result[j] = 0;
    }
  }
}

}  // namespace RNNFUSED_ISA
}  // namespace rnnfused
