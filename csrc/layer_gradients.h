// The gradients of a layer's weights, biases and input, as products with d of the time loop:
//
//   dW_ih = sum_t d_t^T x_t (a token sum of d_t for token ids)    db = sum_t d_t    dW_hh = sum_t d_t^T h_{t-1}
//   dx = d W_ih
//
// This file makes the parameters of these products for rows that all run in every step; the caller runs them. Those of
// other batches: cpu/ragged_backward.cpp. No torch and no kernels here.
#pragma once

#include <cstring>

#include "params.h"
#include "projection_runs.h"

namespace rnnfused {

// The memory of a layer's gradients; null: not wanted. Products write the gradients of weights in sum_dtype.
struct LayerGradients {
  void* weight_ih = nullptr;  // (hidden, features)
  void* weight_hh = nullptr;  // (hidden, hidden), or one square per head
  void* bias = nullptr;       // (hidden)
  Sequence input;             // past a row's end nothing is written
  bool by_token = false;      // weight_ih is (features, hidden): a sum over many token ids, before it is transposed
};

struct LayerBackwardParams {
  BackwardParams loop;
  bool in_parts = false;  // only a part of d exists at a time: for a batch of one head whose rows run in every step
  ConstSequence input;
  ConstIds ids;  // the input as token ids; null: it is `input`
  int64_t input_size = 0;
  ConstMatrix weight_ih;
  ConstState h_0;          // null: zeros
  bool continues = false;  // the first state is not h_0 but lies in the output, before the first step
  LayerGradients gradients;
  bool adds = false;  // adds the gradients of weights to their old values

  // Whether a batch of several rows lies outside time in memory.
  bool is_batch_first() const { return loop.batch_size > 1 && loop.output.is_batch_first(); }

  // The parameters of batch rows [begin, end) and steps [first, last) of a call in parts. `d` is memory for the part;
  // `d_after` has the d of the step that the loop ran before, if any.
  LayerBackwardParams part(int64_t begin, int64_t end, int64_t first, int64_t last, void* d,
                           const ConstState& d_after) const {
    LayerBackwardParams part = *this;
    BackwardParams& of = part.loop;
    const auto to_start = [&](auto& sequence) {
      sequence = skip(sequence, first * sequence.time_stride + begin * sequence.batch_stride, item_bytes());
    };
    const auto to_row = [&](auto& state) { state = skip(state, begin * state.batch_stride, item_bytes()); };
    of.batch_size = end - begin;
    of.num_steps = last - first;
    to_start(of.grad_output);
    to_start(of.output);
    to_start(part.input);
    to_start(part.gradients.input);
    if (ids.data) part.ids.data += first * ids.time_stride + begin * ids.batch_stride;
    to_row(of.grad_h_n);
    to_row(of.grad_h_0);
    to_row(part.h_0);
    const int64_t size = loop.hidden_size;
    of.grad_projections =
        is_batch_first() ? Sequence{d, size, (last - first) * size} : Sequence{d, (end - begin) * size, size};
    if (loop.reverse ? first > 0 : last < loop.num_steps) {
      of.grad_h_n = {};
      of.d_after = d_after;
    }
    if (loop.reverse ? last < loop.num_steps : first > 0) {
      of.grad_h_0 = {};
      part.h_0 = {};
      part.continues = true;
    }
    return part;
  }

  // Copies the d of the loop's last step, which the next part needs as its d_after.
  void copy_last_d(void* to) const {
    const Sequence& d = loop.grad_projections;
    const int64_t bytes = loop.hidden_size * item_bytes();
    const Sequence last = skip(d, loop.reverse ? (loop.num_steps - 1) * d.time_stride : 0, item_bytes());
    for (int64_t row = 0; row < loop.batch_size; ++row) {
      std::memcpy(static_cast<char*>(to) + row * bytes, skip(last, row * d.batch_stride, item_bytes()).data, bytes);
    }
  }

  int64_t item_bytes() const { return bytes_of(loop.dtype); }

