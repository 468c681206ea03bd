// The backward step on the CPU: d_t = (g_t + d_{t+1} W) * f'(h_t), perhaps clipped, and dh_0 = d_0 W.
#pragma once

#include "cpu/kernels/scan.h"
#include "cpu/kernels/simd.h"
#include "params.h"

namespace rnnfused {
namespace RNNFUSED_ISA {

// f'(x) * grad, from h = f(x).
template <Nonlinearity F, class T>
RNNFUSED_INLINE Vector<T> through(Vector<T> grad, Vector<T> h) {
  if constexpr (F == Nonlinearity::tanh) {
    return grad * fma(-h, h, splat(Sum<T>(1)));
  } else {
    return h <= Sum<T>(0) ? Vector<T>{} : grad;
  }
}

template <Nonlinearity F, class T>
struct BackwardStep {
  const BackwardParams& params;
  const Operand<T>* packed;
  const bool ascending = params.reverse;
  const ConstState& first_state = params.d_after;

  // Packs panels [begin, end) into `weights`.
  void pack(const PackedWeights& weights, int64_t begin, int64_t end) const {
    const int64_t size = params.hidden_size;
    pack_panels<T>(params.weight_hh, size, size, static_cast<Operand<T>*>(weights.hh), begin, end);
  }

  bool finish_multiplies() const { return params.grad_h_0.data != nullptr; }

  // The d of a row of the loop.
  RNNFUSED_INLINE T* d_at(int64_t part_start, int64_t row) const {
    return row_at<T>(params.grad_projections, part_start, params.part_starts ? row : params.sequence_row(row));
  }

  // Initial sums of zero; prefetches the memory that emit() reads and writes.
  template <class Use>
  RNNFUSED_INLINE void product(int64_t start, int64_t part_start, int64_t begin, int64_t, const Use& use) const {
    const auto from = [&, start, part_start, begin](int64_t first, int64_t rows, int64_t column, int64_t columns,
                                                    int64_t, Sum<T>*) __attribute__((always_inline)) -> Start<T> {
      for (int64_t row = begin + first; row < begin + first + rows; ++row) {
        const int64_t at = params.sequence_row(row);
        if (params.grad_output.data) prefetch_row<false>(row_at<T>(params.grad_output, start, at) + column, columns);
        prefetch_row<false>(row_at<T>(params.output, start, at) + column, columns);
        prefetch_row<true>(d_at(part_start, row) + column, columns);
      }
      return {};
    };
    use(from, Factor<T>(), 0);
  }

  // Rows from `before` on are at their last step in time, where grad_h_n enters.
  RNNFUSED_INLINE void emit(int64_t start, int64_t part_start, int64_t begin, int64_t before, const Sums<T>& of,
                            Operand<T>* next, int64_t next_stride) const {
    const bool clips = params.clip < __builtin_inf();
    const Sum<T> most = static_cast<Sum<T>>(params.clip);
    // d from the gradient of h. NaN passes through.
    const auto value_of = [&](Vector<T> grad, Vector<T> h) __attribute__((always_inline)) {
      Vector<T> d = through<F, T>(grad, h);
      if (clips) {
        d = d > most ? splat(most) : d;
        d = d < -most ? splat(-most) : d;
      }
      return rounded<T>(d);
    };
    const Sum<T>* sums = of.sums;
    for (int64_t row = of.first; row < of.end; ++row) {
      const int64_t at = params.sequence_row(begin + row);
      const T* grads[2];
      int sources = 0;
      if (params.grad_output.data) {
        grads[sources++] = row_at<T>(params.grad_output, start, at) + of.column;
      }
      if (row >= before && params.grad_h_n.data) {
        grads[sources++] = static_cast<const T*>(params.grad_h_n.data) +
                           params.state_row(begin + row) * params.grad_h_n.batch_stride + of.column;
      }
      const T* h = row_at<T>(params.output, start, at) + of.column;
      T* d = d_at(part_start, begin + row) + of.column;
      int64_t j = 0;
      for (; j + kLanes<T> <= of.columns; j += kLanes<T>) {
        Vector<T> grad = load(sums + j);
        for (int i = 0; i < sources; ++i) grad += load(grads[i] + j);
        const Vector<T> value = value_of(grad, load(h + j));
        store(next + j, value);
        store(d + j, value);
      }
      if (j < of.columns) {
        const int64_t left = of.columns - j;
        Vector<T> grad = load(sums + j);
        for (int i = 0; i < sources; ++i) grad += load_first(grads[i] + j, left);
        const Vector<T> value = value_of(grad, load_first(h + j, left));
        store(next + j, value);
        store_first(d + j, value, left);
      }
      sums += of.width;
      next += next_stride;
    }
  }

  void finish(int64_t begin, int64_t end, const Operand<T>* state, int64_t stride) const {
    if (!params.grad_h_0.data) return;
    const Factor<T> factors[2] = {{state, stride, packed, params.hidden_size}, {}};
    multiply<T>(factors, 1, end - begin, end - begin, 0, params.hidden_size, false, FromZero<T>(),
                [&](const Sums<T>& of) {
                  T* const grad = static_cast<T*>(params.grad_h_0.data) + of.column;
                  for (int64_t row = of.first; row < of.end; ++row) {
                    copy_row(of.sums + (row - of.first) * of.width,
                             grad + params.state_row(begin + row) * params.grad_h_0.batch_stride, of.columns);
                  }
                });
  }
};

template <class T>
void backward_rows(const BackwardParams& params, const PackedWeights& weights, Operand<T>* scratch, int64_t begin,
                   int64_t end, const Member& member) {
  const auto* const packed = static_cast<const Operand<T>*>(weights.hh);
  if (params.nonlinearity == Nonlinearity::tanh) {
    scan<T>(BackwardStep<Nonlinearity::tanh, T>{params, packed}, weights, scratch, begin, end, member);
  } else {
    scan<T>(BackwardStep<Nonlinearity::relu, T>{params, packed}, weights, scratch, begin, end, member);
  }
}

}  // namespace RNNFUSED_ISA
}  // namespace rnnfused
