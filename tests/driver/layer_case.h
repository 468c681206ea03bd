// Random calls of a layer, forward and backward: every kind of batch and input of csrc/torch.
#pragma once

#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include "attempts.h"
#include "buffer.h"
#include "cpu/layer_backward.h"
#include "cpu/layer_forward.h"
#include "cpu/recurrence.h"
#include "layer_gradients.h"

namespace rnnfused {

class LayerCase {
 public:
  explicit LayerCase(Random& random) : random_(random) {
    choose_sizes();
    lay_out();
    make_weights();
  }

  std::string name() const {
    const auto number = [](int64_t n) { return std::to_string(n); };
    return "layer T" + number(steps_) + " B" + number(batch_) + " I" + number(input_size_) + " H" + number(hidden_) +
           "/" + number(heads_) + " dtype " + number(static_cast<int>(dtype_)) + " rows " + number(kind_) + " input " +
           number(input_kind_) + (reverse_ ? " reverse" : "") + (batch_first_ ? " batch first" : "");
  }

  uint64_t run(const Workers& workers) {
    const ForwardParams forward = forward_params();
    attempt([&] { input_kind_ == projections ? run_forward(forward, workers) : run_layer_forward(forward, workers); });
    const LayerBackwardParams backward = backward_params(forward);
    attempt([&] { run_layer_backward(backward, workers); });
    return buffers_.hash();
  }

  bool is_bfloat16() const { return dtype_ == Dtype::bfloat16; }
  // Of each result, after run().
  std::vector<Norms> bfloat16_norms() const { return buffers_.bfloat16_norms(); }

 private:
  enum Kind { dense, packed, padded_lengths, flat_lengths };
  enum InputKind { features, ids, projections };

  void choose_sizes() {
    dtype_ = static_cast<Dtype>(random_.below(4));
    kind_ = random_.chance(55) ? dense : static_cast<Kind>(random_.from_to(packed, flat_lengths));
    input_kind_ = random_.chance(60) ? features : static_cast<InputKind>(random_.from_to(ids, projections));
    steps_ = random_.from_to(1, 9);
    batch_ = random_.from_to(1, 20);
    hidden_ = random_.from_to(1, 70);
    input_size_ = random_.from_to(1, 40);
    switch (random_.below(8)) {
      case 0: {  // a team
        steps_ = random_.from_to(25, 40);
        batch_ = random_.from_to(1, 3);
        hidden_ = random_.from_to(200, 260);
        break;
      }
      case 1: {  // parts, and groups of rows
        steps_ = random_.from_to(40, 90);
        batch_ = random_.from_to(8, 70);
        hidden_ = random_.from_to(40, 130);
        break;
      }
      default: break;
    }
    if (random_.chance(20)) hidden_ = (heads_ = random_.from_to(2, 4)) * random_.from_to(1, 24);
    reverse_ = random_.chance(40);
    batch_first_ = random_.chance(40);
    relu_ = random_.chance(30);
  }

  // The rows of each step, as csrc/torch/problem.h finds them.
  void lay_out() {
    if (kind_ == dense) return;
    std::vector<int64_t> lengths(batch_);
    for (int64_t& length : lengths) length = random_.from_to(kind_ == packed ? 1 : 0, steps_);
    if (kind_ == packed) std::sort(lengths.rbegin(), lengths.rend());
    std::vector<int64_t> order(batch_), starts(batch_), sequence_rows, sorted;
    std::iota(order.begin(), order.end(), 0);
    std::exclusive_scan(lengths.begin(), lengths.end(), starts.begin(), int64_t{0});
    // Clang warns of std::stable_sort, as GCC's header uses what the standard deprecates.
    std::sort(order.begin(), order.end(),
              [&](int64_t a, int64_t b) { return lengths[a] != lengths[b] ? lengths[a] > lengths[b] : a < b; });
    for (const int64_t row : order) {
      sorted.push_back(lengths[row]);
      sequence_rows.push_back(kind_ == padded_lengths ? row : starts[row]);
    }
    if (kind_ != padded_lengths) steps_ = sorted[0];
    if (kind_ != padded_lengths) rows_ = std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
    std::vector<int64_t> batch_sizes, step_starts;
    for (int64_t t = 0, start = 0; t < steps_; start += batch_sizes[t++]) {
      batch_sizes.push_back(std::count_if(sorted.begin(), sorted.end(), [&](int64_t n) { return n > t; }));
      step_starts.push_back(start);
    }
    batch_sizes_ = buffers_.integers(batch_sizes);
    if (kind_ == packed) {
      step_starts_ = buffers_.integers(step_starts);
    } else {
      lengths_ = buffers_.integers(sorted);
      sequence_rows_ = buffers_.integers(sequence_rows);
      state_rows_ = buffers_.integers(order);
    }
  }

  bool is_flat() const { return rows_ >= 0; }
  int64_t positions() const { return is_flat() ? rows_ : steps_ * batch_; }