  // Calls run(params) for every product of the gradients of weights, after the loop.
  template <class Run>
  void for_each_sum(const Run& run) const {
    const ConstSequence d = {loop.grad_projections.data, loop.grad_projections.time_stride,
                             loop.grad_projections.batch_stride};
    const int64_t steps = loop.num_steps, rows = loop.batch_size;
    if (gradients.weight_ih && ids.data) {
      run(token_sum(d, steps, rows));
    } else if (gradients.weight_ih) {
      run(sum(steps, rows, {d, 0, loop.hidden_size}, {input, 0, input_size}, gradients.weight_ih, adds));
    }
    if (gradients.bias) {
      run(sum(steps, rows, {{one_of(loop.dtype), 0, 0}, 0, 1}, {d, 0, loop.hidden_size}, gradients.bias, adds));
    }
    for (int64_t head = 0; gradients.weight_hh && head < loop.num_heads; ++head) {
      const int64_t size = loop.hidden_size / loop.num_heads, first = head * size;
      const int64_t sum_bytes = bytes_of(sum_dtype(loop.dtype));
      weight_hh(skip(d, first, item_bytes()), skip(loop.output, first, item_bytes()), skip(h_0, first, item_bytes()),
                size, static_cast<char*>(gradients.weight_hh) + first * size * sum_bytes, run);
    }
  }

  // Calls run(params) for every product of the input's gradient, whose weight is the forward one transposed.
  template <class Run>
  void for_each_input_gradient(const Run& run) const {
    if (!gradients.input.data) return;
    const Sequence& d = loop.grad_projections;
    ProjectionParams product;
    product.in_size = loop.hidden_size;
    product.out_size = input_size;
    product.dtype = loop.dtype;
    product.weight = weight_ih;
    for_each_run(loop, {d.data, d.time_stride, d.batch_stride}, item_bytes(), gradients.input, item_bytes(), product,
                 run);
  }

 private:
  // One factor of a sum: `size` features of a sequence, from the step that starts at `first`.
  struct Side {
    ConstSequence sequence;
    int64_t first;
    int64_t size;
  };

  Rows rows_of(const Side& side, bool by_batch) const {
    const ConstSequence& s = side.sequence;
    const char* data = static_cast<const char*>(s.data) + side.first * s.time_stride * item_bytes();
    return by_batch ? Rows{data, s.batch_stride, s.time_stride} : Rows{data, s.time_stride, s.batch_stride};
  }

  // The sum over `steps` steps of `rows` rows each.
  ProductSumParams sum(int64_t steps, int64_t rows, const Side& left, const Side& right, void* result,
                       bool adds) const {
    // The long runs in memory are a row's steps where the batch lies outside time.
    const bool by_batch = right.sequence.is_batch_first() && rows > 1 && steps > 1;
    ProductSumParams params;
    params.outer = by_batch ? rows : steps;
    params.inner = by_batch ? steps : rows;
    params.left_size = left.size;
    params.right_size = right.size;
    params.dtype = loop.dtype;
    params.left = rows_of(left, by_batch);
    params.right = rows_of(right, by_batch);
    params.result = result;
    params.adds = adds;
    params.join_rows();
    return params;
  }

  TokenSumParams token_sum(const ConstSequence& d, int64_t steps, int64_t rows) const {
    TokenSumParams params;
    params.outer = steps;
    params.inner = rows;
    params.size = loop.hidden_size;
    params.num_tokens = input_size;
    params.dtype = loop.dtype;
    params.rows = {d.data, d.time_stride, d.batch_stride};
    params.ids = ids.data;
    params.ids_outer_stride = ids.time_stride;
    params.ids_inner_stride = ids.batch_stride;
    params.result = gradients.weight_ih;
    params.is_transposed = !gradients.by_token;
    params.adds = adds;
    return params;
  }

  template <class Run>
  void weight_hh(const ConstSequence& d, const ConstSequence& h, const ConstState& h_0, int64_t size, void* result,
                 const Run& run) const {
    const int64_t steps = loop.num_steps;
    // The step of the first d with a state before it, and the step of that state.
    const int64_t now = loop.reverse ? 0 : 1, before = loop.reverse ? 1 : 0;
    if (continues) {
      return run(sum(steps, loop.batch_size, {d, 0, size}, {h, before - now, size}, result, adds));
    }
    run(sum(steps - 1, loop.batch_size, {d, now, size}, {h, before, size}, result, adds));
    if (!h_0.data) return;
    const ConstSequence first = {h_0.data, 0, h_0.batch_stride};
    const int64_t start = loop.reverse ? steps - 1 : 0;
    run(sum(1, loop.batch_size, {d, start, size}, {first, 0, size}, result, true));
  }
};

}  // namespace rnnfused
