// The token sum on CPU: every row is added to the row of its id.
#pragma once

#include "products.h"
#include "simd.h"

namespace rnnfused {
namespace RNNFUSED_ISA {

// Columns [begin, end) of the result.
template <class T>
void sum_tokens(const TokenSum& call, int64_t begin, int64_t end) {
  Sum<T>* const result = static_cast<Sum<T>*>(call.result);
  if (!call.adds) {
    for (int64_t token = 0; token < call.num_tokens; ++token) {
      for (int64_t j = begin; j < end; ++j) result[token * call.size + j] = 0;
    }
  }
  for (int64_t outer = 0; call.inner > 0 && outer < call.outer; ++outer) {
    const T* row = static_cast<const T*>(call.rows.data) + outer * call.rows.outer_stride;
    const int64_t* id = call.ids + outer * call.ids_outer_stride;
    for (int64_t inner = 0; inner < call.inner; ++inner) {
      Sum<T>* const to = result + *id * call.size;
      add_row(row + begin, to + begin, end - begin);
      row += call.rows.inner_stride;
      id += call.ids_inner_stride;
    }
  }
}

}  // namespace RNNFUSED_ISA
}  // namespace rnnfused
