// The arithmetic of one step on the GPU: forward h_t = f(p_t + h_{t-1} W^T), backward
// d_t = (g_t + d_{t+1} W) * f'(h_t). One element at a time; scan.cuh says which thread does which.
#pragma once

#include <cmath>

#include "cuda/scan.cuh"
#include "recurrence.h"

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

template <class T, class Pointer>
RNNFUSED_PHASE T* element(const Recurrence& call, const SequenceOf<Pointer>& sequence, int64_t t,
                          int64_t row, int unit) {
  return static_cast<T*>(sequence.data) + call.step_start(t) * sequence.time_stride +
         row * sequence.batch_stride + unit;
}

template <class T, class Pointer>
RNNFUSED_PHASE T* element(const StateOf<Pointer>& state, int64_t row, int unit) {
  return static_cast<T*>(state.data) + row * state.batch_stride + unit;
}

template <class T>
struct ForwardStep {
  Forward call;

  RNNFUSED_PHASE bool ascending() const { return !call.reverse; }
  RNNFUSED_PHASE bool wants_last_product() const { return false; }
  RNNFUSED_PHASE T weight(int k, int unit) const {
    return static_cast<const T*>(call.weight_hh.data)[unit * call.weight_hh.row_stride +
                                                      k * call.weight_hh.column_stride];
  }
  RNNFUSED_PHASE T first_state(int64_t row, int unit) const {
    return call.h_0.data ? *element<const T>(call.h_0, row, unit) : T(0);
  }
  RNNFUSED_PHASE void fetch(int64_t t, int64_t row, int unit, bool, T (&inputs)[2]) const {
    inputs[0] = *element<const T>(call, call.projections, t, row, unit);
  }
  RNNFUSED_PHASE T apply(const T (&inputs)[2], T sum) const {
    const T x = inputs[0] + sum;
    if (call.nonlinearity == Nonlinearity::tanh) {
      return hyperbolic_tangent(x);
    } else {
      return x < T(0) ? T(0) : x;  // NaN passes through, as in torch.relu
    }
  }
  RNNFUSED_PHASE void store(int64_t t, int64_t row, int unit, T value, bool last) const {
    *element<T>(call, call.output, t, row, unit) = value;
    if (last) *element<T>(call.h_n, row, unit) = value;
  }
  RNNFUSED_PHASE void store_last_product(int64_t, int, T) const {}
};

template <class T>
struct BackwardStep {
  Backward call;

  RNNFUSED_PHASE bool ascending() const { return call.reverse; }
  RNNFUSED_PHASE bool wants_last_product() const { return call.grad_h_0.data != nullptr; }
  RNNFUSED_PHASE T weight(int k, int unit) const {
    return static_cast<const T*>(call.weight_hh.data)[k * call.weight_hh.row_stride +
                                                      unit * call.weight_hh.column_stride];
  }
  RNNFUSED_PHASE T first_state(int64_t, int) const { return T(0); }
  // `first`: the row's last step in time, where the gradient of its last state arrives.
  RNNFUSED_PHASE void fetch(int64_t t, int64_t row, int unit, bool first, T (&inputs)[2]) const {
    T grad = 0;
    if (call.grad_output.data) grad = *element<const T>(call, call.grad_output, t, row, unit);
    if (first && call.grad_h_n.data) grad += *element<const T>(call.grad_h_n, row, unit);
    inputs[0] = grad;
    inputs[1] = *element<const T>(call, call.output, t, row, unit);
  }
  RNNFUSED_PHASE T apply(const T (&inputs)[2], T sum) const {
    const T grad = inputs[0] + sum, h = inputs[1];
    if (call.nonlinearity == Nonlinearity::tanh) {
      return grad * (T(1) - h * h);
    } else {
      return h <= T(0) ? T(0) : grad;
    }
  }
  RNNFUSED_PHASE void store(int64_t t, int64_t row, int unit, T value, bool) const {
    *element<T>(call, call.grad_projections, t, row, unit) = value;
  }
  RNNFUSED_PHASE void store_last_product(int64_t row, int unit, T sum) const {
    *element<T>(call.grad_h_0, row, unit) = sum;
  }
};

}  // namespace cuda
}  // namespace rnnfused
