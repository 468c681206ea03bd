// Tensors as the pointers, sizes and strides of a matrix product; as tensors.h does for the time loop.
#pragma once

#include <utility>

#include "products.h"
#include "tensors.h"

namespace rnnfused {

// The arguments of the op `project`, (rows, in) and (out, in) and (out), its result and its call.
struct ProjectionTensors {
  Tensor output;
  Projection call;

  ProjectionTensors(const Tensor& input, const Tensor& weight, const OptionalTensor& bias)
      : output(torch::stable::new_empty(input, {input.size(0), weight.size(0)})) {
    check_like(weight, input, "weight");
    check_features(input, "input");
    RNNFUSED_CHECK(input.dim() == 2 && weight.dim() == 2 && weight.size(1) == input.size(1),
                   "input must be (rows, in) and weight (out, in)");
    if (bias) {
      check_like(*bias, input, "bias");
      check_features(*bias, "bias");
      RNNFUSED_CHECK(bias->dim() == 1 && bias->size(0) == weight.size(0), "bias must be (out)");
      call.bias = bias->const_data_ptr();
    }
    call.rows = input.size(0);
    call.in_size = input.size(1);
    call.out_size = weight.size(0);
    call.dtype = dtype_of(input);
    call.input = {input.const_data_ptr(), input.stride(0)};
    call.weight = {weight.const_data_ptr(), weight.stride(1), weight.stride(0)};
    call.output = {output.mutable_data_ptr(), call.out_size};
  }
};

// The arguments of the op `sum_of_products`, (outer, inner, left) and (outer, inner, right), and its result.
struct ProductSumTensors {
  Tensor result;
  ProductSum call;

  ProductSumTensors(const Tensor& left, const Tensor& right)
      : result(torch::stable::new_empty(left, {left.size(2), right.size(2)})) {
    check_like(right, left, "right");
    check_features(left, "left");
    check_features(right, "right");
    RNNFUSED_CHECK(left.dim() == 3 && right.dim() == 3 && left.size(0) == right.size(0) &&
                       left.size(1) == right.size(1),
                   "left and right must be (outer, inner, features) with the same rows");
    call.outer = left.size(0);
    call.inner = left.size(1);
    call.left_size = left.size(2);
    call.right_size = right.size(2);
    call.dtype = dtype_of(left);
    call.left = {left.const_data_ptr(), left.stride(0), left.stride(1)};
    call.right = {right.const_data_ptr(), right.stride(0), right.stride(1)};
    call.result = result.mutable_data_ptr();
    // Rows at one distance throughout are one long run.
    if (call.inner == 1) {
      std::swap(call.inner, call.outer);
      call.left.inner_stride = call.left.outer_stride;
      call.right.inner_stride = call.right.outer_stride;
    } else if (call.left.outer_stride == call.inner * call.left.inner_stride &&
        call.right.outer_stride == call.inner * call.right.inner_stride) {
      call.inner *= call.outer;
      call.outer = 1;
    }
  }
};

}  // namespace rnnfused
