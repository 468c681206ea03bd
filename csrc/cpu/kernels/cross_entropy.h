// The cross-entropy of rows of logits, and its gradient (cross_entropy_params.h).
#pragma once

#include "cpu/kernels/exp.h"
#include "cpu/kernels/operand.h"
#include "cpu/kernels/simd.h"
#include "cpu/tuning.h"
#include "cross_entropy_params.h"

namespace rnnfused {
namespace RNNFUSED_ISA {

// A row is reduced in groups of 64 bytes on every instruction set, so its sums have one order.
template <class T>
struct Group {
  static constexpr int kVectors = 64 / RNNFUSED_VECTOR_BYTES;
  static constexpr int kSize = kVectors * kLanes<T>;
  Vector<T> vectors[kVectors];

  RNNFUSED_INLINE explicit Group(Sum<T> value) {
    for (int i = 0; i < kVectors; ++i) vectors[i] = splat(value);
  }
};

// Folds values by halves: i with i + count / 2.
template <int kCount, class Value, class Fold>
RNNFUSED_INLINE Value fold_halves(Value* values, const Fold& fold) {
  if constexpr (kCount == 1) {
    return values[0];
  } else {
    constexpr int kHalf = kCount / 2;
    typedef Value Half __attribute__((vector_size(kHalf * sizeof(Value))));
    Half lower, upper;
    __builtin_memcpy(&lower, values, sizeof lower);
    __builtin_memcpy(&upper, values + kHalf, sizeof upper);
    lower = fold(lower, upper);
    __builtin_memcpy(values, &lower, sizeof lower);
    return fold_halves<kHalf>(values, fold);
  }
}

template <class T, class Fold>
RNNFUSED_INLINE Sum<T> folded(Group<T> group, const Fold& fold) {
  for (int half = Group<T>::kVectors / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) group.vectors[i] = fold(group.vectors[i], group.vectors[i + half]);
  }
  Sum<T> values[kLanes<T>];
  __builtin_memcpy(values, group.vectors, sizeof values);
  return fold_halves<kLanes<T>>(values, fold);
}

template <class T>
constexpr Sum<T> kInfinity = __builtin_inf();

template <class T>
using Lane = decltype(Integers<T>{}[0] + 0);

// The numbers of the lanes: 0, 1, 2, ..
template <class T>
RNNFUSED_INLINE Integers<T> lane_numbers() {
  Integers<T> numbers{};
  for (int i = 0; i < kLanes<T>; ++i) numbers[i] = i;
  return numbers;
}

// The values of the first n lanes, and `other` in the rest; n may exceed the number of lanes.
template <class T>
RNNFUSED_INLINE Vector<T> first_or(Vector<T> values, int64_t n, Sum<T> other) {
  const auto is_first = lane_numbers<T>() < Integers<T>{} + static_cast<Lane<T>>(n);
  return is_first ? values : splat(other);
}

// Calls run(logits, first class, number in the group) for each register of a row. Lanes past the last class hold
// -infinity; the row is padded to whole groups.
template <class T, class Run>
RNNFUSED_INLINE void for_each_vector(const Sum<T>* row, int64_t num_classes, const Run& run) {
  int64_t first = 0;
  for (; first + Group<T>::kSize <= num_classes; first += Group<T>::kSize) {
#pragma GCC unroll 4
    for (int i = 0; i < Group<T>::kVectors; ++i) {
      const int64_t at = first + i * kLanes<T>;
      run(load(row + at), at, i);
    }
  }
  if (first == num_classes) return;
#pragma GCC unroll 4
  for (int i = 0; i < Group<T>::kVectors; ++i) {
    const int64_t at = first + i * kLanes<T>;
    run(first_or<T>(load(row + at), num_classes - at, -kInfinity<T>), at, i);
  }
}

struct Larger {
  template <class Value>
  RNNFUSED_INLINE Value operator()(Value a, Value b) const {
    return a < b ? b : a;
  }
};
struct Plus {
  template <class Value>
  RNNFUSED_INLINE Value operator()(Value a, Value b) const {
    return a + b;
  }
};

// Makes the gradient of the logits of one row from their exponentials, whose sum is given.
template <class T>
RNNFUSED_INLINE void store_gradient(const CrossEntropyRowsParams& params, int64_t r, const Sum<T>* exponentials,
                                    Sum<T> sum) {
  const int64_t num_classes = params.num_classes, target = params.targets[r];
  T* const grads = static_cast<T*>(params.grad_logits.data) + r * params.grad_logits.batch_stride;
  if (target == params.ignore_index) {
    for (int64_t at = 0; at < num_classes; at += kLanes<T>) store(grads + at, Vector<T>{});
    return;
  }
  Sum<T> scale = params.scale;
  if (params.row_scales) scale *= static_cast<const Sum<T>*>(params.row_scales)[r];
  const Sum<T> smoothing = params.label_smoothing, factor = scale / sum;
  const Sum<T> of_target = scale * (1 - smoothing), of_each = scale * smoothing / num_classes;
  for (int64_t at = 0; at < num_classes; at += kLanes<T>) {
    const auto is_target = lane_numbers<T>() == Integers<T>{} + static_cast<Lane<T>>(target - at);
    const Vector<T> p = load(exponentials + at) * factor;
    store(grads + at, rounded<T>(p - of_each - (is_target ? splat(of_target) : Vector<T>{})));
  }
}

// R rows from row r on. Writes the sums of their exponentials, relative to the largest, and the weighted sums of their
// logits, which the losses are made of. Independent rows hide the latency of each other's reductions.
template <class T, int R>
void reduce_rows(const CrossEntropyRowsParams& params, int64_t r, Sum<T>* sums, Sum<T>* weighted) {
  using V = Vector<T>;
  const int64_t num_classes = params.num_classes, stride = params.logits.batch_stride;
  Sum<T>* const first = static_cast<Sum<T>*>(params.logits.data) + r * stride;
  const Sum<T> smoothing = params.label_smoothing;
  Sum<T> maximum[R];
#pragma GCC unroll 2
  for (int i = 0; i < R; ++i) {
    const Sum<T>* const row = first + i * stride;
    Group<T> most(-kInfinity<T>);
    for_each_vector<T>(row, num_classes, [&](V z, int64_t, int k) { most.vectors[k] = Larger()(most.vectors[k], z); });
    maximum[i] = folded(most, Larger());
    const int64_t target = params.targets[r + i];
    weighted[i] = 0;
    if (target == params.ignore_index) continue;
    weighted[i] = (1 - smoothing) * (row[target] - maximum[i]);
    if (smoothing > 0) {
      Group<T> logits(0);
      for_each_vector<T>(row, num_classes, [&](V z, int64_t at, int k) {
        logits.vectors[k] += first_or<T>(z - maximum[i], num_classes - at, 0);
      });
      weighted[i] += smoothing / num_classes * folded(logits, Plus());
    }
  }
#pragma GCC unroll 2
  for (int i = 0; i < R; ++i) {
    Sum<T>* const row = first + i * stride;
    Group<T> exponentials(0);
    for_each_vector<T>(row, num_classes, [&](V z, int64_t at, int k) {
      const V e = exp<T>(z - maximum[i]);
      exponentials.vectors[k] += e;
      store(row + at, e);
    });
    sums[i] = folded(exponentials, Plus());
  }
  if (!params.grad_logits.data) return;
#pragma GCC unroll 2
  for (int i = 0; i < R; ++i) store_gradient<T>(params, r + i, first + i * stride, sums[i]);
}

template <class T>
void cross_entropy_rows(const CrossEntropyRowsParams& params, int64_t begin, int64_t end) {
  constexpr int kTogether = 2;
  // The logarithms of some rows are computed at once.
  alignas(64) Sum<T> sums[kLanes<T>], weighted[kLanes<T>];
  for (int64_t start = begin; start < end; start += kLanes<T>) {
    const int64_t rows = smaller(end - start, kLanes<T>);
    for (int64_t i = rows; i < kLanes<T>; ++i) sums[i] = weighted[i] = 1;
    int64_t i = 0;
    for (; i + kTogether <= rows; i += kTogether) reduce_rows<T, kTogether>(params, start + i, sums + i, weighted + i);
    for (; i < rows; ++i) reduce_rows<T, 1>(params, start + i, sums + i, weighted + i);
    for (i = 0; i < rows; ++i) {
      if (params.targets[start + i] == params.ignore_index) sums[i] = 1;
    }
    const Vector<T> loss = log<T>(load(sums)) - load(weighted);
    Sum<T>* const losses = static_cast<Sum<T>*>(params.losses) + start;
    if (rows == kLanes<T>) {
      store(losses, loss);
    } else {
      store_first(losses, loss, rows);
    }
  }
}

}  // namespace RNNFUSED_ISA
}  // namespace rnnfused
