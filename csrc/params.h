// The parameters of every kernel, on every device: pointers, sizes, strides. No torch here.
//
//   forward    h_t = f(p_t + h_{t-1} W^T)              f = tanh or relu, p = projected inputs
//   backward   d_t = (g_t + d_{t+1} W) * f'(h_t)       f' from the saved h alone; dp = d, dh_0 = d_0 W
//
//   projection     out = in W^T + b         the input projection, and the gradient of the input
//   product sum    sum_r left_r^T right_r   the gradient of a weight, over all steps and rows
//   token sum      the same where right_r is the one-hot row of a token id
//
// W may be block-diagonal; only the blocks (heads) are stored. A batch may be padded, packed, or have rows with
// lengths, padded or one after another. "Previous" and "next" follow the direction: with `reverse` the forward loop
// runs from the last step to the first, and h_0 enters at a row's last step.
#pragma once

#include <cstdint>
#include <type_traits>
#include <utility>

#include "sizes.h"

#ifdef __CUDACC__
#define RNNFUSED_EVERYWHERE __host__ __device__
#else
#define RNNFUSED_EVERYWHERE
#endif

namespace rnnfused {

// With the 16-bit types every state is rounded; all arithmetic is in float32.
enum class Dtype : int32_t { float32, float64, bfloat16, float16 };
inline int64_t bytes_of(Dtype dtype) { return dtype == Dtype::float64 ? 8 : dtype == Dtype::float32 ? 4 : 2; }

// The dtype that sums of products have.
inline Dtype sum_dtype(Dtype dtype) { return dtype == Dtype::float64 ? Dtype::float64 : Dtype::float32; }

enum class Nonlinearity : int32_t { tanh, relu };

// A (time, batch, hidden) tensor; all strides count elements and hidden is contiguous.
// Element (t, b, j) lies at data[step_start(t) * time_stride + sequence_row(b) * batch_stride + j], with the functions of
// RecurrenceParams. (T,B,H) and (B,T,H) differ in strides only.
template <class Pointer>
struct SequenceOf {
  Pointer data = nullptr;
  int64_t time_stride = 0;
  int64_t batch_stride = 0;

  // Whether the batch dimension lies outside time in memory.
  bool is_batch_first() const { return time_stride < batch_stride; }
};
using Sequence = SequenceOf<void*>;
using ConstSequence = SequenceOf<const void*>;
// (time, batch) token ids, which lie like the rows of a sequence. An id stands for its one-hot row.
using ConstIds = SequenceOf<const int64_t*>;

// A (batch, hidden) state; hidden is contiguous.
template <class Pointer>
struct StateOf {
  Pointer data = nullptr;
  int64_t batch_stride = 0;
};
using State = StateOf<void*>;
using ConstState = StateOf<const void*>;

// A matrix with any strides: transposing a view moves no data.
struct ConstMatrix {
  const void* data = nullptr;
  int64_t row_stride = 0;
  int64_t column_stride = 0;
};

inline ConstMatrix transposed(const ConstMatrix& matrix) {
  return {matrix.data, matrix.column_stride, matrix.row_stride};
}

// The view from its n-th element on; a null view stays null.
template <class View>
View skip(View view, int64_t n, int64_t item_bytes) {
  using Bytes = std::conditional_t<std::is_const_v<std::remove_pointer_t<decltype(view.data)>>, const char, char>;
  if (view.data) view.data = static_cast<Bytes*>(view.data) + n * item_bytes;
  return view;
}

// The parameters that both directions of the loop share.
struct RecurrenceParams {
  int64_t num_steps = 0;
  int64_t batch_size = 0;
  int64_t hidden_size = 0;
  int64_t num_heads = 1;  // each of hidden_size / num_heads features
  Dtype dtype = Dtype::float32;
  Nonlinearity nonlinearity = Nonlinearity::tanh;
  bool reverse = false;
  // Rows [0, batch_sizes[t]) take part in step t: (num_steps), non-increasing. Null: every row.
  const int64_t* batch_sizes = nullptr;
  // Where each step starts, in units of time_stride: (num_steps). Null: step t starts at t.
  const int64_t* step_starts = nullptr;
  // With lengths (CPU), the loop takes the longest rows first. For its i-th row, (batch_size) each: the length, the
  // row of a sequence in units of batch_stride, and the row of a state. Null sequence_rows and state_rows: i.
  const int64_t* lengths = nullptr;
  const int64_t* sequence_rows = nullptr;
  const int64_t* state_rows = nullptr;
  // Rows of flat sequences: (num_rows, hidden), packed or row after row, with batch_stride = time_stride. Else -1.
  int64_t num_rows = -1;
  // In a part of a ragged batch (CPU, cpu/ragged.h): where its projections or its d of each step start, in rows, and
  // the loop's i-th row is the i-th there; null: they lie as the other sequences do. And the rows that ran before the
  // loop's first step, and the rows that run on after its last.
  const int64_t* part_starts = nullptr;
  int64_t rows_before = 0, rows_after = 0;
  ConstMatrix weight_hh;
  int64_t head_stride = 0;  // of weight_hh

