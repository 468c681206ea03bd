// The arithmetic of one step on the GPU, for one element: forward h_t = f(p_t + h_{t-1} W^T), backward
// d_t = (g_t + d_{t+1} W) * f'(h_t). scan.cuh assigns elements to threads. `Stored` is the tensors' type. The
// arithmetic is in Computed<Stored>, which is float for the 16-bit types; every new state is rounded to Stored
// before its first use.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cuda/memory.cuh"
#include "params.h"

namespace rnnfused {
namespace cuda {

template <class T>
RNNFUSED_PHASE T hyperbolic_tangent(T x) {
  if constexpr (sizeof(T) == 4) {
    return tanhf(x);
  } else {
    return tanh(x);
  }
}

template <class Stored>
struct ComputedIn {
  using Type = float;
};
template <>
struct ComputedIn<double> {
  using Type = double;
};
template <class Stored>
using Computed = typename ComputedIn<Stored>::Type;

template <class Stored>
RNNFUSED_PHASE Computed<Stored> read(const void* data, int64_t offset) {
  return static_cast<Computed<Stored>>(static_cast<const Stored*>(data)[offset]);
}

template <class Stored>
RNNFUSED_PHASE void write(void* data, int64_t offset, Computed<Stored> value) {
  static_cast<Stored*>(data)[offset] = static_cast<Stored>(value);
}

template <class Pointer>
RNNFUSED_PHASE int64_t offset_of(const StateOf<Pointer>& state, int64_t row, int unit) {
  return row * state.batch_stride + unit;
}

// The tile's first row in a step that starts at `start`.
template <class Stored, class Pointer>
RNNFUSED_PHASE auto* row_of_step(const SequenceOf<Pointer>& sequence, int64_t start, int64_t first_row) {
  using Element = std::conditional_t<std::is_const<std::remove_pointer_t<Pointer>>::value, const Stored, Stored>;
  return static_cast<Element*>(sequence.data) + start * sequence.time_stride + first_row * sequence.batch_stride;
}

template <class Element, class Pointer>
RNNFUSED_PHASE void move(Element*& row, const SequenceOf<Pointer>& sequence, bool ascending) {
  row += ascending ? sequence.time_stride : -sequence.time_stride;
}

// Whether every word of a tensor lies at a multiple of its size, so that one access reads it.
template <class Product, class Pointer>
bool has_whole_words(const SequenceOf<Pointer>& sequence) {
  constexpr int kValues = Product::kValues;
  return reinterpret_cast<uintptr_t>(sequence.data) % sizeof(typename Product::Word) == 0 &&
         sequence.time_stride % kValues == 0 && sequence.batch_stride % kValues == 0;
}

// Reads a word's values, not converted yet: a conversion would wait for the load. `whole`: in one access. `both`: its
// last value exists.
template <class Product>
RNNFUSED_PHASE void load_word(const typename Product::Stored* from, bool whole, bool both,
                              typename Product::Word& word) {
  if (Product::kValues == 1 || whole) {
    word = *reinterpret_cast<const typename Product::Word*>(from);
  } else {
    typename Product::Stored values[2] = {from[0], static_cast<typename Product::Stored>(0.0f)};
    if (both) values[1] = from[1];
    memcpy(&word, values, sizeof word);
  }
}

template <class Product>
RNNFUSED_PHASE void store_word(typename Product::Stored* to, bool whole, bool both, typename Product::Word word) {
  if (Product::kValues == 1 || whole) {
    *reinterpret_cast<typename Product::Word*>(to) = word;
  } else {
    typename Product::Stored values[2];
    memcpy(values, &word, sizeof word);
    to[0] = values[0];
    if (both) to[1] = values[1];
  }
}

template <class Stored_>
struct ForwardStep {
  using Stored = Stored_;
  using T = Computed<Stored>;
  ForwardParams params;
  bool whole_words = false;  // of all tensors

