// The forward step on CPU: h_t = f(p_t + h_{t-1} W^T), with p_t given or p_t = b + x_t W_ih^T,
// where x_t may be token ids.
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
  const T* packed_ih;  // null: the projections are given
  const bool ascending = !call.reverse;
  const bool starts_at_zero = call.h_0.data == nullptr;

  void start(int64_t row, T* state) const {
    const T* h_0 = static_cast<const T*>(call.h_0.data) + row * call.h_0.batch_stride;
    for (int64_t j = 0; j < call.hidden_size; ++j) state[j] = starts_at_zero ? T(0) : h_0[j];
  }

  template <class Use>
  RNNFUSED_INLINE void product(int64_t start, int64_t begin, const Use& use) const {
    const auto rows_at = [&](const ConstSequence& sequence) {
      return static_cast<const T*>(sequence.data) + start * sequence.time_stride +
             begin * sequence.batch_stride;
    };
    if (call.ids.data) {
      const int64_t* ids =
          call.ids.data + start * call.ids.time_stride + begin * call.ids.batch_stride;
      use(FromTokens<T>{packed_ih, call.input_size, static_cast<const T*>(call.bias), ids,
                        call.ids.batch_stride},
          Factor<T>(), 0);
    } else if (packed_ih) {
      const Factor<T> input = {rows_at(call.input), call.input.batch_stride, packed_ih, call.input_size};
      use(FromBias<T>{static_cast<const T*>(call.bias)}, input, 1);
    } else {
      use(FromRows<T>{rows_at(call.projections), call.projections.batch_stride}, Factor<T>(), 0);
    }
  }

  RNNFUSED_INLINE void emit(int64_t start, int64_t row, bool, int64_t column, int64_t columns,
                            const T* sums, T* next) const {
    T* h = static_cast<T*>(call.output.data) + start * call.output.time_stride +
           row * call.output.batch_stride + column;
    int64_t j = 0;
    for (; j + kLanes<T> <= columns; j += kLanes<T>) {
      const Vector<T> value = activate<F, T>(load(sums + j));
      store(next + j, value);
      store(h + j, value);
    }
    if (j < columns) {
      const Vector<T> value = activate<F, T>(load(sums + j));
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
void forward_rows(const Forward& call, const T* packed, const T* packed_ih, T* scratch, int64_t begin,
                  int64_t end) {
  if (call.nonlinearity == Nonlinearity::tanh) {
    scan(ForwardStep<Nonlinearity::tanh, T>{call, packed_ih}, packed, scratch, begin, end);
  } else {
    scan(ForwardStep<Nonlinearity::relu, T>{call, packed_ih}, packed, scratch, begin, end);
  }
}

}  // namespace RNNFUSED_ISA
}  // namespace rnnfused
