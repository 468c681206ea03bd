// The projection on the CPU: out = in W^T + b, in blocks of rows, with W^T packed once.
#pragma once

#include "cpu/kernels/multiply.h"
#include "cpu/kernels/pack.h"
#include "cpu/kernels/simd.h"
#include "cpu/tuning.h"
#include "params.h"

namespace rnnfused {
namespace RNNFUSED_ISA {

// The rows that take turns with one panel: few if the packed weight stays in L2, else enough to make its reading
// cheap.
template <class T>
RNNFUSED_INLINE int64_t rows_a_turn(const ProjectionParams& params) {
  return fits_l2<T>(params.in_size, params.out_size) ? kMaxRows : kTilesPerPanel * kMaxRows;
}

// Elements of a padded copy of these rows.
template <class T>
RNNFUSED_INLINE int64_t scratch_elements(const ProjectionParams& params) {
  return product_of(rows_a_turn<T>(params), padded_stride<T>(params.in_size));
}

template <class T, class Value>
void project_rows(const ProjectionParams& params, const Operand<T>* packed, const Sum<T>* packed_bias,
                  Operand<T>* scratch, int64_t begin, int64_t end) {
  const int64_t turn = rows_a_turn<T>(params);
  const int64_t turns = (end - begin + turn - 1) / turn;
  const Parts parts(end - begin, turns);
  const bool copies = kConverts<T> || aliases<T>(params.input.batch_stride);
  for (int64_t i = 0; i < turns; ++i) {
    const int64_t first = begin + parts.begin(i), rows = begin + parts.begin(i + 1) - first;
    const T* const in = static_cast<const T*>(params.input.data) + first * params.input.batch_stride;
    int64_t stride = params.input.batch_stride;
    const Operand<T>* factor_rows = scratch;
    if (copies) {
      const int64_t padded = padded_stride<T>(params.in_size);
      for (int64_t r = 0; r < rows; ++r) copy_row(in + r * stride, scratch + r * padded, params.in_size);
      stride = padded;
    } else if constexpr (!kConverts<T>) {
      factor_rows = in;
    }
    Value* const out = static_cast<Value*>(params.output.data) + first * params.output.batch_stride;
    const Factor<T> factors[2] = {{factor_rows, stride, packed, params.in_size}, {}};
    const auto copy = [&](const Sums<T>& of) {
      for (int64_t row = of.first; row < of.end; ++row) {
        copy_row(of.sums + (row - of.first) * of.width, out + row * params.output.batch_stride + of.column, of.columns);
      }
    };
    const auto place_of = [&](int64_t row, int64_t column, int64_t columns, int64_t width) -> Place<T> {
      if constexpr (sizeof(Value) == sizeof(Sum<T>)) {
        if (columns == width || params.pads)
          return {out + row * params.output.batch_stride + column, params.output.batch_stride};
      }
      return {};
    };
    multiply<T>(factors, 1, rows, rows, 0, params.out_size, false, FromBias<T>{packed_bias}, copy, place_of);
  }
}

}  // namespace RNNFUSED_ISA
}  // namespace rnnfused
