// Tensors as the pointers, sizes and strides of the recurrence, for every device.
#pragma once

#include "problem.h"

namespace rnnfused {

// The arguments of the op `recurrence`, its results and its call.
struct ForwardTensors {
  Problem problem;
  Tensor output, h_n;
  Forward call;

  ForwardTensors(const Tensor& projections, const Tensor& weight_hh, const OptionalTensor& h_0,
                 const Extents& extents, int64_t time_dim, int64_t nonlinearity, bool reverse)
      : problem(projections, extents, time_dim, last_size(projections)),
        output(new_sequence(projections)),
        h_n(new_tensor(projections, problem.state_sizes(false))) {
    call.projections = problem.input(projections, projections, "projections");
    call.h_0 = problem.state(h_0, projections, "h_0", false);
    call.output = problem.view<void*>(output, output.mutable_data_ptr(), "output");
    call.h_n = {h_n.mutable_data_ptr(), problem.hidden_size};
    problem.read_extents();
    problem.fill(call, projections, weight_hh, nonlinearity, reverse);
    problem.clear_past_ends(call.output, bytes_of(call.dtype));
    problem.pass_states(call.h_0, call.h_n, bytes_of(call.dtype));
  }
};

// The same of the backward loop, of the op `recurrence_backward` or of a layer's. A grad_h_0 that is not wanted has
// no rows; grad_projections that are not wanted have no memory.
struct BackwardTensors {
  Problem problem;
  Tensor grad_projections, grad_h_0;
  Backward call;

  BackwardTensors(const OptionalTensor& grad_output, const OptionalTensor& grad_h_n,
                  const Tensor& output, const Tensor& weight_hh, const Extents& extents, int64_t time_dim,
                  int64_t nonlinearity, bool reverse, std::optional<double> clip, bool needs_grad_h_0,
                  bool of_layer = false, bool needs_grad_projections = true)
      : problem(output, extents, time_dim, last_size(output)),
        grad_projections(needs_grad_projections ? new_sequence(output) : new_tensor(output, {0})),
        grad_h_0(needs_grad_h_0 ? new_tensor(output, problem.state_sizes(of_layer))
                 : of_layer     ? new_tensor(output, {0})
                                : new_tensor(output, {0, problem.hidden_size})) {
    if (grad_output) call.grad_output = problem.input(*grad_output, output, "grad_output");
    call.grad_h_n = problem.state(grad_h_n, output, "grad_h_n", of_layer);
    call.output = problem.input(output, output, "output");
    if (needs_grad_projections) {
      call.grad_projections = problem.view<void*>(
          grad_projections, grad_projections.mutable_data_ptr(), "grad_projections");
    }
    if (needs_grad_h_0) call.grad_h_0 = {grad_h_0.mutable_data_ptr(), problem.hidden_size};
    if (clip) call.clip = *clip;
    problem.read_extents();
    problem.fill(call, output, weight_hh, nonlinearity, reverse);
    if (needs_grad_projections) problem.clear_past_ends(call.grad_projections, bytes_of(call.dtype));
    problem.pass_states(call.grad_h_n, call.grad_h_0, bytes_of(call.dtype));
  }
};

}  // namespace rnnfused
