// Turns the tensors of matrix products and layers into parameters: pointers, sizes, strides.
#pragma once

#include <algorithm>
#include <cstring>
#include <tuple>
#include <utility>

#include "layer_gradients.h"
#include "params.h"
#include "torch/backward_tensors.h"

namespace rnnfused {

// The data of a bias of `size` values; null without a bias.
inline const void* bias_data(const OptionalTensor& bias, const Tensor& model, int64_t size) {
  if (!bias) return nullptr;
  check_like(*bias, model, "bias");
  check_features(*bias, "bias");
  RNNFUSED_CHECK(bias->dim() == 1 && bias->size(0) == size, "bias must have a value for every output");
  return data_of(*bias, "bias");
}

// The result and parameters of the op `project`, for an input (rows, in), weight (out, in) and bias (out).
struct ProjectionTensors {
  Tensor output;
  ProjectionParams params;

  ProjectionTensors(const Tensor& input, const Tensor& weight, const OptionalTensor& bias)
      : output(new_tensor(input, {input.size(0), weight.size(0)})) {
    check_like(weight, input, "weight");
    check_features(input, "input");
    RNNFUSED_CHECK(input.dim() == 2 && weight.dim() == 2 && weight.size(1) == input.size(1),
                   "input must be (rows, in) and weight (out, in)");
    params.bias_ih = bias_data(bias, input, weight.size(0));
    params.rows = input.size(0);
    params.in_size = input.size(1);
    params.out_size = weight.size(0);
    params.dtype = dtype_of(input);
    params.input = {data_of(input, "input"), input.stride(0)};
    params.weight = {data_of(weight, "weight"), weight.stride(1), weight.stride(0)};
    params.output = {output.mutable_data_ptr(), params.out_size};
  }
};

// The result and parameters of the op `sum_of_products`, for (outer, inner, left) and (outer, inner, right).
struct ProductSumTensors {
  Tensor result;
  ProductSumParams params;

  ProductSumTensors(const Tensor& left, const Tensor& right) : result(new_tensor(left, {left.size(2), right.size(2)})) {
    check_like(right, left, "right");
    check_features(left, "left");
    check_features(right, "right");
    RNNFUSED_CHECK(
        left.dim() == 3 && right.dim() == 3 && left.size(0) == right.size(0) && left.size(1) == right.size(1),
        "left and right must be (outer, inner, features) with the same rows");
    params.outer = left.size(0);
    params.inner = left.size(1);
    params.left_size = left.size(2);
    params.right_size = right.size(2);
    params.dtype = dtype_of(left);
    params.left = {data_of(left, "left"), left.stride(0), left.stride(1)};
    params.right = {data_of(right, "right"), right.stride(0), right.stride(1)};
    params.result = result.mutable_data_ptr();
    params.join_rows();
  }
};

inline bool is_ids(const Tensor& input) { return is_int64(input); }

inline void check_weight_ih(const Tensor& weight_ih, const Tensor& weight_hh, const Tensor& input) {
  check_like(weight_ih, weight_hh, "weight_ih");
  RNNFUSED_CHECK(weight_ih.dim() == 2 && weight_ih.size(0) == hidden_size_of(weight_hh) &&
                     (is_ids(input) || weight_ih.size(1) == input.size(input.dim() - 1)),
                 "weight_ih must be (hidden, features)");
}

// The view of token ids. It validates them, because an id outside the vocabulary would be an access out of bounds.
inline ConstIds ids_of(const Problem& problem, const Tensor& ids, int64_t num_tokens) {
  const int64_t* const data = int64_data_of(ids, "input");
  const ConstIds rows = problem.rows_of(ids, data);
  const bool is_flat = problem.is_flat();
  int64_t outer = is_flat ? problem.num_rows : problem.num_steps, outer_stride = rows.time_stride;
  int64_t inner = is_flat ? 1 : problem.batch_size, inner_stride = rows.batch_stride;
  if (inner == 1 || rows.is_batch_first()) {
    std::swap(outer, inner);
    std::swap(outer_stride, inner_stride);
  }
  if (problem.hidden_size == 0) return rows;  // nothing reads the ids
  // An id outside the vocabulary sets the highest bit. Unlike comparisons, this vectorizes on every x86-64.
  uint64_t wrong = 0;
  const uint64_t last = num_tokens - 1;
  const auto check_ids = [&](const int64_t* ids, int64_t stride) {
    for (int64_t i = 0; i < inner; ++i) {
      const uint64_t id = ids[i * stride];
      wrong |= id | (last - id);
    }
  };
  for (int64_t i = 0; inner > 0 && i < outer; ++i) {
    const int64_t* const inner_ids = data + i * outer_stride;
    inner_stride == 1 ? check_ids(inner_ids, 1) : check_ids(inner_ids, inner_stride);
  }
  RNNFUSED_CHECK(wrong >> 63 == 0, "a token id is outside the vocabulary");
  return rows;
}

// Sets the input of a layer, features or token ids, and its weight in the parameters of either direction.
template <class Params>
void take_input(const Problem& problem, const Tensor& input, const Tensor& weight_ih, const Tensor& weight_hh,
                Params& params) {
  check_weight_ih(weight_ih, weight_hh, input);
  params.input_size = weight_ih.size(1);
  if (is_ids(input)) {
    params.ids = ids_of(problem, input, params.input_size);
  } else {
    check_like(input, weight_hh, "input");
    params.input = problem.view<const void*>(input, data_of(input, "input"), "input");
  }
  params.weight_ih = {data_of(weight_ih, "weight_ih"), weight_ih.stride(0), weight_ih.stride(1)};
}

// Tensors that receive a layer's results; null: the layer makes its own.
struct LayerResults {
  OptionalTensor output, h_n;
};

// The results and parameters of the op `layer`. Without weight_ih the input is the projections.
struct LayerTensors {
  Problem problem;
  Tensor output, h_n;
  ForwardParams params;

