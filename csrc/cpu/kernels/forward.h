// The forward step on the CPU: h_t = f(p_t + h_{t-1} W^T). p_t is given, or p_t = b + x_t W_ih^T, where x_t may be
// token ids.
#pragma once

#include "cpu/kernels/scan.h"
#include "cpu/kernels/simd.h"
#include "cpu/kernels/tanh.h"
#include "cpu/tuning.h"
#include "params.h"

namespace rnnfused {
namespace RNNFUSED_ISA {

template <Nonlinearity F, class T>
RNNFUSED_INLINE Vector<T> activate(Vector<T> x) {
  if constexpr (F == Nonlinearity::tanh) {
    return tanh(x);
  } else {
    return x < Sum<T>(0) ? Vector<T>{} : x;  // NaN passes through, as in torch.relu
  }
}

// Whether each step copies its rows of x first: they have another order, or in place they would evict each other from
// L1.
template <class T>
RNNFUSED_INLINE bool copies_input(const ForwardParams& params) {
  if (params.sequence_rows) return true;
  return params.batch_size > 1 && !kConverts<T> &&
         static_cast<uint64_t>(params.input.batch_stride) * sizeof(Operand<T>) % kInputAliasBytes == 0;
}
template <class T>
RNNFUSED_INLINE int64_t input_elements(const ForwardParams& params, int64_t rows) {
  if (!copies_input<T>(params) || params.input_size == 0 || params.ids.data) return 0;
  return product_of(rows_at_once<T>(params.hidden_size, rows), padded_stride<T>(params.input_size));
}

// Whether a tile prefetches its output: the output exceeds a cache, and the tile takes long enough.
template <class T>
RNNFUSED_INLINE bool prefetches_output(const ForwardParams& params) {
  return product_of(params.num_steps, params.batch_size, params.hidden_size, sizeof(T)) > kMinPrefetchedOutput &&
         params.hidden_size + params.input_size >= kMinPrefetchDepth;
}

template <Nonlinearity F, class T>
struct ForwardStep {
  const ForwardParams& params;
  const Operand<T>* packed_ih;  // null: the projections are given
  const Sum<T>* packed_bias;    // null: zeros
  Operand<T>* input_copy;
  const bool ascending = !params.reverse;
  const ConstState& first_state = params.h_0;
  const bool prefetches = prefetches_output<T>(params);

  // Packs panels [begin, end) into `weights`.
  void pack(const PackedWeights& weights, int64_t begin, int64_t end) const {
    const int64_t size = params.hidden_size;
    pack_panels<T>(transposed(params.weight_hh), size, size, static_cast<Operand<T>*>(weights.hh), begin, end);
    if (!weights.ih) return;
    pack_panels<T>(transposed(params.weight_ih), params.input_size, size, static_cast<Operand<T>*>(weights.ih), begin,
                   end);
  }

  bool finish_multiplies() const { return false; }