  // A sequence whose rows have `gap` elements between them.
  template <class Pointer>
  SequenceOf<Pointer> sequence(Pointer data, int64_t size, int64_t gap) const {
    const int64_t row = size + gap;
    if (is_flat()) return {data, row, row};
    return batch_first_ ? SequenceOf<Pointer>{data, row, steps_ * row} : SequenceOf<Pointer>{data, batch_ * row, row};
  }
  int64_t elements(int64_t size, int64_t gap) const { return std::max<int64_t>(0, positions() * (size + gap) - gap); }
  int64_t gap() { return random_.chance(25) ? random_.from_to(1, 5) : 0; }

  ConstSequence given(int64_t size) {
    const int64_t between = gap();
    return sequence(buffers_.values(dtype_, elements(size, between), random_), size, between);
  }
  ConstState given_state() { return {buffers_.values(dtype_, batch_ * hidden_, random_), hidden_}; }
  State state_result() { return {buffers_.results(batch_ * hidden_ * bytes()), hidden_}; }
  int64_t bytes() const { return bytes_of(dtype_); }

  ConstMatrix matrix(int64_t rows, int64_t columns, const void* data) {
    return random_.chance(30) ? ConstMatrix{data, 1, rows} : ConstMatrix{data, columns, 1};
  }

  void make_weights() {
    const int64_t part = hidden_ / heads_;
    weight_hh_ = matrix(part, part, buffers_.values(dtype_, heads_ * part * part, random_, 0.125));
    weight_ih_ = matrix(hidden_, input_size_, buffers_.values(dtype_, hidden_ * input_size_, random_, 0.25));
  }

  void take_rows(RecurrenceParams& params) const {
    params.num_steps = steps_;
    params.batch_size = batch_;
    params.hidden_size = hidden_;
    params.num_heads = heads_;
    params.dtype = dtype_;
    params.nonlinearity = relu_ ? Nonlinearity::relu : Nonlinearity::tanh;
    params.reverse = reverse_;
    params.batch_sizes = batch_sizes_;
    params.step_starts = step_starts_;
    params.lengths = lengths_;
    params.sequence_rows = sequence_rows_;
    params.state_rows = state_rows_;
    params.num_rows = rows_;
    params.weight_hh = weight_hh_;
    params.head_stride = hidden_ / heads_ * (hidden_ / heads_);
  }

  ForwardParams forward_params() {
    ForwardParams params;
    take_rows(params);
    if (input_kind_ == projections) {
      params.projections = given(hidden_);
    } else {
      params.input_size = input_size_;
      params.weight_ih = weight_ih_;
      if (random_.chance(70)) params.bias_ih = buffers_.values(dtype_, hidden_, random_);
      if (random_.chance(70)) params.bias_hh = buffers_.values(dtype_, hidden_, random_);
      if (input_kind_ == ids) {
        std::vector<int64_t> tokens(positions());
        for (int64_t& token : tokens) token = random_.below(input_size_);
        params.ids = sequence(buffers_.integers(tokens), 1, 0);
      } else {
        params.input = given(input_size_);
      }
    }
    if (random_.chance(60)) params.h_0 = given_state();
    params.output = sequence(buffers_.results(elements(hidden_, 0) * bytes()), hidden_, 0);
    params.h_n = state_result();
    return params;
  }

  LayerBackwardParams backward_params(const ForwardParams& forward) {
    LayerBackwardParams params;
    BackwardParams& loop = params.loop;
    take_rows(loop);
    loop.output = {forward.output.data, forward.output.time_stride, forward.output.batch_stride};
    if (random_.chance(80)) loop.grad_output = given(hidden_);
    if (random_.chance(60)) loop.grad_h_n = given_state();
    if (random_.chance(60)) loop.grad_h_0 = state_result();
    if (random_.chance(20)) loop.clip = 0.5;
    params.in_parts = input_kind_ != projections && (heads_ == 1 || kind_ != dense);
    if (!params.in_parts) {
      loop.grad_projections = sequence(buffers_.results(elements(hidden_, 0) * bytes()), hidden_, 0);
    }
    params.input = forward.input;
    params.ids = forward.ids;
    params.input_size = forward.input_size;
    params.weight_ih = forward.weight_ih;
    params.h_0 = forward.h_0;
    LayerGradients& gradients = params.gradients;
    const auto result = [&](int64_t count) { return buffers_.results(count * bytes()); };
    if (random_.chance(90)) gradients.weight_hh = result(hidden_ * hidden_ / heads_);
    if (input_kind_ == projections) return params;
    if (random_.chance(80)) gradients.weight_ih = result(hidden_ * input_size_);
    if (random_.chance(80)) gradients.bias = result(hidden_);
    if (input_kind_ == features && random_.chance(80)) {
      gradients.input = sequence(result(elements(input_size_, 0)), input_size_, 0);
    }
    return params;
  }

  Random& random_;
  Buffers buffers_;
  Dtype dtype_ = Dtype::float32;
  Kind kind_ = dense;
  InputKind input_kind_ = features;
  int64_t steps_ = 1, batch_ = 1, hidden_ = 1, heads_ = 1, input_size_ = 1, rows_ = -1;
  bool reverse_ = false, batch_first_ = false, relu_ = false;
  const int64_t *batch_sizes_ = nullptr, *step_starts_ = nullptr;
  const int64_t *lengths_ = nullptr, *sequence_rows_ = nullptr, *state_rows_ = nullptr;
  ConstMatrix weight_hh_, weight_ih_;
};

}  // namespace rnnfused
