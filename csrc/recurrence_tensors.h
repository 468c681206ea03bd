// Tensors as the pointers, sizes and strides of the recurrence, for every device.
#pragma once

#include "problem.h"

namespace rnnfused {

// The arguments of the op `forward`, its results and its call.
struct ForwardTensors {
  Problem problem;
  Tensor output, h_n;
  Forward call;

  ForwardTensors(const Tensor& projections, const Tensor& weight_hh, const OptionalTensor& h_0,
                 const Extents& extents, const std::string& nonlinearity, bool reverse)
      : problem(projections, extents),
        output(new_sequence(projections)),
        h_n(problem.new_state(projections, problem.batch_size, 2)) {
    problem.fill(call, projections, weight_hh, nonlinearity, reverse);
    call.projections = problem.input(projections, projections, "projections");
    call.h_0 = problem.state(h_0, projections, "h_0", 2);
    call.output = problem.view<void*>(output, output.mutable_data_ptr(), "output");
    call.h_n = {h_n.mutable_data_ptr(), problem.hidden_size};
    problem.clear_past_ends(call.output, bytes_of(call.dtype));
    problem.pass_states(call.h_0, call.h_n, bytes_of(call.dtype));
  }
};

// The same of the op `backward`. A grad_h_0 that is not wanted has no rows; of projections, no memory.
struct BackwardTensors {
  Problem problem;
  Tensor grad_projections, grad_h_0;
  Backward call;

  BackwardTensors(const OptionalTensor& grad_output, const OptionalTensor& grad_h_n,
                  const Tensor& output, const Tensor& weight_hh, const Extents& extents,
                  const std::string& nonlinearity, bool reverse, std::optional<double> clip,
                  bool needs_grad_h_0, int64_t state_dims = 2, bool needs_grad_projections = true)
      : problem(output, extents),
        grad_projections(needs_grad_projections ? new_sequence(output) : new_tensor(output, {0})),
        grad_h_0(problem.new_state(output, needs_grad_h_0 ? problem.batch_size : 0, state_dims)) {
    problem.fill(call, output, weight_hh, nonlinearity, reverse);
    if (grad_output) call.grad_output = problem.input(*grad_output, output, "grad_output");
    call.grad_h_n = problem.state(grad_h_n, output, "grad_h_n", state_dims);
    call.output = problem.input(output, output, "output");
    if (needs_grad_projections) {
      call.grad_projections = problem.view<void*>(
          grad_projections, grad_projections.mutable_data_ptr(), "grad_projections");
      problem.clear_past_ends(call.grad_projections, bytes_of(call.dtype));
    }
    if (needs_grad_h_0) call.grad_h_0 = {grad_h_0.mutable_data_ptr(), problem.hidden_size};
    if (clip) call.clip = *clip;
    problem.pass_states(call.grad_h_n, call.grad_h_0, bytes_of(call.dtype));
  }
};

}  // namespace rnnfused