  RNNFUSED_PHASE bool ascending() const { return !params.reverse; }
  RNNFUSED_PHASE bool wants_last_product() const { return false; }
  RNNFUSED_PHASE T weight(int k, int unit) const {
    return read<Stored>(params.weight_hh.data, unit * params.weight_hh.row_stride + k * params.weight_hh.column_stride);
  }
  RNNFUSED_PHASE T first_state(int64_t row, int unit) const {
    return params.h_0.data ? read<Stored>(params.h_0.data, offset_of(params.h_0, row, unit)) : T(0);
  }
  RNNFUSED_PHASE void locate(int row, int unit, uint32_t (&offsets)[3]) const {
    offsets[0] = static_cast<uint32_t>(row * params.projections.batch_stride + unit);
    offsets[1] = static_cast<uint32_t>(row * params.output.batch_stride + unit);
  }
  RNNFUSED_PHASE const Stored* inputs_at(int64_t start, int64_t first_row) const {
    return row_of_step<Stored>(params.projections, start, first_row);
  }
  RNNFUSED_PHASE Stored* result_at(int64_t start, int64_t first_row) const {
    return row_of_step<Stored>(params.output, start, first_row);
  }
  // To the next step of a dense batch.
  RNNFUSED_PHASE void advance(const Stored*& inputs) const { move(inputs, params.projections, ascending()); }
  RNNFUSED_PHASE void advance(Stored*& result) const { move(result, params.output, ascending()); }
  template <class Product>
  RNNFUSED_PHASE void fetch(const Stored* from, const Item& item, bool both,
                            typename Product::Word (&inputs)[2]) const {
    load_word<Product>(from + item.offsets[0], whole_words, both, inputs[0]);
  }
  // The product of a row's first step.
  RNNFUSED_PHASE T first_sum(int64_t, int, T sum) const { return params.h_0.data ? sum : T(0); }
  RNNFUSED_PHASE T apply(T projection, T, T sum) const {
    const T x = projection + sum, rectified = x < T(0) ? T(0) : x;  // NaN passes through, as in torch.relu
    // A selection is faster than a branch, where the tangent is short.
    if (sizeof(T) > 4 && params.nonlinearity == Nonlinearity::relu) return rectified;
    const T tangent = hyperbolic_tangent(x);
    return params.nonlinearity == Nonlinearity::tanh ? tangent : rectified;
  }
  template <class Product>
  RNNFUSED_PHASE void store(Stored* to, const Item& item, bool both, typename Product::Word word) const {
    store_word<Product>(to + item.offsets[1], whole_words, both, word);
  }
  RNNFUSED_PHASE void store_last(int64_t row, int unit, T value) const {
    write<Stored>(params.h_n.data, offset_of(params.h_n, row, unit), value);
  }
  RNNFUSED_PHASE void store_last_product(int64_t, int, T) const {}
};

template <class Stored_>
struct BackwardStep {
  using Stored = Stored_;
  using T = Computed<Stored>;
  BackwardParams params;
  bool whole_words = false;  // of all tensors

  RNNFUSED_PHASE bool ascending() const { return params.reverse; }
  RNNFUSED_PHASE bool wants_last_product() const { return params.grad_h_0.data != nullptr; }
  RNNFUSED_PHASE T weight(int k, int unit) const {
    return read<Stored>(params.weight_hh.data, k * params.weight_hh.row_stride + unit * params.weight_hh.column_stride);
  }
  RNNFUSED_PHASE T first_state(int64_t, int) const { return T(0); }
  RNNFUSED_PHASE void locate(int row, int unit, uint32_t (&offsets)[3]) const {
    offsets[0] = static_cast<uint32_t>(row * params.grad_output.batch_stride + unit);
    offsets[1] = static_cast<uint32_t>(row * params.output.batch_stride + unit);
    offsets[2] = static_cast<uint32_t>(row * params.grad_projections.batch_stride + unit);
  }
  struct Inputs {
    const Stored *grad_output, *output;
  };
  RNNFUSED_PHASE Inputs inputs_at(int64_t start, int64_t first_row) const {
    return {row_of_step<Stored>(params.grad_output, start, first_row),
            row_of_step<Stored>(params.output, start, first_row)};
  }
  RNNFUSED_PHASE Stored* result_at(int64_t start, int64_t first_row) const {
    return row_of_step<Stored>(params.grad_projections, start, first_row);
  }
  RNNFUSED_PHASE void advance(Inputs& inputs) const {
    move(inputs.grad_output, params.grad_output, ascending());
    move(inputs.output, params.output, ascending());
  }
  RNNFUSED_PHASE void advance(Stored*& result) const { move(result, params.grad_projections, ascending()); }
  // Without grad_output, its word stays 0.
  template <class Product>
  RNNFUSED_PHASE void fetch(const Inputs& from, const Item& item, bool both,
                            typename Product::Word (&inputs)[2]) const {
    if (params.grad_output.data) load_word<Product>(from.grad_output + item.offsets[0], whole_words, both, inputs[0]);
    load_word<Product>(from.output + item.offsets[1], whole_words, both, inputs[1]);
  }
  // In place of the product of a row's first step, its last in time: grad_h_n enters there.
  RNNFUSED_PHASE T first_sum(int64_t row, int unit, T) const {
    return params.grad_h_n.data ? read<Stored>(params.grad_h_n.data, offset_of(params.grad_h_n, row, unit)) : T(0);
  }
  RNNFUSED_PHASE T apply(T grad_output, T h, T sum) const {
    const T grad = grad_output + sum;
    return params.nonlinearity == Nonlinearity::tanh ? grad * (T(1) - h * h) : h <= T(0) ? T(0) : grad;
  }
  template <class Product>
  RNNFUSED_PHASE void store(Stored* to, const Item& item, bool both, typename Product::Word word) const {
    store_word<Product>(to + item.offsets[2], whole_words, both, word);
  }
  RNNFUSED_PHASE void store_last(int64_t, int, T) const {}
  RNNFUSED_PHASE void store_last_product(int64_t row, int unit, T sum) const {
    write<Stored>(params.grad_h_0.data, offset_of(params.grad_h_0, row, unit), sum);
  }
};

// Makes the step of a call.
template <class Product, class Stored>
ForwardStep<Stored> make_step(const ForwardParams& params) {
  return {params, params.hidden_size % Product::kValues == 0 && has_whole_words<Product>(params.projections) &&
                      has_whole_words<Product>(params.output)};
}
template <class Product, class Stored>
BackwardStep<Stored> make_step(const BackwardParams& params) {
  return {params, params.hidden_size % Product::kValues == 0 && has_whole_words<Product>(params.grad_output) &&
                      has_whole_words<Product>(params.output) && has_whole_words<Product>(params.grad_projections)};
}

}  // namespace cuda
}  // namespace rnnfused
