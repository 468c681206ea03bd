// A stack of layers whose weights are packed once, for many short calls without gradients.
#pragma once

#include <cstdint>

#include "cpu/workers.h"
#include "params.h"

namespace rnnfused {

// The bytes of a packed layer: W_ih, W_hh and the sum of the biases.
int64_t packed_layer_bytes(Dtype dtype, int64_t input_size, int64_t hidden_size);

// Packs the weights and biases of a layer into that many bytes, aligned to a cache line.
void pack_layer(const ForwardParams& layer, char* memory, const Workers& workers);

struct PreparedParams {
  // Holds the sizes, the input of the lowest layer and the output of the highest; not the weights or the states.
  ForwardParams call;
  int64_t num_layers = 0;
  char* packed = nullptr;        // the layers one after another; only read
  const void* states = nullptr;  // (layers, batch, hidden), contiguous
  void* new_states = nullptr;    // the same

  int64_t packed_bytes() const;
};

void run_prepared(const PreparedParams& params, const Workers& workers);

}  // namespace rnnfused