  RNNFUSED_EVERYWHERE int64_t rows_in_step(int64_t t) const { return batch_sizes ? batch_sizes[t] : batch_size; }
  RNNFUSED_EVERYWHERE int64_t step_start(int64_t t) const { return step_starts ? step_starts[t] : t; }
  int64_t sequence_row(int64_t row) const { return sequence_rows ? sequence_rows[row] : row; }
  int64_t state_row(int64_t row) const { return state_rows ? state_rows[row] : row; }
  bool is_flat() const { return num_rows >= 0; }
  // Whether rows end at different steps.
  bool is_ragged() const { return batch_sizes || lengths; }

 protected:
  void take_head(int64_t head) {
    hidden_size /= num_heads;
    num_heads = 1;
    weight_hh = skip(weight_hh, head * head_stride, bytes_of(dtype));
  }
};

struct ForwardParams : RecurrenceParams {
  ConstSequence projections;          // p; or the loop makes them (CPU): p = x W_ih^T + b_ih + b_hh
  bool projections_are_sums = false;  // p is in sum_dtype, beside 16-bit states (CPU)
  ConstSequence input;                // x, of input_size features
  ConstIds ids;                       // x as token ids; null: x is `input`
  int64_t input_size = 0;             // 0: the projections are given
  ConstMatrix weight_ih;
  const void* bias_ih = nullptr;  // (hidden); null: zeros
  const void* bias_hh = nullptr;  // (hidden); null: zeros
  ConstState h_0;                 // null: zeros
  Sequence output;                // h
  State h_n;                      // each row's state after its own last step; null: not wanted (CPU)

  // Whether every row takes part in every step, in a single head.
  bool is_plain() const { return !is_ragged() && num_heads == 1; }

  // The parameters of steps [first, last) of a plain call. The caller sets their projections.
  ForwardParams part(int64_t first, int64_t last) const {
    ForwardParams part = *this;
    const int64_t bytes = bytes_of(dtype);
    const auto to_first = [&](auto& sequence) { sequence = skip(sequence, first * sequence.time_stride, bytes); };
    part.num_steps = last - first;
    to_first(part.input);
    to_first(part.output);
    if (reverse ? last < num_steps : first > 0) {
      const Sequence before = skip(output, (reverse ? last : first - 1) * output.time_stride, bytes);
      part.h_0 = {before.data, before.batch_stride};
    }
    if (reverse ? first > 0 : last < num_steps) part.h_n = {};
    return part;
  }

  // The parameters of one head.
  ForwardParams of_head(int64_t head) const {
    ForwardParams part = *this;
    part.take_head(head);
    const int64_t bytes = bytes_of(dtype), first = head * part.hidden_size;
    part.projections = skip(projections, first, projections_are_sums ? bytes_of(sum_dtype(dtype)) : bytes);
    part.weight_ih = skip(weight_ih, first * weight_ih.row_stride, bytes);
    part.bias_ih = skip(ConstState{bias_ih}, first, bytes).data;
    part.bias_hh = skip(ConstState{bias_hh}, first, bytes).data;
    part.h_0 = skip(h_0, first, bytes);
    part.output = skip(output, first, bytes);
    part.h_n = skip(h_n, first, bytes);
    return part;
  }
};

struct BackwardParams : RecurrenceParams {
  ConstSequence grad_output;      // g; null: zeros
  ConstState grad_h_n;            // null: zeros
  ConstState d_after;             // d of the step after the last, in a part of a longer call (CPU); null: zeros
  ConstSequence output;           // h, as the forward call wrote it
  Sequence grad_projections;      // d
  State grad_h_0;                 // null: not wanted
  double clip = __builtin_inf();  // d is clipped to [-clip, clip] (CPU)