  LayerTensors(const Tensor& input, const OptionalTensor& weight_ih, const Tensor& weight_hh,
               const OptionalTensor& bias_ih, const OptionalTensor& bias_hh, const OptionalTensor& h_0,
               const Extents& extents, int64_t time_dim, int64_t nonlinearity, bool reverse,
               const LayerResults& results = {})
      : problem(input, extents, time_dim, hidden_size_of(weight_hh), weight_ih && is_ids(input)),
        output(results.output ? *results.output
               : weight_ih    ? new_tensor(weight_hh, problem.sequence_sizes(problem.hidden_size))
                              : new_sequence(input)),
        h_n(results.h_n ? *results.h_n : new_tensor(weight_hh, problem.state_sizes())) {
    if (weight_ih) {
      take_input(problem, input, *weight_ih, weight_hh, params);
      params.bias_ih = bias_data(bias_ih, weight_hh, problem.hidden_size);
      params.bias_hh = bias_data(bias_hh, weight_hh, problem.hidden_size);
    } else {
      RNNFUSED_CHECK(!bias_ih && !bias_hh, "biases are for an input with weight_ih");
      RNNFUSED_CHECK(last_size(input) == problem.hidden_size,
                     "weight_hh must be for the hidden units of the projections");
      check_like(input, weight_hh, "projections");
      params.projections = problem.view<const void*>(input, data_of(input, "input"), "projections");
    }
    params.h_0 = problem.state(h_0, weight_hh, "h_0");
    params.output = problem.view<void*>(output, output.mutable_data_ptr(), "output");
    params.h_n = {h_n.mutable_data_ptr(), problem.hidden_size};
    problem.read_extents();
    problem.fill(params, weight_hh, weight_hh, nonlinearity, reverse);
    problem.clear_past_ends(params.output, problem.hidden_size, bytes_of(params.dtype));
    problem.pass_states(params.h_0, params.h_n, bytes_of(params.dtype));
  }
};

// The results and parameters of the op `layer_backward`. Unwanted results are empty. Without weight_ih the gradient of
// the input is that of the projections.
struct LayerBackwardTensors {
  BackwardTensors loop;
  Tensor grad_input, grad_weight_ih, grad_weight_hh, grad_bias;
  LayerBackwardParams params;
  const bool has_work;  // else no kernel runs

