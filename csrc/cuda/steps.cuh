// The arithmetic of one step on the GPU, for one element: forward h_t = f(p_t + h_{t-1} W^T), backward
// d_t = (g_t + d_{t+1} W) * f'(h_t). scan.cuh assigns elements to threads. `Stored` is the tensors' type. The
// arithmetic is in Computed<Stored>, which is float for the 16-bit types; every new state is rounded to Stored
// before its first use.
#pragma once

#include <cmath>

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
RNNFUSED_PHASE Computed<Stored> rounded(Computed<Stored> value) {
  return static_cast<Computed<Stored>>(static_cast<Stored>(value));
}

// The offset of an element in its tensor; `start` is its step's params.step_start.
template <class Pointer>
RNNFUSED_PHASE int64_t offset_of(const SequenceOf<Pointer>& sequence, int64_t start, int64_t row, int unit) {
  return start * sequence.time_stride + row * sequence.batch_stride + unit;
}

template <class Pointer>
RNNFUSED_PHASE int64_t offset_of(const StateOf<Pointer>& state, int64_t row, int unit) {
  return row * state.batch_stride + unit;
}

template <class Stored>
RNNFUSED_PHASE Stored element(const void* data, int64_t offset) {
  return static_cast<const Stored*>(data)[offset];
}

template <class Stored>
RNNFUSED_PHASE Computed<Stored> read(const void* data, int64_t offset) {
  return static_cast<Computed<Stored>>(element<Stored>(data, offset));
}

template <class Stored>
RNNFUSED_PHASE void write(void* data, int64_t offset, Computed<Stored> value) {
  static_cast<Stored*>(data)[offset] = static_cast<Stored>(value);
}

template <class Stored_>
struct ForwardStep {
  using Stored = Stored_;
  using T = Computed<Stored>;
  ForwardParams params;

  RNNFUSED_PHASE bool ascending() const { return !params.reverse; }
  RNNFUSED_PHASE bool starts_at_zero() const { return params.h_0.data == nullptr; }
  RNNFUSED_PHASE bool wants_last_product() const { return false; }
  RNNFUSED_PHASE T weight(int k, int unit) const {
    return read<Stored>(params.weight_hh.data, unit * params.weight_hh.row_stride + k * params.weight_hh.column_stride);
  }
  RNNFUSED_PHASE T first_state(int64_t row, int unit) const {
    return params.h_0.data ? read<Stored>(params.h_0.data, offset_of(params.h_0, row, unit)) : T(0);
  }
  // Not converted yet: a conversion would wait for the loads.
  RNNFUSED_PHASE void fetch(int64_t start, int64_t row, int unit, Stored (&inputs)[2]) const {
    inputs[0] = element<Stored>(params.projections.data, offset_of(params.projections, start, row, unit));
  }
  RNNFUSED_PHASE T apply(int64_t, int, bool, const Stored (&inputs)[2], T sum) const {
    const T x = static_cast<T>(inputs[0]) + sum;
    if (params.nonlinearity == Nonlinearity::tanh) {
      return rounded<Stored>(hyperbolic_tangent(x));
    } else {
      return x < T(0) ? T(0) : rounded<Stored>(x);  // NaN passes through, as in torch.relu
    }
  }
  RNNFUSED_PHASE void store(int64_t start, int64_t row, int unit, T value, bool last) const {
    write<Stored>(params.output.data, offset_of(params.output, start, row, unit), value);
    if (last) write<Stored>(params.h_n.data, offset_of(params.h_n, row, unit), value);
  }
  RNNFUSED_PHASE void store_last_product(int64_t, int, T) const {}
};

template <class Stored_>
struct BackwardStep {
  using Stored = Stored_;
  using T = Computed<Stored>;
  BackwardParams params;

  RNNFUSED_PHASE bool ascending() const { return params.reverse; }
  RNNFUSED_PHASE bool starts_at_zero() const { return true; }
  RNNFUSED_PHASE bool wants_last_product() const { return params.grad_h_0.data != nullptr; }
  RNNFUSED_PHASE T weight(int k, int unit) const {
    return read<Stored>(params.weight_hh.data, k * params.weight_hh.row_stride + unit * params.weight_hh.column_stride);
  }
  RNNFUSED_PHASE T first_state(int64_t, int) const { return T(0); }
  RNNFUSED_PHASE void fetch(int64_t start, int64_t row, int unit, Stored (&inputs)[2]) const {
    if (params.grad_output.data) {
      inputs[0] = element<Stored>(params.grad_output.data, offset_of(params.grad_output, start, row, unit));
    }
    inputs[1] = element<Stored>(params.output.data, offset_of(params.output, start, row, unit));
  }
  // `first`: the row's last step in time, where grad_h_n enters.
  RNNFUSED_PHASE T apply(int64_t row, int unit, bool first, const Stored (&inputs)[2], T sum) const {
    T grad = params.grad_output.data ? static_cast<T>(inputs[0]) : T(0);
    if (first && params.grad_h_n.data)
      grad += read<Stored>(params.grad_h_n.data, offset_of(params.grad_h_n, row, unit));
    grad += sum;
    const T h = static_cast<T>(inputs[1]);
    if (params.nonlinearity == Nonlinearity::tanh) {
      return rounded<Stored>(grad * (T(1) - h * h));
    } else {
      return h <= T(0) ? T(0) : rounded<Stored>(grad);
    }
  }
  RNNFUSED_PHASE void store(int64_t start, int64_t row, int unit, T value, bool) const {
    write<Stored>(params.grad_projections.data, offset_of(params.grad_projections, start, row, unit), value);
  }
  RNNFUSED_PHASE void store_last_product(int64_t row, int unit, T sum) const {
    write<Stored>(params.grad_h_0.data, offset_of(params.grad_h_0, row, unit), sum);
  }
};

}  // namespace cuda
}  // namespace rnnfused
