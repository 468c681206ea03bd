// The projection on CPU: out = in W^T + b, rows in blocks, W^T packed once.
#pragma once

#include "multiply.h"
#include "pack.h"
#include "products.h"
#include "simd.h"

namespace rnnfused {
namespace RNNFUSED_ISA {

// Rows that take turns with one panel: few where the packed weight stays in L2, else so many that reading
// it costs little beside the work.
template <class T>
RNNFUSED_INLINE int64_t rows_a_turn(const Projection& call) {
  return fits_l2<T>(call.in_size, call.out_size) ? kMaxRows : 8 * kMaxRows;
}

// A padded copy of the rows that take a turn.
template <class T>
RNNFUSED_INLINE int64_t scratch_elements(const Projection& call) {
  return product_of(rows_a_turn<T>(call), padded_stride<T>(call.in_size));
}

template <class T, class Value>
void project_rows(const Projection& call, const Operand<T>* packed, Operand<T>* scratch, int64_t begin,
                  int64_t end) {
  const int64_t turn = rows_a_turn<T>(call);
  const int64_t turns = (end - begin + turn - 1) / turn;
  const Parts parts(end - begin, turns);
  const bool copies = kConverts<T> || aliases<T>(call.input.batch_stride);
  for (int64_t i = 0; i < turns; ++i) {
    const int64_t first = begin + parts.begin(i), rows = begin + parts.begin(i + 1) - first;
    const T* const in = static_cast<const T*>(call.input.data) + first * call.input.batch_stride;
    int64_t stride = call.input.batch_stride;
    const Operand<T>* factor_rows = scratch;
    if (copies) {
      const int64_t padded = padded_stride<T>(call.in_size);
      for (int64_t r = 0; r < rows; ++r) copy_row(in + r * stride, scratch + r * padded, call.in_size);
      stride = padded;
    } else if constexpr (!kConverts<T>) {
      factor_rows = in;
    }
    Value* const out = static_cast<Value*>(call.output.data) + first * call.output.batch_stride;
    const Factor<T> factors[2] = {{factor_rows, stride, packed, call.in_size}, {}};
    multiply<T>(factors, 1, rows, rows, 0, call.out_size, false, FromBias<T>{static_cast<const Sum<T>*>(call.bias)},
                [&](const Sums<T>& of) {
                  for (int64_t row = of.first; row < of.end; ++row) {
                    copy_row(of.sums + (row - of.first) * of.width,
                             out + row * call.output.batch_stride + of.column, of.columns);
                  }
                });
  }
}

}  // namespace RNNFUSED_ISA
}  // namespace rnnfused
