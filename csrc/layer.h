// The gradients of a layer beside the time loop's, as products of the loop's d:
//
//   dW_ih = sum_t d_t^T x_t (a sum by token of d_t where x is ids)    db = sum_t d_t    dW_hh = sum_t d_t^T h_{t-1}
//   dx = d W_ih
//
// No torch here, and no kernels: calls for both.
#pragma once

#include "products.h"
#include "recurrence.h"

namespace rnnfused {

// Where results go; null where they are not wanted. To the products, those of weights are of sum_dtype.
struct LayerGradients {
  void* weight_ih = nullptr;  // (hidden, features), or (features, hidden) of token ids
  void* weight_hh = nullptr;  // (hidden, hidden), or of every head
  void* bias = nullptr;       // (hidden)
  void* input = nullptr;      // laid out as d
};

struct LayerBackward {
  Backward loop;
  ConstSequence input;
  ConstIds ids;  // instead of the input; data may be null
  int64_t input_size = 0;
  ConstMatrix weight_ih;
  ConstState h_0;  // data may be null: zeros
  LayerGradients gradients;
  bool adds = false;  // gradients of weights, to what is there

  // The same for batch rows [begin, end) alone, with d in memory of its own and gradients that are put, or
  // added, to others. Of a padded batch alone, without lengths or a gradient of the input.
  LayerBackward of_rows(int64_t begin, int64_t end, void* d, const LayerGradients& to, bool adds) const {
    LayerBackward part = *this;
    const auto from_begin = [&](auto& view) { view = skip(view, begin * view.batch_stride, item_bytes()); };
    part.loop.batch_size = end - begin;
    from_begin(part.loop.grad_output);
    from_begin(part.loop.grad_h_n);
    from_begin(part.loop.output);
    from_begin(part.loop.grad_h_0);
    from_begin(part.input);
    from_begin(part.h_0);
    if (ids.data) part.ids.data += begin * ids.batch_stride;
    part.loop.grad_projections = {d, (end - begin) * loop.hidden_size, loop.hidden_size};
    part.gradients = to;
    part.adds = adds;
    return part;
  }

  int64_t item_bytes() const { return bytes_of(loop.dtype); }

  // Calls run(call) for every product, when the loop has run.
  template <class Run>
  void for_each_product(const Run& run) const {
    const ConstSequence d = {loop.grad_projections.data, loop.grad_projections.time_stride,
                             loop.grad_projections.batch_stride};
    const int64_t steps = loop.is_flat() ? 1 : loop.num_steps;
    const int64_t rows = loop.is_flat() ? loop.num_rows : loop.batch_size;
    if (gradients.weight_ih && ids.data) {
      run(token_sum(d, steps, rows));
    } else if (gradients.weight_ih && loop.lengths) {
      run(sum_of_runs({d, 0, loop.hidden_size}, {input, 0, input_size}, 0, gradients.weight_ih));
    } else if (gradients.weight_ih) {
      run(sum(steps, rows, {d, 0, loop.hidden_size}, {input, 0, input_size}, gradients.weight_ih, adds));
    }
    if (gradients.bias) {
      const void* one = loop.dtype == Dtype::float64   ? static_cast<const void*>(&kOne)
                        : loop.dtype == Dtype::float32 ? static_cast<const void*>(&kOneFloat)
                        : loop.dtype == Dtype::float16 ? static_cast<const void*>(&kOneFloat16)
                                                       : static_cast<const void*>(&kOneBfloat16);
      run(sum(steps, rows, {{one, 0, 0}, 0, 1}, {d, 0, loop.hidden_size}, gradients.bias, adds));
    }
    for (int64_t head = 0; gradients.weight_hh && head < loop.num_heads; ++head) {
      const int64_t size = loop.hidden_size / loop.num_heads, first = head * size;
      const int64_t sum_bytes = bytes_of(sum_dtype(loop.dtype));
      weight_hh(skip(d, first, item_bytes()), skip(loop.output, first, item_bytes()),
                skip(h_0, first, item_bytes()), size,
                static_cast<char*>(gradients.weight_hh) + first * size * sum_bytes, run);
    }
    if (gradients.input) run(input_gradient(d, steps * rows));
  }

 private:
  static constexpr double kOne = 1;
  static constexpr float kOneFloat = 1;
  static constexpr uint16_t kOneFloat16 = 0x3c00, kOneBfloat16 = 0x3f80;

  // Steps of a sequence from one that starts at `first`.
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

  // The sum over `steps` steps of so many rows.
  ProductSum sum(int64_t steps, int64_t rows, const Side& left, const Side& right, void* result,
                 bool adds) const {
    // Where the batch is outside the time, a row's steps are the long runs.
    const bool by_batch = right.sequence.time_stride < right.sequence.batch_stride && rows > 1 && steps > 1;
    ProductSum call;
    call.outer = by_batch ? rows : steps;
    call.inner = by_batch ? steps : rows;
    call.left_size = left.size;
    call.right_size = right.size;
    call.dtype = loop.dtype;
    call.left = rows_of(left, by_batch);
    call.right = rows_of(right, by_batch);
    call.result = result;
    call.adds = adds;
    call.join_rows();
    return call;
  }