  // The parameters of one head.
  BackwardParams of_head(int64_t head) const {
    BackwardParams part = *this;
    part.take_head(head);
    const int64_t bytes = bytes_of(dtype), first = head * part.hidden_size;
    part.grad_output = skip(grad_output, first, bytes);
    part.grad_h_n = skip(grad_h_n, first, bytes);
    part.d_after = skip(d_after, first, bytes);
    part.output = skip(output, first, bytes);
    part.grad_projections = skip(grad_projections, first, bytes);
    part.grad_h_0 = skip(grad_h_0, first, bytes);
    return part;
  }
};

struct ProjectionParams {
  int64_t rows = 0;
  int64_t in_size = 0;
  int64_t out_size = 0;
  Dtype dtype = Dtype::float32;
  ConstState input;               // (rows, in_size)
  ConstMatrix weight;             // (in_size, out_size): W^T
  const void* bias_ih = nullptr;  // (out_size); null: zeros
  const void* bias_hh = nullptr;  // (out_size); null: zeros
  State output;                   // (rows, out_size)
  bool keeps_sums = false;        // the output is in sum_dtype
  bool pads = false;  // output rows have room for whole vectors, of 64 bytes at most, past their last column

  // The parameters of output columns [begin, end).
  ProjectionParams columns(int64_t begin, int64_t end) const {
    ProjectionParams part = *this;
    const int64_t bytes = bytes_of(dtype);
    part.out_size = end - begin;
    part.pads = pads && end == out_size;
    part.weight = skip(weight, begin * weight.column_stride, bytes);
    part.bias_ih = skip(ConstState{bias_ih}, begin, bytes).data;
    part.bias_hh = skip(ConstState{bias_hh}, begin, bytes).data;
    part.output = skip(output, begin, keeps_sums ? bytes_of(sum_dtype(dtype)) : bytes);
    return part;
  }
};

// (outer, inner, size) rows. Element (o, i, j) lies at data[o * outer_stride + i * inner_stride + j].
struct Rows {
  const void* data = nullptr;
  int64_t outer_stride = 0;
  int64_t inner_stride = 0;
};

struct ProductSumParams {
  int64_t outer = 0;
  int64_t inner = 0;
  int64_t left_size = 0;
  int64_t right_size = 0;
  Dtype dtype = Dtype::float32;
  Rows left, right;
  void* result = nullptr;  // (left_size, right_size) in sum_dtype, contiguous
  bool adds = false;       // adds to the result's old values

  // Joins rows that all lie at one distance into one run.
  void join_rows() {
    if (inner == 1) {
      std::swap(inner, outer);
      left.inner_stride = left.outer_stride;
      right.inner_stride = right.outer_stride;
    } else if (inner > 0 && outer > 0 && left.outer_stride == inner * left.inner_stride &&
               right.outer_stride == inner * right.inner_stride) {
      inner = product_of(inner, outer);
      outer = 1;
    }
  }
};

// The number 1. As left rows at distance 0 it makes a product sum add up the right rows.
inline const void* one_of(Dtype dtype) {
  static constexpr double kFloat64 = 1;
  static constexpr float kFloat32 = 1;
  static constexpr uint16_t kFloat16 = 0x3c00, kBfloat16 = 0x3f80;
  return dtype == Dtype::float64   ? static_cast<const void*>(&kFloat64)
         : dtype == Dtype::float32 ? static_cast<const void*>(&kFloat32)
         : dtype == Dtype::float16 ? static_cast<const void*>(&kFloat16)
                                   : static_cast<const void*>(&kBfloat16);
}

// result[ids[r]] += rows[r] for all rows r; with a transposed result, result[:, ids[r]] += rows[r].
struct TokenSumParams {
  int64_t outer = 0;
  int64_t inner = 0;
  int64_t size = 0;
  int64_t num_tokens = 0;
  Dtype dtype = Dtype::float32;
  Rows rows;                     // (outer, inner, size)
  const int64_t* ids = nullptr;  // (outer, inner)
  int64_t ids_outer_stride = 0;
  int64_t ids_inner_stride = 0;
  void* result = nullptr;      // (num_tokens, size) in sum_dtype, contiguous
  bool is_transposed = false;  // the result is (size, num_tokens)
  bool adds = false;           // adds to the result's old values
};

}  // namespace rnnfused
