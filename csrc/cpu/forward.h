// The forward step on CPU: h_t = f(p_t + h_{t-1} W^T).
#pragma once

#include "recurrence.h"
#include "scan.h"
#include "simd.h"
#include "tanh.h"

namespace rnnfused {
namespace RNNFUSED_ISA {

template <Nonlinearity F, class T>
RNNFUSED_INLINE Vector<T> activate(Vector<T> x) {
  if constexpr (F == Nonlinearity::tanh) {
    return tanh(x);
  } else {
    return x < T(0) ? Vector<T>{} : x;  // NaN passes through, as in torch.relu
  }
}

template <Nonlinearity F, class T>
struct ForwardStep {
  const Forward& call;
  const bool ascending = !call.reverse;
  const bool starts_at_zero = call.h_0.data == nullptr;

  void start(int64_t row, T* state) const {
    const T* h_0 = static_cast<const T*>(call.h_0.data) + row * call.h_0.batch_stride;
    for (int64_t j = 0; j < call.hidden_size; ++j) state[j] = starts_at_zero ? T(0) : h_0[j];
  }

  RNNFUSED_INLINE void emit(int64_t start, int64_t row, bool, int64_t column, int64_t columns,
                            const T* sums, T* next) const {
    const T* p = static_cast<const T*>(call.projections.data) +
                 start * call.projections.time_stride + row * call.projections.batch_stride + column;
    T* h = static_cast<T*>(call.output.data) + start * call.output.time_stride +
           row * call.output.batch_stride + column;
    int64_t j = 0;
    for (; j + kLanes<T> <= columns; j += kLanes<T>) {
      const Vector<T> value = activate<F, T>(load(sums + j) + load(p + j));
      store(next + j, value);
      store(h + j, value);
    }
    if (j < columns) {
      const Vector<T> value = activate<F, T>(load(sums + j) + load_first(p + j, columns - j));
      store(next + j, value);
      store_first(h + j, value, columns - j);
    }
  }

  void finish(int64_t begin, int64_t end, const T* state, int64_t stride, const T*) const {
    for (int64_t row = begin; row < end; ++row, state += stride) {
      T* h_n = static_cast<T*>(call.h_n.data) + row * call.h_n.batch_stride;
      for (int64_t j = 0; j < call.hidden_size; ++j) h_n[j] = state[j];
    }
  }
};

template <class T>
void forward_rows(const Forward& call, const T* packed, T* scratch, int64_t begin, int64_t end) {
  if (call.nonlinearity == Nonlinearity::tanh) {
    scan(ForwardStep<Nonlinearity::tanh, T>{call}, packed, scratch, begin, end);
  } else {
    scan(ForwardStep<Nonlinearity::relu, T>{call}, packed, scratch, begin, end);
  }
}

}  // namespace RNNFUSED_ISA
}  // namespace rnnfused
