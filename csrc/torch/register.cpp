// Registers the ops and their CPU implementations with torch's dispatcher. It uses only LibTorch's stable ABI, so one
// binary serves every torch from 2.10 on.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <numeric>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "cpu/dispatch.h"
#include "cpu/generate.h"
#include "cpu/layer_backward.h"
#include "cpu/layer_forward.h"
#include "cpu/linear_cross_entropy.h"
#include "cpu/products.h"
#include "cpu/recurrence.h"
#include "torch/backward_tensors.h"
#include "torch/both_directions.h"
#include "torch/cross_entropy_tensors.h"
#include "torch/generate_tensors.h"
#include "torch/layer_tensors.h"
#include "torch/prepared_tensors.h"
#include "torch/threads.h"

namespace {

using rnnfused::check_clip;
using rnnfused::OptionalTensor;
using rnnfused::torch_workers;
using rnnfused::with_contiguous_features;
using torch::stable::Tensor;

std::tuple<Tensor, Tensor> layer(Tensor input, OptionalTensor weight_ih, Tensor weight_hh, OptionalTensor bias_ih,
                                 OptionalTensor bias_hh, OptionalTensor h_0, OptionalTensor batch_sizes,
                                 OptionalTensor lengths, int64_t time_dim, int64_t nonlinearity, bool reverse,
                                 std::optional<double> state_grad_clip) {
  check_clip(state_grad_clip);
  if (!weight_ih || !rnnfused::is_ids(input)) input = with_contiguous_features(input, "input");
  bias_ih = with_contiguous_features(bias_ih, "bias_ih");
  bias_hh = with_contiguous_features(bias_hh, "bias_hh");
  h_0 = with_contiguous_features(h_0, "h_0");
  const rnnfused::LayerTensors tensors(input, weight_ih, weight_hh, bias_ih, bias_hh, h_0, {batch_sizes, lengths},
                                       time_dim, nonlinearity, reverse);
  const rnnfused::ForwardParams& params = tensors.params;
  if (params.hidden_size == 0) return {tensors.output, tensors.h_n};
  if (weight_ih) {
    rnnfused::run_layer_forward(params, torch_workers());
  } else {
    rnnfused::run_forward(params, torch_workers());
  }
  return {tensors.output, tensors.h_n};
}

std::tuple<Tensor, Tensor> recurrence_backward(OptionalTensor grad_output, OptionalTensor grad_h_n, Tensor output,
                                               Tensor weight_hh, OptionalTensor batch_sizes, OptionalTensor lengths,
                                               int64_t nonlinearity, bool reverse,
                                               std::optional<double> state_grad_clip, bool needs_h_0) {
  check_clip(state_grad_clip);
  grad_output = with_contiguous_features(grad_output, "grad_output");
  grad_h_n = with_contiguous_features(grad_h_n, "grad_h_n");
  output = with_contiguous_features(output, "output");
  const rnnfused::BackwardTensors tensors(grad_output, grad_h_n, output, weight_hh, {batch_sizes, lengths}, 0,
                                          nonlinearity, reverse, state_grad_clip, needs_h_0);
  if (tensors.problem.hidden_size > 0) rnnfused::run_backward(tensors.params, torch_workers());
  return {tensors.grad_projections, tensors.grad_h_0};
}

rnnfused::LayerGrads layer_backward(OptionalTensor grad_output, OptionalTensor grad_h_n, Tensor output,
                                    OptionalTensor input, OptionalTensor weight_ih, Tensor weight_hh,
                                    OptionalTensor h_0, OptionalTensor batch_sizes, OptionalTensor lengths,
                                    int64_t time_dim, int64_t nonlinearity, bool reverse,
                                    std::optional<double> state_grad_clip, bool needs_input, bool needs_weight_ih,
                                    bool needs_weight_hh, bool needs_bias, bool needs_h_0) {
  check_clip(state_grad_clip);
  grad_output = with_contiguous_features(grad_output, "grad_output");
  grad_h_n = with_contiguous_features(grad_h_n, "grad_h_n");
  output = with_contiguous_features(output, "output");
  if (input && !rnnfused::is_ids(*input)) input = with_contiguous_features(input, "input");
  h_0 = with_contiguous_features(h_0, "h_0");
  const rnnfused::LayerBackwardTensors tensors(grad_output, grad_h_n, output, input, weight_ih, weight_hh, h_0,
                                               {batch_sizes, lengths}, time_dim, nonlinearity, reverse, state_grad_clip,
                                               needs_input, needs_weight_ih, needs_weight_hh, needs_bias, needs_h_0);
  if (tensors.has_work) rnnfused::run_layer_backward(tensors.params, torch_workers());
  return rnnfused::gradients_of(tensors);
}

// Memory of its own, contiguous.
Tensor copied(Tensor x) {
  rnnfused::check_storage(x, "x");
  return x.is_contiguous() ? torch::stable::clone(x) : torch::stable::contiguous(x);
}

Tensor project(Tensor input, Tensor weight, OptionalTensor bias) {
  RNNFUSED_CHECK(input.dim() == 2 && weight.dim() == 2, "input must be (rows, in) and weight (out, in)");
  input = with_contiguous_features(input, "input");
  bias = with_contiguous_features(bias, "bias");
  const rnnfused::ProjectionTensors tensors(input, weight, bias);
  rnnfused::run_projection(tensors.params, torch_workers());
  return tensors.output;
}

Tensor sum_of_products(Tensor left, Tensor right) {
  RNNFUSED_CHECK(left.dim() == 3 && right.dim() == 3, "left and right must be (outer, inner, features)");
  left = with_contiguous_features(left, "left");
  right = with_contiguous_features(right, "right");
  const rnnfused::ProductSumTensors tensors(left, right);
  RNNFUSED_CHECK(rnnfused::sum_dtype(tensors.params.dtype) == tensors.params.dtype,
                 "sum_of_products is for float32 and float64");
  rnnfused::run_product_sum(tensors.params, torch_workers());
  return tensors.result;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> linear_cross_entropy(Tensor hidden, Tensor weight, OptionalTensor bias,
                                                                Tensor target, OptionalTensor row_scales,
                                                                int64_t reduction, int64_t ignore_index,
                                                                double label_smoothing, bool needs_hidden,
                                                                bool needs_weight, bool needs_bias) {
  hidden = with_contiguous_features(hidden, "hidden");
  bias = with_contiguous_features(bias, "bias");
  target = with_contiguous_features(target, "target");
  row_scales = with_contiguous_features(row_scales, "row_scales");
  rnnfused::CrossEntropyTensors tensors(hidden, weight, bias, target, row_scales, reduction, ignore_index,
                                        label_smoothing, needs_hidden, needs_weight, needs_bias);
  rnnfused::run_linear_cross_entropy(tensors.params, torch_workers());
  tensors.finish();
  return {tensors.loss, tensors.grad_hidden, tensors.grad_weight, tensors.grad_bias};
}

Tensor pack_generator(Tensor table, Tensor weights_hh, Tensor weights_ih, Tensor biases, Tensor head_weight,
                      OptionalTensor head_bias) {
  const rnnfused::PackedGenerator generator(table, weights_hh, weights_ih, biases, head_weight, head_bias);
  rnnfused::pack_generator(generator.source, static_cast<char*>(generator.packed.mutable_data_ptr()), torch_workers());
  return generator.packed;
}

std::tuple<Tensor, Tensor> generate(Tensor packed, Tensor states, Tensor ids, Tensor streams, int64_t vocab_size,
                                    int64_t nonlinearity, int64_t num_symbols, int64_t first_step, double temperature,
                                    int64_t top_k, double top_p, int64_t seed) {
  const rnnfused::GenerateTensors tensors(packed, states, ids, streams, vocab_size, nonlinearity, num_symbols,
                                          first_step, {temperature, top_k, top_p, static_cast<uint64_t>(seed)});
  if (states.size(1) > 0) rnnfused::run_generate(tensors.params, torch_workers());
  return {tensors.symbols, tensors.new_states};
}

Tensor pack_layer(Tensor weight_ih, Tensor weight_hh, OptionalTensor bias_ih, OptionalTensor bias_hh) {
  bias_ih = with_contiguous_features(bias_ih, "bias_ih");
  bias_hh = with_contiguous_features(bias_hh, "bias_hh");
  const rnnfused::PackedLayerTensors tensors(weight_ih, weight_hh, bias_ih, bias_hh);
  rnnfused::pack_layer(tensors.params, static_cast<char*>(tensors.packed.mutable_data_ptr()), torch_workers());
  return tensors.packed;
}

std::tuple<Tensor, Tensor> run_prepared(Tensor packed, Tensor input, Tensor states, int64_t input_size,
                                        int64_t time_dim, int64_t nonlinearity) {
  if (!rnnfused::is_ids(input)) input = with_contiguous_features(input, "input");
  const rnnfused::PreparedTensors tensors(packed, input, states, input_size, time_dim, nonlinearity);
  rnnfused::run_prepared(tensors.params, torch_workers());
  return {tensors.output, tensors.new_states};
}

int64_t cpu_multiply_add(int64_t rounds) {
  constexpr int64_t kMostRounds = int64_t{1} << 40;
  RNNFUSED_CHECK(rounds >= 0 && rounds <= kMostRounds, "rounds must be from 0 to 2^40");
  const rnnfused::Workers workers = torch_workers();
  std::vector<int64_t> counts(workers.count);
  std::vector<float> results(workers.count);
  workers.run(workers.count, [&](int64_t i) {
    float result = 0;
    counts[i] = rnnfused::cpu_kernels().multiply_add(rounds, &result);
    results[i] = result;
  });
  return std::accumulate(counts.begin(), counts.end(), int64_t{0});
}

std::string cpu_capability() { return rnnfused::cpu_kernels().name; }

}  // namespace

STABLE_TORCH_LIBRARY(rnnfused, m) {
  // weight_ih null: the input is the projections. time_dim: the dimension of time in a sequence, 0 or 1, or -1 for a
  // single step. nonlinearity: 0 is tanh, 1 is relu. state_grad_clip concerns the gradient alone; the forward op takes
  // it so that its gradient knows it. No op that is called more than once takes or returns a string: torch 2.10 to 2.13
  // leak each string that crosses their stable ABI.
  m.def(
      "layer(Tensor input, Tensor? weight_ih, Tensor weight_hh, Tensor? bias_ih, Tensor? bias_hh, Tensor? h_0, "
      "Tensor? batch_sizes, Tensor? lengths, int time_dim, int nonlinearity, bool reverse, "
      "float? state_grad_clip) -> (Tensor output, Tensor h_n)");
  m.def(
      "layer_backward(Tensor? grad_output, Tensor? grad_h_n, Tensor output, Tensor? input, Tensor? weight_ih, "
      "Tensor weight_hh, Tensor? h_0, Tensor? batch_sizes, Tensor? lengths, int time_dim, int nonlinearity, "
      "bool reverse, float? state_grad_clip, bool needs_input, bool needs_weight_ih, bool needs_weight_hh, "
      "bool needs_bias, bool needs_h_0) -> (Tensor grad_input, Tensor grad_weight_ih, Tensor grad_weight_hh, "
      "Tensor grad_bias, Tensor grad_h_0)");
  // A layer in both directions, with the features of its output side by side, its states one after the other, and
  // gradients per direction.
  m.def(
      "both_directions(Tensor input, Tensor weight_ih, Tensor weight_hh, Tensor? bias_ih, Tensor? bias_hh, "
      "Tensor weight_ih_reverse, Tensor weight_hh_reverse, Tensor? bias_ih_reverse, Tensor? bias_hh_reverse, "
      "Tensor? h_0, Tensor? batch_sizes, Tensor? lengths, int time_dim, int nonlinearity, float? state_grad_clip) "
      "-> (Tensor output, Tensor h_n)");
  m.def(
      "both_directions_backward(Tensor? grad_output, Tensor? grad_h_n, Tensor output, Tensor input, "
      "Tensor weight_ih, Tensor weight_hh, Tensor weight_ih_reverse, Tensor weight_hh_reverse, Tensor? h_0, "
      "Tensor? batch_sizes, Tensor? lengths, int time_dim, int nonlinearity, float? state_grad_clip, "
      "bool needs_input, bool needs_weight_ih, bool needs_weight_hh, bool needs_bias, bool needs_h_0) -> ("
      "Tensor grad_input, Tensor grad_weight_ih, Tensor grad_weight_hh, Tensor grad_bias, Tensor grad_h_0, "
      "Tensor grad_input_reverse, Tensor grad_weight_ih_reverse, Tensor grad_weight_hh_reverse, "
      "Tensor grad_bias_reverse, Tensor grad_h_0_reverse)");
  m.def(
      "recurrence_backward(Tensor? grad_output, Tensor? grad_h_n, Tensor output, Tensor weight_hh, "
      "Tensor? batch_sizes, Tensor? lengths, int nonlinearity, bool reverse, float? state_grad_clip, "
      "bool needs_h_0) -> (Tensor grad_projections, Tensor grad_h_0)");
  m.def("project(Tensor input, Tensor weight, Tensor? bias) -> Tensor");
  m.def("sum_of_products(Tensor left, Tensor right) -> Tensor");
  // reduction: 0 none, 1 mean, 2 sum. row_scales: for reduction 0, the gradient that arrives at each row's loss.
  m.def(
      "linear_cross_entropy(Tensor hidden, Tensor weight, Tensor? bias, Tensor target, Tensor? row_scales, "
      "int reduction, int ignore_index, float label_smoothing, bool needs_hidden, bool needs_weight, "
      "bool needs_bias) -> (Tensor loss, Tensor grad_hidden, Tensor grad_weight, Tensor grad_bias)");
  m.def("copied(Tensor x) -> Tensor");
  // csrc/generation.h describes them. top_k 0 and top_p 1 leave out no symbol.
  m.def(
      "pack_generator(Tensor table, Tensor weights_hh, Tensor weights_ih, Tensor biases, Tensor head_weight, "
      "Tensor? head_bias) -> Tensor");
  m.def(
      "generate(Tensor packed, Tensor states, Tensor ids, Tensor streams, int vocab_size, int nonlinearity, "
      "int num_symbols, int first_step, float temperature, int top_k, float top_p, int seed) "
      "-> (Tensor symbols, Tensor new_states)");
  // A layer's weights in the layout of the kernels of this process; and steps of layers from them, without gradients.
  m.def("pack_layer(Tensor weight_ih, Tensor weight_hh, Tensor? bias_ih, Tensor? bias_hh) -> Tensor");
  m.def(
      "run_prepared(Tensor packed, Tensor input, Tensor states, int input_size, int time_dim, int nonlinearity) "
      "-> (Tensor output, Tensor new_states)");
  m.def("cpu_capability() -> str");
  m.def("cpu_multiply_add(int rounds) -> int");
}

STABLE_TORCH_LIBRARY_IMPL(rnnfused, CPU, m) {
  m.impl("recurrence_backward", TORCH_BOX(&recurrence_backward));
  m.impl("layer", TORCH_BOX(&layer));
  m.impl("layer_backward", TORCH_BOX(&layer_backward));
  m.impl("both_directions", TORCH_BOX(&rnnfused::both_directions));
  m.impl("both_directions_backward", TORCH_BOX(&rnnfused::both_directions_backward));
  m.impl("linear_cross_entropy", TORCH_BOX(&linear_cross_entropy));
  m.impl("copied", TORCH_BOX(&copied));
  m.impl("project", TORCH_BOX(&project));
  m.impl("sum_of_products", TORCH_BOX(&sum_of_products));
  m.impl("pack_generator", TORCH_BOX(&pack_generator));
  m.impl("generate", TORCH_BOX(&generate));
  m.impl("pack_layer", TORCH_BOX(&pack_layer));
  m.impl("run_prepared", TORCH_BOX(&run_prepared));
}

STABLE_TORCH_LIBRARY_IMPL(rnnfused, CompositeExplicitAutograd, m) {
  m.impl("cpu_capability", TORCH_BOX(&cpu_capability));
  m.impl("cpu_multiply_add", TORCH_BOX(&cpu_multiply_add));
}
