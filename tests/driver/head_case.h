// Random calls of the output layer with its loss, and of generation.
#pragma once

#include <string>
#include <vector>

#include "attempts.h"
#include "buffer.h"
#include "cpu/generate.h"
#include "cpu/linear_cross_entropy.h"

namespace rnnfused {

class HeadCase {
 public:
  explicit HeadCase(Random& random)
      : random_(random),
        dtype_(static_cast<Dtype>(random.below(4))),
        rows_(random.chance(10) ? random.from_to(400, 900) : random.from_to(1, 60)),
        hidden_(random.from_to(1, 70)),
        classes_(random.from_to(1, 90)) {}

  std::string name() const {
    return "head N" + std::to_string(rows_) + " H" + std::to_string(hidden_) + " V" + std::to_string(classes_) +
           " dtype " + std::to_string(static_cast<int>(dtype_));
  }

  uint64_t run(const Workers& workers) {
    const Dtype sums = sum_dtype(dtype_);
    const int64_t sum_bytes = bytes_of(sums);
    LinearCrossEntropyParams params;
    params.num_rows = rows_;
    params.hidden_size = hidden_;
    params.hidden = {buffers_.values(dtype_, rows_ * hidden_, random_), hidden_};
    const void* const weight = buffers_.values(dtype_, classes_ * hidden_, random_);
    const bool is_transposed = random_.chance(30);
    params.weight = is_transposed ? ConstMatrix{weight, 1, classes_} : ConstMatrix{weight, hidden_, 1};
    if (random_.chance(70)) params.bias = buffers_.values(dtype_, classes_, random_);
    CrossEntropyRowsParams& rows = params.rows;
    rows.dtype = dtype_;
    rows.num_classes = classes_;
    std::vector<int64_t> targets(rows_);
    for (int64_t& target : targets) target = random_.chance(15) ? -1 : random_.below(classes_);
    rows.targets = buffers_.integers(targets);
    rows.label_smoothing = random_.chance(30) ? 0.25 : 0;
    if (random_.chance(30)) rows.row_scales = buffers_.values(sums, rows_, random_);
    rows.losses = buffers_.results(rows_ * sum_bytes);
    if (random_.chance(70)) params.grad_hidden = {buffers_.results(rows_ * hidden_ * bytes_of(dtype_)), hidden_};
    if (random_.chance(70)) params.grad_weight = buffers_.results(classes_ * hidden_ * sum_bytes);
    params.grad_is_transposed = params.grad_weight && is_transposed;
    if (random_.chance(70)) params.grad_bias = buffers_.results(classes_ * sum_bytes);
    attempt([&] { run_linear_cross_entropy(params, workers); });
    return buffers_.hash();
  }

 private:
  Random& random_;
  Dtype dtype_;
  int64_t rows_, hidden_, classes_;
  Buffers buffers_;
};

class GenerationCase {
 public:
  explicit GenerationCase(Random& random)
      : random_(random),
        sizes_{static_cast<Dtype>(random.below(4)), random.from_to(1, 3), random.from_to(1, 70), random.from_to(1, 60)},
        batch_(random.from_to(1, 9)) {}

  std::string name() const {
    return "generation L" + std::to_string(sizes_.num_layers) + " B" + std::to_string(batch_) + " H" +
           std::to_string(sizes_.hidden_size) + " V" + std::to_string(sizes_.vocab_size) + " dtype " +
           std::to_string(static_cast<int>(sizes_.dtype));
  }

  uint64_t run(const Workers& workers) {
    const Dtype dtype = sizes_.dtype, sums = sum_dtype(dtype);
    const int64_t layers = sizes_.num_layers, hidden = sizes_.hidden_size, vocab = sizes_.vocab_size;
    GeneratorSource source;
    source.sizes = sizes_;
    source.table = {buffers_.values(sums, vocab * hidden, random_), hidden};
    source.weights_hh = buffers_.values(dtype, layers * hidden * hidden, random_, 0.25);
    source.weights_ih = buffers_.values(dtype, (layers - 1) * hidden * hidden, random_, 0.25);
    source.biases = buffers_.values(sums, (layers - 1) * hidden, random_);
    source.head = {buffers_.values(dtype, vocab * hidden, random_), 1, hidden};
    source.head_bias = random_.chance(60) ? buffers_.values(sums, vocab, random_) : nullptr;
    Buffer packed(sizes_.packed_bytes());
    attempt([&] { pack_generator(source, static_cast<char*>(packed.data()), workers); });
    GenerateParams params;
    params.weights = {sizes_, static_cast<const char*>(packed.data())};
    params.nonlinearity = random_.chance(70) ? Nonlinearity::tanh : Nonlinearity::relu;
    params.choice.temperature = random_.chance(40) ? 0 : 0.75;
    params.choice.top_k = random_.chance(40) ? random_.from_to(1, vocab) : 0;
    params.choice.top_p = random_.chance(40) ? 0.75 : 1;
    params.choice.seed = random_.bits();
    params.batch_size = batch_;
    params.num_symbols = random_.from_to(1, 12);
    std::vector<int64_t> ids(batch_), streams(batch_);
    for (int64_t& id : ids) id = random_.below(vocab);
    for (int64_t& stream : streams) stream = random_.below(1000);
    params.ids = buffers_.integers(ids);
    params.streams = buffers_.integers(streams);
    params.states = buffers_.values(dtype, layers * batch_ * hidden, random_);
    params.new_states = buffers_.results(layers * batch_ * hidden * bytes_of(dtype));
    params.symbols = static_cast<int64_t*>(buffers_.results(batch_ * params.num_symbols * sizeof(int64_t)));
    attempt([&] { run_generate(params, workers); });
    return buffers_.hash();
  }

 private:
  Random& random_;
  GeneratorSizes sizes_;
  int64_t batch_;
  Buffers buffers_;
};

}  // namespace rnnfused
