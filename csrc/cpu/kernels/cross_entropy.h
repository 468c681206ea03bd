// The cross-entropy of rows of logits, and its gradient (cross_entropy_params.h).
#pragma once

#include "cpu/kernels/exp.h"
#include "cpu/kernels/fold.h"
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

// The fold of a group's registers into one.
template <class T, class Fold>
RNNFUSED_INLINE Vector<T> folded(Group<T> group, const Fold& fold) {
  for (int half = Group<T>::kVectors / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) group.vectors[i] = fold(group.vectors[i], group.vectors[i + half]);
  }
  return group.vectors[0];
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

// The mean of a row's logits, relative to the largest. Not inlined: its registers would be missing elsewhere.
template <class T>
__attribute__((noinline)) Sum<T> mean_logit(const Sum<T>* row, int64_t num_classes, Sum<T> maximum) {
  Group<T> logits(0);
  for_each_vector<T>(row, num_classes, [&](Vector<T> z, int64_t at, int k) {
    logits.vectors[k] += first_or<T>(z - maximum, num_classes - at, 0);
  });
  Vector<T> sums[kLanes<T>] = {folded(logits, Plus())};
  return folded_lanes<T>(sums, Plus())[0] / num_classes;
}

// The losses and gradients of as many rows at once as a register has lanes: their reductions share the shuffles and
// hide each other's latency. Holds copies of the parameters, which no store through a row's pointer can change.
template <class T>
class CrossEntropyRows {
  using V = Vector<T>;
  using S = Sum<T>;

 public:
  RNNFUSED_INLINE explicit CrossEntropyRows(const CrossEntropyRowsParams& params)
      : num_classes_(params.num_classes),
        logits_(static_cast<S*>(params.logits.data)),
        logits_stride_(params.logits.batch_stride),
        targets_(params.targets),
        ignore_index_(params.ignore_index),
        smoothing_(static_cast<S>(params.label_smoothing)),
        scale_(static_cast<S>(params.scale)),
        row_scales_(static_cast<const S*>(params.row_scales)),
        losses_(static_cast<S*>(params.losses)),
        grads_(static_cast<T*>(params.grad_logits.data)),
        grads_stride_(params.grad_logits.batch_stride) {}

  // Rows [begin, begin + count), at most kLanes<T>.
  RNNFUSED_INLINE void run(int64_t begin, int64_t count) const {
    S* const first = logits_ + begin * logits_stride_;
    V partial[kLanes<T>] = {};
    for (int64_t i = 0; i < count; ++i) partial[i] = largest(first + i * logits_stride_);
    alignas(64) S maxima[kLanes<T>], logarithms[kLanes<T>];
    S means[kLanes<T>] = {};
    store(maxima, folded_lanes<T>(partial, Larger()));
    // The means of the logits over the target distributions, relative to the largest.
    for (int64_t i = 0; i < count; ++i) {
      const S* const row = first + i * logits_stride_;
      const int64_t target = targets_[begin + i];
      if (target == ignore_index_) continue;
      means[i] = (1 - smoothing_) * (row[target] - maxima[i]);
      if (smoothing_ > 0) means[i] += smoothing_ * mean_logit<T>(row, num_classes_, maxima[i]);
    }
    for (int64_t i = 0; i < count; ++i) partial[i] = make_exponentials(first + i * logits_stride_, maxima[i]);
    const V sums = folded_lanes<T>(partial, Plus());
    store(logarithms, log<T>(sums));
    // One by one: loading a register right after the stores of its lanes would stall.
    for (int64_t i = 0; i < count; ++i) {
      losses_[begin + i] = targets_[begin + i] != ignore_index_ ? logarithms[i] - means[i] : 0;
    }
    if (!grads_) return;
    V scale = splat(scale_);
    if (row_scales_) {
      const S* const from = row_scales_ + begin;
      scale *= count == kLanes<T> ? load(from) : load_first(from, count);
    }
    alignas(64) S scales[kLanes<T>], factors[kLanes<T>];
    store(scales, scale);
    store(factors, scale / sums);
    for (int64_t i = 0; i < count; ++i) {
      const S* const exponentials = first + i * logits_stride_;
      T* const grads = grads_ + (begin + i) * grads_stride_;
      if (targets_[begin + i] != ignore_index_) {
        store_gradient(exponentials, targets_[begin + i], scales[i], factors[i], grads);
      } else {
        for (int64_t at = 0; at < num_classes_; at += kLanes<T>) store(grads + at, V{});
      }
    }
  }

 private:
  // Lanes whose largest is that of the row.
  RNNFUSED_INLINE V largest(const S* row) const {
    Group<T> most(-kInfinity<T>);
    for_each_vector<T>(row, num_classes_, [&](V z, int64_t, int k) { most.vectors[k] = Larger()(most.vectors[k], z); });
    return folded(most, Larger());
  }

  // Replaces logits by their exponentials, relative to the largest. Returns lanes whose sum is that of the row.
  RNNFUSED_INLINE V make_exponentials(S* row, S maximum) const {
    Group<T> sum(0);
    for_each_vector<T>(row, num_classes_, [&](V z, int64_t at, int k) {
      const V e = exp<T>(z - maximum);
      sum.vectors[k] += e;
      store(row + at, e);
    });
    return folded(sum, Plus());
  }

  // `factor`: the row's scale divided by the sum of its exponentials.
  RNNFUSED_INLINE void store_gradient(const S* exponentials, int64_t target, S scale, S factor, T* grads) const {
    const S of_target = scale * (1 - smoothing_), of_each = scale * smoothing_ / num_classes_;
    for (int64_t at = 0; at < num_classes_; at += kLanes<T>) {
      const auto is_target = lane_numbers<T>() == Integers<T>{} + static_cast<Lane<T>>(target - at);
      const V p = fma(load(exponentials + at), splat(factor), splat(-of_each));
      store(grads + at, rounded<T>(p - (is_target ? splat(of_target) : V{})));
    }
  }

  const int64_t num_classes_;
  S* const logits_;
  const int64_t logits_stride_;
  const int64_t* const targets_;
  const int64_t ignore_index_;
  const S smoothing_, scale_;
  const S* const row_scales_;
  S* const losses_;
  T* const grads_;
  const int64_t grads_stride_;
};

template <class T>
void cross_entropy_rows(const CrossEntropyRowsParams& params, int64_t begin, int64_t end) {
  const CrossEntropyRows<T> rows(params);
  // Long rows go one by one: from the maximum to the gradient they stay in L1 or L2.
  const int64_t bytes = product_of(params.logits.batch_stride, sizeof(Sum<T>));
  const int64_t together = bytes * kLanes<T> <= kRowsTogetherBytes ? kLanes<T> : 1;
  for (int64_t r = begin; r < end; r += together) rows.run(r, smaller(end - r, together));
}

}  // namespace RNNFUSED_ISA
}  // namespace rnnfused
