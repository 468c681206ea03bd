// Turns the tensors of generation into parameters.
#pragma once

#include <cstring>

#include "generation.h"
#include "torch/tensors.h"

namespace rnnfused {

inline void check_contiguous(const Tensor& tensor, const char* name) {
  RNNFUSED_CHECK(tensor.is_contiguous(), std::string(name) + " must be contiguous");
}

inline bool is_of_sums(const Tensor& tensor, Dtype dtype) { return dtype_of(tensor) == sum_dtype(dtype); }

// An uninitialised block of memory, as a tensor of bytes.
inline Tensor new_bytes(const Tensor& model, int64_t bytes) {
  RNNFUSED_CHECK(bytes < kTooLarge, "packed weights of these sizes need more memory than there can be");
  return new_tensor(model, aoti_torch_dtype_uint8(), {bytes}, {1});
}

// The result and parameters of the op `pack_generator`: the table (V, H) and the biases are in the dtype of sums,
// weights_hh is (L, H, H), weights_ih (L - 1, H, H), biases (L - 1, H), head_weight (V, H), head_bias (V).
struct PackedGenerator {
  GeneratorSource source;
  Tensor packed;

  PackedGenerator(const Tensor& table, const Tensor& weights_hh, const Tensor& weights_ih, const Tensor& biases,
                  const Tensor& head_weight, const OptionalTensor& head_bias)
      : source(read(table, weights_hh, weights_ih, biases, head_weight, head_bias)),
        packed(new_bytes(table, source.sizes.packed_bytes())) {}

 private:
  static GeneratorSource read(const Tensor& table, const Tensor& weights_hh, const Tensor& weights_ih,
                              const Tensor& biases, const Tensor& head_weight, const OptionalTensor& head_bias) {
    RNNFUSED_CHECK(table.dim() == 2 && weights_hh.dim() == 3 && weights_hh.size(0) >= 1 && table.size(0) >= 1 &&
                       table.size(1) >= 1,
                   "table must be (vocab, hidden) and weights_hh (layers, hidden, hidden), not empty");
    GeneratorSource source;
    GeneratorSizes& sizes = source.sizes;
    sizes = {dtype_of(weights_hh), weights_hh.size(0), table.size(1), table.size(0)};
    const int64_t layers = sizes.num_layers, hidden = sizes.hidden_size, vocab = sizes.vocab_size;
    RNNFUSED_CHECK(weights_hh.size(1) == hidden && weights_hh.size(2) == hidden,
                   "weights_hh must be (layers, hidden, hidden)");
    RNNFUSED_CHECK(weights_ih.dim() == 3 && weights_ih.size(0) == layers - 1 && weights_ih.size(1) == hidden &&
                       weights_ih.size(2) == hidden,
                   "weights_ih must be (layers - 1, hidden, hidden)");
    RNNFUSED_CHECK(biases.dim() == 2 && biases.size(0) == layers - 1 && biases.size(1) == hidden,
                   "biases must be (layers - 1, hidden)");
    RNNFUSED_CHECK(head_weight.dim() == 2 && head_weight.size(0) == vocab && head_weight.size(1) == hidden,
                   "head_weight must be (vocab, hidden)");
    RNNFUSED_CHECK(!head_bias || (head_bias->dim() == 1 && head_bias->size(0) == vocab), "head_bias must be (vocab)");
    check_like(weights_ih, weights_hh, "weights_ih");
    check_like(head_weight, weights_hh, "head_weight");
    const DeviceNumber device(weights_hh);
    for (const Tensor* const tensor : {&table, &biases, head_bias ? &*head_bias : &table}) {
      RNNFUSED_CHECK(is_of_sums(*tensor, sizes.dtype) && DeviceNumber(*tensor) == device,
                     "table and biases must be float32 beside 16-bit weights, else of the weights' dtype");
      check_contiguous(*tensor, "table and biases");
    }
    check_contiguous(weights_hh, "weights_hh");
    check_contiguous(weights_ih, "weights_ih");
    source.table = {data_of(table, "table"), hidden};
    source.weights_hh = data_of(weights_hh, "weights_hh");
    source.weights_ih = data_of(weights_ih, "weights_ih");
    source.biases = data_of(biases, "biases");
    source.head = {data_of(head_weight, "head_weight"), head_weight.stride(1), head_weight.stride(0)};
    source.head_bias = head_bias ? data_of(*head_bias, "head_bias") : nullptr;
    return source;
  }
};

// The results and parameters of the op `generate`: symbols (B, num_symbols) and the states (L, B, H) after them.
struct GenerateTensors {
  Tensor symbols, new_states;
  GenerateParams params;

  GenerateTensors(const Tensor& packed, const Tensor& states, const Tensor& ids, const Tensor& streams,
                  int64_t vocab_size, int64_t nonlinearity, int64_t num_symbols, int64_t first_step, Choice choice)
      : symbols(new_tensor(ids, {ids.numel(), check_count(num_symbols)})), new_states(new_sequence(states)) {
    RNNFUSED_CHECK(states.dim() == 3 && states.size(0) >= 1 && states.size(2) >= 1, "states must be (L, B, H)");
    const int64_t batch = states.size(1);
    check_contiguous(states, "states");
    for (const Tensor* const each : {&ids, &streams}) {
      RNNFUSED_CHECK(is_int64(*each) && each->dim() == 1 && each->size(0) == batch,
                     "ids and streams must be int64, (B)");
      check_contiguous(*each, "ids and streams");
    }
    RNNFUSED_CHECK(vocab_size >= 1, "vocab_size must be positive");
    RNNFUSED_CHECK(nonlinearity == 0 || nonlinearity == 1, "nonlinearity must be 0 (tanh) or 1 (relu)");
    RNNFUSED_CHECK(first_step >= 0, "first_step must not be negative");
    RNNFUSED_CHECK(choice.temperature >= 0 && choice.temperature <= __DBL_MAX__,
                   "temperature must be finite and not negative");
    RNNFUSED_CHECK(choice.top_k >= 0, "top_k must not be negative");
    RNNFUSED_CHECK(choice.top_p > 0 && choice.top_p <= 1, "top_p must lie in (0, 1]");
    params.weights.sizes = {dtype_of(states), states.size(0), states.size(2), vocab_size};
    RNNFUSED_CHECK(dtype_number(packed) == aoti_torch_dtype_uint8() && packed.is_contiguous() &&
                       packed.numel() == params.weights.sizes.packed_bytes(),
                   "packed must be the result of pack_generator for these sizes");
    params.weights.memory = static_cast<const char*>(data_of(packed, "packed"));
    params.nonlinearity = static_cast<Nonlinearity>(nonlinearity);
    params.choice = choice;
    params.batch_size = batch;
    params.num_symbols = num_symbols;
    params.first_step = first_step;
    params.ids = int64_data_of(ids, "ids");
    params.streams = int64_data_of(streams, "streams");
    for (int64_t row = 0; row < batch; ++row) {
      RNNFUSED_CHECK(params.ids[row] >= 0 && params.ids[row] < vocab_size, "a token id is outside the vocabulary");
    }
    params.states = data_of(states, "states");
    params.new_states = new_states.mutable_data_ptr();
    params.symbols = static_cast<int64_t*>(symbols.mutable_data_ptr());
  }

 private:
  static int64_t check_count(int64_t num_symbols) {
    RNNFUSED_CHECK(num_symbols >= 0 && num_symbols < kTooLarge, "num_symbols must not be negative");
    return num_symbols;
  }
};

}  // namespace rnnfused