  LayerBackwardTensors(const OptionalTensor& grad_output, const OptionalTensor& grad_h_n, const Tensor& output,
                       const OptionalTensor& input, const OptionalTensor& weight_ih, const Tensor& weight_hh,
                       const OptionalTensor& h_0, const Extents& extents, int64_t time_dim, int64_t nonlinearity,
                       bool reverse, std::optional<double> clip, bool needs_input, bool needs_weight_ih,
                       bool needs_weight_hh, bool needs_bias, bool needs_h_0)
      : loop(grad_output, grad_h_n, output, weight_hh, extents, time_dim, nonlinearity, reverse, clip, needs_h_0,
             needs_d(extents, weight_ih, weight_hh)),
        grad_input(!weight_ih && needs_input
                       ? loop.grad_projections
                       : wanted(needs_input, output,
                                loop.problem.sequence_sizes(needs_input && input ? last_size(*input) : 0))),
        grad_weight_ih(wanted(needs_weight_ih, output, weight_ih_sizes(needs_weight_ih, input, weight_ih))),
        grad_weight_hh(wanted(needs_weight_hh, output, weight_hh.sizes())),
        grad_bias(wanted(needs_bias, output, {hidden()})),
        has_work(hidden() > 0 && (needs_input || needs_weight_ih || needs_weight_hh || needs_bias || needs_h_0)) {
    const Problem& problem = loop.problem;
    RNNFUSED_CHECK(input.has_value() >= weight_ih.has_value(), "weight_ih needs the input");
    params.loop = loop.params;
    params.in_parts = !needs_d(extents, weight_ih, weight_hh);
    if (weight_ih) {
      check_saved_input(*input, output, needs_input);
      take_input(problem, *input, *weight_ih, weight_hh, params);
    }
    RNNFUSED_CHECK(weight_ih || !needs_bias, "biases are for an input with weight_ih");
    params.h_0 = problem.state(h_0, output, "h_0");
    const auto pointer = [](bool needed, const Tensor& tensor) { return needed ? tensor.mutable_data_ptr() : nullptr; };
    params.gradients = {pointer(needs_weight_ih, grad_weight_ih),
                        pointer(needs_weight_hh, grad_weight_hh),
                        pointer(needs_bias, grad_bias),
                        {}};
    if (needs_input && weight_ih) {
      params.gradients.input = problem.view<void*>(grad_input, grad_input.mutable_data_ptr(), "grad_input");
      problem.clear_past_ends(params.gradients.input, params.input_size, params.item_bytes());
      const int64_t grad_bytes = grad_input.numel() * params.item_bytes();
      if (hidden() == 0 && grad_bytes > 0) std::memset(grad_input.mutable_data_ptr(), 0, grad_bytes);
    }
  }

 private:
  int64_t hidden() const { return loop.problem.hidden_size; }

  // Whether all of d must have memory at once.
  static bool needs_d(const Extents& extents, const OptionalTensor& weight_ih, const Tensor& weight_hh) {
    const bool is_ragged = extents.batch_sizes || extents.lengths;
    return !weight_ih || (weight_hh.dim() == 3 && !is_ragged);
  }

  static void check_saved_input(const Tensor& input, const Tensor& output, bool needs_input) {
    const bool ids = is_ids(input);
    RNNFUSED_CHECK(input.dim() + ids == output.dim() &&
                       std::equal(input.sizes().begin(), input.sizes().end() - !ids, output.sizes().begin()),
                   "input must have the rows of output");
    RNNFUSED_CHECK(!ids || !needs_input, "token ids have no gradient");
  }

  Shape weight_ih_sizes(bool needed, const OptionalTensor& input, const OptionalTensor& weight_ih) const {
    if (!needed) return {{0}, 1};
    RNNFUSED_CHECK(weight_ih && input && weight_ih->dim() == 2, "weight_ih must be (hidden, features)");
    return {{hidden(), weight_ih->size(1)}, 2};
  }
  static Tensor wanted(bool needed, const Tensor& model, Sizes sizes) {
    return needed ? new_tensor(model, sizes) : new_tensor(model, {0});
  }
};

// A layer's gradients, in this order: input, W_ih, W_hh, bias, h_0.
using LayerGrads = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

inline LayerGrads gradients_of(const LayerBackwardTensors& tensors) {
  return {tensors.grad_input, tensors.grad_weight_ih, tensors.grad_weight_hh, tensors.grad_bias, tensors.loop.grad_h_0};
}

}  // namespace rnnfused
