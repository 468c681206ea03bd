// Turns the tensors of prepared layers into parameters.
#pragma once

#include "cpu/prepared.h"
#include "torch/generate_tensors.h"
#include "torch/layer_tensors.h"

namespace rnnfused {

// The result and parameters of the op `pack_layer`, for weights (hidden, features) and (hidden, hidden), biases (hidden).
struct PackedLayerTensors {
  ForwardParams params;
  Tensor packed;

  PackedLayerTensors(const Tensor& weight_ih, const Tensor& weight_hh, const OptionalTensor& bias_ih,
                     const OptionalTensor& bias_hh)
      : params(read(weight_ih, weight_hh, bias_ih, bias_hh)),
        packed(new_bytes(weight_hh, packed_layer_bytes(params.dtype, params.input_size, params.hidden_size))) {}

 private:
  static ForwardParams read(const Tensor& weight_ih, const Tensor& weight_hh, const OptionalTensor& bias_ih,
                            const OptionalTensor& bias_hh) {
    RNNFUSED_CHECK(weight_hh.dim() == 2 && weight_hh.size(0) == weight_hh.size(1),
                   "weight_hh must be (hidden, hidden)");
    RNNFUSED_CHECK(weight_ih.dim() == 2 && weight_ih.size(0) == weight_hh.size(0),
                   "weight_ih must be (hidden, features)");
    check_like(weight_ih, weight_hh, "weight_ih");
    ForwardParams params;
    params.dtype = dtype_of(weight_hh);
    params.hidden_size = weight_hh.size(0);
    params.input_size = weight_ih.size(1);
    params.weight_hh = {data_of(weight_hh, "weight_hh"), weight_hh.stride(0), weight_hh.stride(1)};
    params.weight_ih = {data_of(weight_ih, "weight_ih"), weight_ih.stride(0), weight_ih.stride(1)};
    params.bias_ih = bias_data(bias_ih, weight_hh, params.hidden_size);
    params.bias_hh = bias_data(bias_hh, weight_hh, params.hidden_size);
    return params;
  }
};

// The results and parameters of the op `run_prepared`: the output of the highest layer, laid out as the input, and the
// states (layers, batch, hidden) after it.
struct PreparedTensors {
  Problem problem;
  Tensor output, new_states;
  PreparedParams params;

  PreparedTensors(const Tensor& packed, const Tensor& input, const Tensor& states, int64_t input_size, int64_t time_dim,
                  int64_t nonlinearity)
      : problem(input, {}, time_dim, hidden_of(states), is_ids(input)),
        output(new_tensor(states, problem.sequence_sizes(problem.hidden_size))),
        new_states(new_tensor(states, states.sizes())) {
    check_contiguous(states, "states");
    RNNFUSED_CHECK(states.size(1) == problem.batch_size, "states must have the rows of the input");
    RNNFUSED_CHECK(input_size >= 0, "input_size must not be negative");
    RNNFUSED_CHECK(nonlinearity == 0 || nonlinearity == 1, "nonlinearity must be 0 (tanh) or 1 (relu)");
    ForwardParams& call = params.call;
    call.num_steps = problem.num_steps;
    call.batch_size = problem.batch_size;
    call.hidden_size = problem.hidden_size;
    call.dtype = dtype_of(states);
    call.nonlinearity = static_cast<Nonlinearity>(nonlinearity);
    call.input_size = input_size;
    if (is_ids(input)) {
      call.ids = ids_of(problem, input, input_size);
    } else {
      check_like(input, states, "input");
      RNNFUSED_CHECK(last_size(input) == input_size, "input must have input_size features");
      call.input = problem.view<const void*>(input, data_of(input, "input"), "input");
    }
    call.output = problem.view<void*>(output, output.mutable_data_ptr(), "output");
    params.num_layers = states.size(0);
    RNNFUSED_CHECK(dtype_number(packed) == aoti_torch_dtype_uint8() && packed.dim() == 1 && packed.is_contiguous() &&
                       packed.numel() == params.packed_bytes(),
                   "packed must be the results of pack_layer for these layers, one after another");
    check_storage(packed, "packed");
    params.packed = static_cast<char*>(packed.mutable_data_ptr());
    params.states = data_of(states, "states");
    params.new_states = new_states.mutable_data_ptr();
  }

 private:
  static int64_t hidden_of(const Tensor& states) {
    RNNFUSED_CHECK(states.dim() == 3 && states.size(0) >= 1, "states must be (layers, batch, hidden)");
    return states.size(2);
  }
};

}  // namespace rnnfused
