// The token sum on the CPU: adds every row to the result's row of its id, or to its column.
#pragma once

#include "cpu/kernels/simd.h"
#include "cpu/tuning.h"
#include "params.h"

namespace rnnfused {
namespace RNNFUSED_ISA {

// Calls add(row, id) for every row.
template <class T, class Add>
void for_each_id(const TokenSumParams& params, const Add& add) {
  for (int64_t outer = 0; params.inner > 0 && outer < params.outer; ++outer) {
    const T* row = static_cast<const T*>(params.rows.data) + outer * params.rows.outer_stride;
    const int64_t* id = params.ids + outer * params.ids_outer_stride;
    for (int64_t inner = 0; inner < params.inner; ++inner) {
      add(row, *id);
      row += params.rows.inner_stride;
      id += params.ids_inner_stride;
    }
  }
}

// Makes columns [begin, end) of the rows' sums.
template <class T>
void sum_tokens(const TokenSumParams& params, int64_t begin, int64_t end) {
  Sum<T>* const result = static_cast<Sum<T>*>(params.result);
  if (!params.adds) {
    for (int64_t token = 0; token < params.num_tokens; ++token) {
      for (int64_t j = begin; j < end; ++j) result[token * params.size + j] = 0;
    }
  }
  for_each_id<T>(
      params, [&](const T* row, int64_t id) { add_row(row + begin, result + id * params.size + begin, end - begin); });
}

// Makes rows [begin, end) of the transposed sums.
template <class T>
void sum_tokens_transposed(const TokenSumParams& params, int64_t begin, int64_t end) {
  const int64_t tokens = params.num_tokens;
  Sum<T>* const result = static_cast<Sum<T>*>(params.result);
  if (!params.adds) {
    for (int64_t i = begin * tokens; i < end * tokens; ++i) result[i] = 0;
  }
  for_each_id<T>(params, [&](const T* row, int64_t id) {
    for (int64_t first = begin; first < end; first += kTokenSumColumns) {
      const int64_t n = end - first < kTokenSumColumns ? end - first : kTokenSumColumns;
      Sum<T> values[kTokenSumColumns] = {};
      add_row(row + first, values, n);
      for (int64_t j = 0; j < n; ++j) result[(first + j) * tokens + id] += values[j];
    }
  });
}

}  // namespace RNNFUSED_ISA
}  // namespace rnnfused
