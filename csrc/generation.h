// The parameters of generation: a stack of layers over token ids, a linear head, and how a symbol is chosen.
//
//   h_t^0 = f(table[s_t] + h_{t-1}^0 W^T)               table[s] = b_ih + b_hh + e_s W_ih^T, e_s one-hot or an embedding
//   h_t^l = f(b + h_t^{l-1} W_ih^T + h_{t-1}^l W^T)
//   z_t = b + h_t W_head^T                              the logits, in the dtype of sums
//   s_{t+1} = choice(z_t, u_t)                          u_t uniform, of the row's stream and t alone
#pragma once

#include <cstdint>

#include "params.h"
#include "sizes.h"

namespace rnnfused {

// The packed weights of a generator, one after another in one block of memory.
//
// Each piece has room for every instruction set, so the places depend on sizes alone: columns are padded to
// kPackedColumns, the depth to a pair, and an element has the bytes of a sum.
struct GeneratorSizes {
  static constexpr int64_t kPackedColumns = 32;  // a multiple of every panel

  Dtype dtype = Dtype::float32;
  int64_t num_layers = 0;
  int64_t hidden_size = 0;
  int64_t vocab_size = 0;

  int64_t item_bytes() const { return bytes_of(sum_dtype(dtype)); }
  static int64_t padded(int64_t columns) {
    const int64_t most = columns < kTooLarge ? columns : kTooLarge;
    return (most + kPackedColumns - 1) / kPackedColumns * kPackedColumns;
  }
  int64_t table_stride() const { return padded(hidden_size); }  // in elements
  int64_t logits_stride() const { return padded(vocab_size); }
  int64_t table_bytes() const { return product_of(vocab_size, table_stride(), item_bytes()); }
  int64_t square_bytes() const { return product_of(hidden_size + 1, padded(hidden_size), item_bytes()); }
  int64_t bias_bytes() const { return product_of(padded(hidden_size), item_bytes()); }
  // W_hh of the lowest layer; bias, W_ih and W_hh of any other.
  int64_t layer_bytes() const { return bias_bytes() + 2 * square_bytes(); }
  int64_t head_bias_bytes() const { return product_of(padded(vocab_size), item_bytes()); }
  int64_t head_bytes() const { return product_of(hidden_size + 1, padded(vocab_size), item_bytes()); }
  int64_t layers_bytes() const { return square_bytes() + product_of(num_layers - 1, layer_bytes()); }
  int64_t packed_bytes() const {
    const int64_t bytes = table_bytes() + layers_bytes() + head_bias_bytes() + head_bytes();
    return bytes < kTooLarge ? bytes : kTooLarge;
  }
};

// The pieces of a generator's memory. `Byte` is char, or const char.
template <class Byte>
struct GeneratorWeights {
  GeneratorSizes sizes;
  Byte* memory = nullptr;

  Byte* table() const { return memory; }
  Byte* hh(int64_t layer) const { return layer == 0 ? layers() : bias(layer) + sizes.bias_bytes() + sizes.square_bytes(); }
  Byte* bias(int64_t layer) const { return layers() + sizes.square_bytes() + (layer - 1) * sizes.layer_bytes(); }
  Byte* ih(int64_t layer) const { return bias(layer) + sizes.bias_bytes(); }
  Byte* head_bias() const { return layers() + sizes.layers_bytes(); }
  Byte* head() const { return head_bias() + sizes.head_bias_bytes(); }

 private:
  Byte* layers() const { return memory + sizes.table_bytes(); }
};

// What a generator is packed from. Biases and the table are in sum_dtype.
struct GeneratorSource {
  GeneratorSizes sizes;
  ConstState table;                // (vocab, hidden)
  const void* weights_hh = nullptr;  // (layers, hidden, hidden), contiguous
  const void* weights_ih = nullptr;  // (layers - 1, hidden, hidden), contiguous: of the layers above the lowest
  const void* biases = nullptr;      // (layers - 1, hidden), contiguous
  ConstMatrix head;                  // (hidden, vocab): W^T
  const void* head_bias = nullptr;   // (vocab); null: zeros
};

// How a symbol is chosen from logits.
//
// At temperature 0 it is the likeliest symbol, the lowest of equal ones. Else symbol i has the weight
// exp((z_i - max z) / temperature), unless it is left out: by top_k, which keeps the k likeliest, then by top_p, which
// keeps the fewest of the likeliest whose weights sum to the share p. Of equal symbols the lower id counts as likelier.
// The choice is the first symbol whose cumulative weight, summed in float64 in the order of ids, exceeds u times the sum.
struct Choice {
  double temperature = 0;
  int64_t top_k = 0;  // 0: all
  double top_p = 1;   // 1: all
  uint64_t seed = 0;
};

struct GenerateParams {
  GeneratorWeights<const char> weights;
  Nonlinearity nonlinearity = Nonlinearity::tanh;
  Choice choice;
  int64_t batch_size = 0;
  int64_t num_symbols = 0;
  int64_t first_step = 0;            // the first symbol's number in its stream
  const int64_t* ids = nullptr;      // (batch): the symbols before
  const int64_t* streams = nullptr;  // (batch): which random numbers a row draws
  const void* states = nullptr;      // (layers, batch, hidden), contiguous
  void* new_states = nullptr;        // the same
  int64_t* symbols = nullptr;        // (batch, num_symbols); -1 from a symbol on whose logits allow no choice
};

// Takes a row's logits of one step, vocab_size values in the dtype of sums, which it may overwrite. Returns the
// row's next input id. A plain function: templates must not cross instruction sets.
using ChooseSymbol = int64_t (*)(void* context, int64_t row, int64_t step, void* logits);

}  // namespace rnnfused