  template <class Use>
  RNNFUSED_INLINE void product(int64_t start, int64_t part_start, int64_t begin, int64_t rows,
                               const Use& use_from) const {
    const auto use = [&](const auto& from, Factor<T> input, int count) __attribute__((always_inline)) {
      use_from(
          [&](int64_t first, int64_t rows, int64_t column, int64_t columns, int64_t width,
              Sum<T>* sums) __attribute__((always_inline)) {
            for (int64_t row = first; prefetches && row < first + rows; ++row) {
              prefetch_row<true>(row_at<T>(params.output, start, params.sequence_row(begin + row)) + column, columns);
            }
            return from(first, rows, column, columns, width, sums);
          },
          input, count);
    };
    const int64_t* const order = params.sequence_rows ? params.sequence_rows + begin : nullptr;
    const int64_t first = order ? 0 : begin;
    if (params.ids.data) {
      const int64_t* ids = params.ids.data + start * params.ids.time_stride + first * params.ids.batch_stride;
      use(FromTokens<T>{packed_ih, params.input_size, packed_bias, ids, params.ids.batch_stride, order}, Factor<T>(),
          0);
    } else if (packed_ih) {
      const Operand<T>* input = row_at<Operand<T>>(params.input, start, first);
      int64_t stride = params.input.batch_stride;
      if (copies_input<T>(params)) {
        const int64_t copy_stride = padded_stride<T>(params.input_size);
        for (int64_t row = 0; row < rows; ++row) {
          copy_row(input + (order ? order[row] : row) * stride, input_copy + row * copy_stride, params.input_size);
        }
        input = input_copy;
        stride = copy_stride;
      }
      use(FromBias<T>{packed_bias}, Factor<T>{input, stride, packed_ih, params.input_size}, 1);
    } else {
      const int64_t stride = params.projections.batch_stride;
      const int64_t* const order_of_sums = params.part_starts ? nullptr : order;
      const int64_t first_of_sums = order_of_sums ? 0 : begin;
      if (sizeof(T) < sizeof(Sum<T>) && params.projections_are_sums) {
        use(FromRows<T, Sum<T>>{row_at<Sum<T>>(params.projections, part_start, first_of_sums), stride, order_of_sums},
            Factor<T>(), 0);
      } else {
        use(FromRows<T, T>{row_at<T>(params.projections, part_start, first_of_sums), stride, order_of_sums},
            Factor<T>(), 0);
      }
    }
  }

  RNNFUSED_INLINE void emit(int64_t start, int64_t, int64_t begin, int64_t, const Sums<T>& of, Operand<T>* next,
                            int64_t next_stride) const {
    const auto emit_rows = [&](int64_t columns) __attribute__((always_inline)) {
      const Sum<T>* sums = of.sums;
      Operand<T>* to = next;
      for (int64_t row = of.first; row < of.end; ++row) {
        T* const h = row_at<T>(params.output, start, params.sequence_row(begin + row)) + of.column;
        int64_t j = 0;
#pragma GCC unroll 2
        for (; j + kLanes<T> <= columns; j += kLanes<T>) {
          const Vector<T> value = rounded<T>(activate<F, T>(load(sums + j)));
          store(to + j, value);
          store(h + j, value);
        }
        if (j < columns) {
          const Vector<T> value = rounded<T>(activate<F, T>(load(sums + j)));
          store(to + j, value);
          store_first(h + j, value, columns - j);
        }
        sums += of.width;
        to += next_stride;
      }
    };
    // A whole panel has a constant number of columns, so the compiler unrolls its loop.
    if (of.columns == kPanelColumns<T>) {
      emit_rows(kPanelColumns<T>);
    } else {
      emit_rows(of.columns);
    }
  }

  void finish(int64_t begin, int64_t end, const Operand<T>* state, int64_t stride) const {
    if (!params.h_n.data) return;
    for (int64_t row = begin; row < end; ++row, state += stride) {
      copy_row(state, static_cast<T*>(params.h_n.data) + params.state_row(row) * params.h_n.batch_stride,
               params.hidden_size);
    }
  }
};

template <class T>
void forward_rows(const ForwardParams& params, const PackedWeights& weights, Operand<T>* scratch, int64_t begin,
                  int64_t end, const Member& member) {
  const auto* const packed_ih = static_cast<const Operand<T>*>(weights.ih);
  const auto* const packed_bias = static_cast<const Sum<T>*>(weights.bias);
  Operand<T>* const input_copy = scratch + scratch_elements<T>(params.hidden_size, end - begin) +
                                 member.number * input_elements<T>(params, end - begin);
  if (params.nonlinearity == Nonlinearity::tanh) {
    scan<T>(ForwardStep<Nonlinearity::tanh, T>{params, packed_ih, packed_bias, input_copy}, weights, scratch, begin,
            end, member);
  } else {
    scan<T>(ForwardStep<Nonlinearity::relu, T>{params, packed_ih, packed_bias, input_copy}, weights, scratch, begin,
            end, member);
  }
}

}  // namespace RNNFUSED_ISA
}  // namespace rnnfused
