// Turns the tensors of the backward loop into parameters, for every device.
#pragma once

#include "torch/problem.h"

namespace rnnfused {

// The results and parameters of the backward loop, alone or in a layer. Unwanted results are empty.
struct BackwardTensors {
  Problem problem;
  Tensor grad_projections, grad_h_0;
  BackwardParams params;

  BackwardTensors(const OptionalTensor& grad_output, const OptionalTensor& grad_h_n, const Tensor& output,
                  const Tensor& weight_hh, const Extents& extents, int64_t time_dim, int64_t nonlinearity, bool reverse,
                  std::optional<double> clip, bool needs_grad_h_0, bool needs_grad_projections = true)
      : problem(output, extents, time_dim, last_size(output)),
        grad_projections(needs_grad_projections ? new_sequence(output) : new_tensor(output, {0})),
        grad_h_0(needs_grad_h_0 ? new_tensor(output, problem.state_sizes()) : new_tensor(output, {0})) {
    if (grad_output) params.grad_output = problem.input(*grad_output, output, "grad_output");
    params.grad_h_n = problem.state(grad_h_n, output, "grad_h_n");
    params.output = problem.input(output, output, "output");
    if (needs_grad_projections) {
      params.grad_projections =
          problem.view<void*>(grad_projections, grad_projections.mutable_data_ptr(), "grad_projections");
    }
    if (needs_grad_h_0) params.grad_h_0 = {grad_h_0.mutable_data_ptr(), problem.hidden_size};
    if (clip) params.clip = *clip;
    problem.read_extents();
    problem.fill(params, output, weight_hh, nonlinearity, reverse);
    if (needs_grad_projections) {
      problem.clear_past_ends(params.grad_projections, problem.hidden_size, bytes_of(params.dtype));
    }
    problem.pass_states(params.grad_h_n, params.grad_h_0, bytes_of(params.dtype));
  }
};

}  // namespace rnnfused
