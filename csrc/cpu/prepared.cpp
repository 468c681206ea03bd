#include "cpu/prepared.h"

#include <algorithm>
#include <cstring>

#include "cpu/dispatch.h"
#include "cpu/memory.h"
#include "cpu/packed.h"
#include "cpu/projected_forward.h"
#include "cpu/recurrence.h"
#include "cpu/share.h"
#include "sizes.h"

namespace rnnfused {
namespace {

// The places of a packed layer.
struct Places {
  int64_t hh, bias, end;  // W_ih starts at 0

  Places(Dtype dtype, int64_t input_size, int64_t hidden_size) {
    const CpuKernels& cpu = cpu_kernels();
    hh = whole_lines(cpu.packed_bytes(dtype, input_size, hidden_size));
    bias = hh + whole_lines(cpu.packed_bytes(dtype, hidden_size, hidden_size));
    end = bias + whole_lines(cpu.packed_bytes(sum_dtype(dtype), 1, hidden_size));
  }

  PackedWeights of(char* memory) const { return {memory + hh, memory, memory + bias}; }
};

}  // namespace

int64_t packed_layer_bytes(Dtype dtype, int64_t input_size, int64_t hidden_size) {
  return std::min(Places(dtype, input_size, hidden_size).end, kTooLarge);
}

int64_t PreparedParams::packed_bytes() const {
  const int64_t first = packed_layer_bytes(call.dtype, call.input_size, call.hidden_size);
  const int64_t other = packed_layer_bytes(call.dtype, call.hidden_size, call.hidden_size);
  return std::min(first + product_of(num_layers - 1, other), kTooLarge);
}

void pack_layer(const ForwardParams& layer, char* memory, const Workers& workers) {
  const int64_t inputs = layer.input_size, hidden = layer.hidden_size;
  if (hidden == 0) return;  // the memory is null
  const Places places(layer.dtype, inputs, hidden);
  std::memset(memory, 0, places.end);
  pack_matrix(layer.dtype, transposed(layer.weight_ih), inputs, hidden, memory, workers);
  pack_matrix(layer.dtype, transposed(layer.weight_hh), hidden, hidden, memory + places.hh, workers);
  pack_bias(layer.dtype, layer.bias_ih, layer.bias_hh, hidden, memory + places.bias);
}

void run_prepared(const PreparedParams& params, const Workers& workers) {
  const ForwardParams& call = params.call;
  const int64_t item_bytes = bytes_of(call.dtype), batch = call.batch_size, hidden = call.hidden_size;
  if (batch == 0 || hidden == 0) return;
  check_work(loop_work(call));
  // Layers write to this memory and to the output in turn, the highest to the output.
  Memory between(params.num_layers > 1 ? product_of(call.num_steps, batch, hidden, item_bytes) : 0);
  const Sequence outputs[2] = {call.output, {between.get(), batch * hidden, hidden}};
  char* packed = params.packed;
  ForwardParams layer = call;
  for (int64_t l = 0; l < params.num_layers; ++l) {
    const int64_t state = l * batch * hidden;
    layer.h_0 = skip(ConstState{params.states, hidden}, state, item_bytes);
    layer.h_n = skip(State{params.new_states, hidden}, state, item_bytes);
    layer.output = outputs[(params.num_layers - 1 - l) % 2];
    const Places places(call.dtype, layer.input_size, hidden);
    const PackedWeights weights = places.of(packed);
    if (cpu_kernels().projects(layer)) {
      run_packed_forward(layer, weights, workers);
    } else {
      run_projected_forward(layer, weights, workers);
    }
    packed += places.end;
    layer.ids = {};
    layer.input = {layer.output.data, layer.output.time_stride, layer.output.batch_stride};
    layer.input_size = hidden;
  }
}

}  // namespace rnnfused
