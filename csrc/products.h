// The contract of the matrix products beside the time loop: pointers, sizes, strides. No torch here.
//
//   projection     out = in W^T + b         the input projection, and the gradient that goes back through it
//   product sum    sum_r left_r^T right_r   the gradient of a weight, over all steps and rows
//   token sum      the same where right is one-hot
#pragma once

#include <utility>

#include "recurrence.h"
#include "sizes.h"

namespace rnnfused {

struct Projection {
  int64_t rows = 0;
  int64_t in_size = 0;
  int64_t out_size = 0;
  Dtype dtype = Dtype::float32;
  ConstState input;            // (rows, in_size)
  ConstMatrix weight;          // (in_size, out_size): W^T
  const void* bias = nullptr;  // (out_size) in sum_dtype, padded with zeros to whole panels, or null: zeros
  const void* other_bias = nullptr;  // before a launch, as that of Forward
  State output;                // (rows, out_size)
  bool keeps_sums = false;     // the output is of sum_dtype

  // The same for columns [begin, end) of the output, with biases that are not padded yet.
  Projection columns(int64_t begin, int64_t end) const {
    Projection part = *this;
    const int64_t bytes = bytes_of(dtype);
    part.out_size = end - begin;
    part.weight = skip(weight, begin * weight.column_stride, bytes);
    part.bias = skip(ConstState{bias}, begin, bytes).data;
    part.other_bias = skip(ConstState{other_bias}, begin, bytes).data;
    part.output = skip(output, begin, keeps_sums ? bytes_of(sum_dtype(dtype)) : bytes);
    return part;
  }
};

// (outer, inner, size) rows; element (o, i, j) lies at data[o * outer_stride + i * inner_stride + j], or with
// places[o] of the product instead of o.
struct Rows {
  const void* data = nullptr;
  int64_t outer_stride = 0;
  int64_t inner_stride = 0;
};

struct ProductSum {
  int64_t outer = 0;
  int64_t inner = 0;
  int64_t left_size = 0;
  int64_t right_size = 0;
  Dtype dtype = Dtype::float32;
  Rows left, right;
  void* result = nullptr;  // (left_size, right_size) in sum_dtype, contiguous
  bool adds = false;       // to what is there
  // Runs of different lengths: (outer) of the o-th the length and the place. A run leaves its last `left_out` rows
  // out. Null: `inner` rows each, in order.
  const int64_t* lengths = nullptr;
  const int64_t* places = nullptr;
  int64_t left_out = 0;

  int64_t length(int64_t run) const {
    return !lengths ? inner : lengths[run] > left_out ? lengths[run] - left_out : 0;
  }
  int64_t place(int64_t run) const { return places ? places[run] : run; }

  // Rows at one distance throughout are one long run.
  void join_rows() {
    if (lengths) return;
    if (inner == 1) {
      std::swap(inner, outer);
      left.inner_stride = left.outer_stride;
      right.inner_stride = right.outer_stride;
    } else if (inner > 0 && outer > 0 && left.outer_stride == inner * left.inner_stride &&
               right.outer_stride == inner * right.inner_stride) {
      inner = product_of(inner, outer);
      outer = 1;
    }
  }
};

// sum_r of left_r^T right_r where right_r is the one-hot row of an id, transposed: right_r^T left_r.
struct TokenSum {
  int64_t outer = 0;
  int64_t inner = 0;
  int64_t size = 0;
  int64_t num_tokens = 0;
  Dtype dtype = Dtype::float32;
  Rows rows;                     // of `size` values
  const int64_t* ids = nullptr;  // of the rows, placed by these strides
  int64_t ids_outer_stride = 0;
  int64_t ids_inner_stride = 0;
  void* result = nullptr;  // (num_tokens, size) in sum_dtype, contiguous
  bool adds = false;       // to what is there
};

}  // namespace rnnfused
