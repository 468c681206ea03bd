// The ops of a layer in both directions: each direction's tensors are parts of the layer's.
#pragma once

#include <optional>
#include <tuple>

#include "cpu/both_directions.h"
#include "torch/layer_tensors.h"
#include "torch/threads.h"

namespace rnnfused {

// The part of a sequence (.., 2 hidden) that belongs to a direction, 0 or 1.
inline OptionalTensor sequence_of(OptionalTensor sequence, int64_t direction, int64_t hidden_size, const char* name) {
  if (!sequence) return {};
  check_storage(*sequence, name);
  RNNFUSED_CHECK(last_size(*sequence) == product_of(2, hidden_size),
                 "a sequence of both directions must have 2 hidden features");
  return torch::stable::narrow(*sequence, sequence->dim() - 1, direction * hidden_size, hidden_size);
}

// The part of states (2, ..) that belongs to a direction, as (1, ..).
inline OptionalTensor state_of(OptionalTensor states, int64_t direction, const char* name) {
  if (!states) return {};
  check_storage(*states, name);
  RNNFUSED_CHECK(states->dim() >= 1 && states->size(0) == 2, "states of both directions must be (2, ..)");
  return torch::stable::narrow(*states, 0, direction, 1);
}

inline int64_t hidden_size_of_both(const Tensor& weight_hh, const Tensor& weight_hh_reverse) {
  const int64_t hidden_size = hidden_size_of(weight_hh);
  RNNFUSED_CHECK(hidden_size_of(weight_hh_reverse) == hidden_size && weight_hh_reverse.dim() == weight_hh.dim(),
                 "both directions must have the same hidden size");
  return hidden_size;
}

inline std::tuple<Tensor, Tensor> both_directions(Tensor input, Tensor weight_ih, Tensor weight_hh,
                                                  OptionalTensor bias_ih, OptionalTensor bias_hh,
                                                  Tensor weight_ih_reverse, Tensor weight_hh_reverse,
                                                  OptionalTensor bias_ih_reverse, OptionalTensor bias_hh_reverse,
                                                  OptionalTensor h_0, OptionalTensor batch_sizes,
                                                  OptionalTensor lengths, int64_t time_dim, int64_t nonlinearity,
                                                  std::optional<double> state_grad_clip) {
  check_clip(state_grad_clip);
  if (!is_ids(input)) input = with_contiguous_features(input, "input");
  // The parameters point into these tensors until the end.
  bias_ih = with_contiguous_features(bias_ih, "bias_ih");
  bias_hh = with_contiguous_features(bias_hh, "bias_hh");
  bias_ih_reverse = with_contiguous_features(bias_ih_reverse, "bias_ih_reverse");
  bias_hh_reverse = with_contiguous_features(bias_hh_reverse, "bias_hh_reverse");
  h_0 = with_contiguous_features(h_0, "h_0");
  RNNFUSED_CHECK(time_dim >= 0, "both directions need a dimension of time");
  const Extents extents = {batch_sizes, lengths};
  const int64_t hidden = hidden_size_of_both(weight_hh, weight_hh_reverse);
  const Problem problem(input, extents, time_dim, hidden, is_ids(input));
  const Tensor output = new_tensor(weight_hh, problem.sequence_sizes(product_of(2, hidden)));
  Shape states = problem.state_sizes();
  states.sizes[0] = 2;
  const Tensor h_n = new_tensor(weight_hh, states);
  const auto results_of = [&](int64_t direction) {
    return LayerResults{sequence_of(output, direction, hidden, "output"), state_of(h_n, direction, "h_n")};
  };
  const LayerTensors first(input, weight_ih, weight_hh, bias_ih, bias_hh, state_of(h_0, 0, "h_0"), extents, time_dim,
                           nonlinearity, false, results_of(0));
  const LayerTensors second(input, weight_ih_reverse, weight_hh_reverse, bias_ih_reverse, bias_hh_reverse,
                            state_of(h_0, 1, "h_0"), extents, time_dim, nonlinearity, true, results_of(1));
  if (hidden > 0) run_both_forward(first.params, second.params, torch_workers());
  return {output, h_n};
}

inline decltype(std::tuple_cat(LayerGrads(), LayerGrads())) both_directions_backward(
    OptionalTensor grad_output, OptionalTensor grad_h_n, Tensor output, Tensor input, Tensor weight_ih,
    Tensor weight_hh, Tensor weight_ih_reverse, Tensor weight_hh_reverse, OptionalTensor h_0,
    OptionalTensor batch_sizes, OptionalTensor lengths, int64_t time_dim, int64_t nonlinearity,
    std::optional<double> state_grad_clip, bool needs_input, bool needs_weight_ih, bool needs_weight_hh,
    bool needs_bias, bool needs_h_0) {
  check_clip(state_grad_clip);
  grad_output = with_contiguous_features(grad_output, "grad_output");
  grad_h_n = with_contiguous_features(grad_h_n, "grad_h_n");
  output = with_contiguous_features(output, "output");
  if (!is_ids(input)) input = with_contiguous_features(input, "input");
  h_0 = with_contiguous_features(h_0, "h_0");
  RNNFUSED_CHECK(time_dim >= 0, "both directions need a dimension of time");
  const int64_t hidden = hidden_size_of_both(weight_hh, weight_hh_reverse);
  const LayerBackwardTensors first(sequence_of(grad_output, 0, hidden, "grad_output"),
                                   state_of(grad_h_n, 0, "grad_h_n"), *sequence_of(output, 0, hidden, "output"), input,
                                   weight_ih, weight_hh, state_of(h_0, 0, "h_0"), {batch_sizes, lengths}, time_dim,
                                   nonlinearity, false, state_grad_clip, needs_input, needs_weight_ih, needs_weight_hh,
                                   needs_bias, needs_h_0);
  const LayerBackwardTensors second(sequence_of(grad_output, 1, hidden, "grad_output"),
                                    state_of(grad_h_n, 1, "grad_h_n"), *sequence_of(output, 1, hidden, "output"), input,
                                    weight_ih_reverse, weight_hh_reverse, state_of(h_0, 1, "h_0"),
                                    {batch_sizes, lengths}, time_dim, nonlinearity, true, state_grad_clip, needs_input,
                                    needs_weight_ih, needs_weight_hh, needs_bias, needs_h_0);
  if (first.has_work) run_both_backward(first.params, second.params, torch_workers());
  return std::tuple_cat(gradients_of(first), gradients_of(second));
}

}  // namespace rnnfused
