// The token sum on the CPU: adds every row to the result's row of its id.
#pragma once

#include "cpu/kernels/simd.h"
#include "params.h"

namespace rnnfused {
namespace RNNFUSED_ISA {

// Makes columns [begin, end) of the result.
template <class T>
void sum_tokens(const TokenSumParams& params, int64_t begin, int64_t end) {
  Sum<T>* const result = static_cast<Sum<T>*>(params.result);
  if (!params.adds) {
    for (int64_t token = 0; token < params.num_tokens; ++token) {
      for (int64_t j = begin; j < end; ++j) result[token * params.size + j] = 0;
    }
  }
  for (int64_t outer = 0; params.inner > 0 && outer < params.outer; ++outer) {
    const T* row = static_cast<const T*>(params.rows.data) + outer * params.rows.outer_stride;
    const int64_t* id = params.ids + outer * params.ids_outer_stride;
    for (int64_t inner = 0; inner < params.inner; ++inner) {
      Sum<T>* const to = result + *id * params.size;
      add_row(row + begin, to + begin, end - begin);
      row += params.rows.inner_stride;
      id += params.ids_inner_stride;
    }
  }
}

}  // namespace RNNFUSED_ISA
}  // namespace rnnfused