  // The sum over every row's steps but its last `left_out`.
  ProductSum sum_of_runs(const Side& left, const Side& right, int64_t left_out, void* result) const {
    ProductSum call;
    call.outer = loop.batch_size;
    call.left_size = left.size;
    call.right_size = right.size;
    call.dtype = loop.dtype;
    call.left = rows_of(left, true);
    call.right = rows_of(right, true);
    call.result = result;
    call.adds = adds;
    call.inner = loop.num_steps;
    call.lengths = loop.lengths;
    call.places = loop.places;
    call.left_out = left_out;
    return call;
  }

  TokenSum token_sum(const ConstSequence& d, int64_t steps, int64_t rows) const {
    TokenSum call;
    call.outer = steps;
    call.inner = rows;
    call.size = loop.hidden_size;
    call.num_tokens = input_size;
    call.dtype = loop.dtype;
    call.rows = {d.data, d.time_stride, d.batch_stride};
    call.ids = ids.data;
    call.ids_outer_stride = ids.time_stride;
    call.ids_inner_stride = ids.batch_stride;
    call.result = gradients.weight_ih;
    call.adds = adds;
    return call;
  }

  template <class Run>
  void weight_hh(const ConstSequence& d, const ConstSequence& h, const ConstState& h_0, int64_t size,
                 void* result, const Run& run) const {
    const int64_t steps = loop.num_steps;
    // The time of the first d that has a state before it, and of that state.
    const int64_t now = loop.reverse ? 0 : 1, before = loop.reverse ? 1 : 0;
    if (loop.lengths) {
      run(sum_of_runs({d, now, size}, {h, before, size}, 1, result));
    } else if (!loop.batch_sizes) {
      run(sum(steps - 1, loop.batch_size, {d, now, size}, {h, before, size}, result, adds));
    } else {
      // Rows that take part in a step and in the one after it: in both, the first ones.
      run(sum(0, 0, {d, 0, size}, {h, 0, size}, result, adds));
      for (int64_t t = 0; t + 1 < steps; ++t) {
        run(sum(1, loop.batch_sizes[t + 1], {d, loop.step_starts[t + now], size},
                {h, loop.step_starts[t + before], size}, result, true));
      }
    }
    if (!h_0.data) return;
    const ConstSequence first = {h_0.data, 0, h_0.batch_stride};
    if (loop.lengths) {
      for (int64_t i = 0; i < loop.batch_size && loop.lengths[i] > 0; ++i) {
        const ConstSequence d_of_row = skip(d, loop.places[i] * d.batch_stride, item_bytes());
        const ConstSequence h_0_of_row = skip(first, loop.state_rows[i] * first.batch_stride, item_bytes());
        const int64_t start = loop.reverse ? loop.lengths[i] - 1 : 0;
        run(sum(1, 1, {d_of_row, start, size}, {h_0_of_row, 0, size}, result, true));
      }
      return;
    }
    if (!loop.batch_sizes || !loop.reverse) {
      const int64_t start = loop.reverse ? loop.step_start(steps - 1) : 0;
      run(sum(1, loop.batch_size, {d, start, size}, {first, 0, size}, result, true));
      return;
    }
    // In reverse a row starts at its own last step.
    for (int64_t t = 0; t < steps; ++t) {
      const int64_t begin = t + 1 < steps ? loop.batch_sizes[t + 1] : 0, end = loop.batch_sizes[t];
      if (begin == end) continue;
      const ConstSequence late = {static_cast<const char*>(h_0.data) + begin * h_0.batch_stride * item_bytes(),
                                  0, h_0.batch_stride};
      run(sum(1, end - begin, {d, loop.step_starts[t] + begin, size}, {late, 0, size}, result, true));
    }
  }

  Projection input_gradient(const ConstSequence& d, int64_t rows) const {
    // Rows in the order of memory, of d and of the input alike.
    const bool by_time = loop.is_flat() || loop.batch_size == 1;
    const int64_t stride = loop.num_steps == 1 && !loop.is_flat() ? d.batch_stride
                           : by_time || d.time_stride < d.batch_stride ? d.time_stride
                                                                       : d.batch_stride;
    Projection call;
    call.rows = rows;
    call.in_size = loop.hidden_size;
    call.out_size = input_size;
    call.dtype = loop.dtype;
    call.input = {d.data, stride};
    call.weight = weight_ih;  // (hidden, features) is the transpose of what it was forward
    call.output = {gradients.input, input_size};
    return call;
  }
};

}  // namespace rnnfused
