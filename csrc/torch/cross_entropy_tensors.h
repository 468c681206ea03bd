// Turns the tensors of the op `linear_cross_entropy` into parameters.
#pragma once

#include <cstring>

#include "cpu/dispatch.h"
#include "cpu/memory.h"
#include "cross_entropy_params.h"
#include "torch/tensors.h"

namespace rnnfused {

// The results and parameters for (rows, hidden) states. Unwanted gradients are empty. The caller runs the parameters,
// then calls finish().
struct CrossEntropyTensors {
  enum Reduction { none, mean, sum };

  Tensor loss, grad_hidden, grad_weight, grad_bias;
  LinearCrossEntropyParams params;

  CrossEntropyTensors(const Tensor& hidden, const Tensor& weight, const OptionalTensor& bias, const Tensor& target,
                      const OptionalTensor& row_scales, int64_t reduction, int64_t ignore_index, double label_smoothing,
                      bool needs_hidden, bool needs_weight, bool needs_bias)
      : loss(new_loss(hidden, reduction)),
        grad_hidden(wanted(needs_hidden, hidden, hidden)),
        grad_weight(wanted(needs_weight, weight, hidden)),
        grad_bias(new_tensor(hidden, {needs_bias && weight.dim() == 2 ? weight.size(0) : 0})),
        reduction_(static_cast<Reduction>(reduction)) {
    RNNFUSED_CHECK(hidden.dim() == 2 && weight.dim() == 2 && hidden.size(1) == weight.size(1),
                   "hidden must be (rows, hidden) and weight (classes, hidden)");
    RNNFUSED_CHECK(reduction >= none && reduction <= sum, "reduction must be 0, 1 or 2");
    RNNFUSED_CHECK(label_smoothing >= 0 && label_smoothing <= 1, "label_smoothing must be from 0 to 1");
    RNNFUSED_CHECK(weight.size(0) > 0, "weight must have a class");
    check_like(weight, hidden, "weight");
    check_features(hidden, "hidden");
    params.num_rows = hidden.size(0);
    params.hidden_size = hidden.size(1);
    params.hidden = {data_of(hidden, "hidden"), hidden.stride(0)};
    params.weight = {data_of(weight, "weight"), weight.stride(0), weight.stride(1)};
    CrossEntropyRowsParams& rows = params.rows;
    rows.dtype = dtype_of(hidden);
    rows.num_classes = weight.size(0);
    rows.ignore_index = ignore_index;
    rows.label_smoothing = label_smoothing;
    if (bias) {
      check_like(*bias, hidden, "bias");
      RNNFUSED_CHECK(bias->dim() == 1 && bias->size(0) == rows.num_classes, "bias must be (classes)");
      check_features(*bias, "bias");
      params.bias = data_of(*bias, "bias");
    }
    if (row_scales) {
      RNNFUSED_CHECK(reduction == none, "row_scales are for reduction 0");
      RNNFUSED_CHECK(row_scales->dim() == 1 && row_scales->size(0) == params.num_rows &&
                         dtype_number(*row_scales) == dtype_number(loss) &&
                         DeviceNumber(*row_scales) == DeviceNumber(hidden),
                     "row_scales must be (rows), of the loss's dtype and device");
      check_features(*row_scales, "row_scales");
      rows.row_scales = data_of(*row_scales, "row_scales");
    }
    const int64_t count = take_targets(target, hidden);
    if (reduction == mean) rows.scale = 1.0 / static_cast<double>(count);
    if (needs_hidden) params.grad_hidden = {grad_hidden.mutable_data_ptr(), params.hidden_size};
    if (needs_weight) {
      params.grad_weight = grad_weight.mutable_data_ptr();
      params.grad_is_transposed = is_transposed(weight);
    }
    if (needs_bias) params.grad_bias = grad_bias.mutable_data_ptr();
    rows.losses = loss.mutable_data_ptr();
    if (reduction != none) {
      losses_.allocate(product_of(params.num_rows, sum_bytes()));
      rows.losses = losses_.get();
    }
    if (sum_dtype(rows.dtype) == rows.dtype) return;
    const int64_t classes_bytes = product_of(rows.num_classes, sum_bytes());
    if (needs_weight) {
      weight_sums_.allocate(product_of(classes_bytes, params.hidden_size));
      params.grad_weight = weight_sums_.get();
    }
    if (needs_bias) {
      bias_sums_.allocate(classes_bytes);
      params.grad_bias = bias_sums_.get();
    }
  }

  // Reduces the losses, and rounds the sums of gradients to the tensors' dtype.
  void finish() {
    if (reduction_ != none) {
      params.rows.dtype == Dtype::float64 ? reduce_losses<double>() : reduce_losses<float>();
    }
    if (weight_sums_.get()) round(weight_sums_, grad_weight);
    if (bias_sums_.get()) round(bias_sums_, grad_bias);
  }

 private:
  Reduction reduction_;
  int64_t count_ = 0;
  Memory losses_, weight_sums_, bias_sums_;

  int64_t sum_bytes() const { return bytes_of(sum_dtype(params.rows.dtype)); }

  static Tensor new_loss(const Tensor& hidden, int64_t reduction) {
    const int32_t number = dtype_of(hidden) == Dtype::float64 ? aoti_torch_dtype_float64() : aoti_torch_dtype_float32();
    if (reduction != none || hidden.dim() == 0) return new_tensor(hidden, number, {}, {});
    return new_tensor(hidden, number, {hidden.size(0)}, {1});
  }

  // Whether the classes lie next to each other: the gradient gets the same layout.
  static bool is_transposed(const Tensor& weight) { return weight.stride(0) == 1 && weight.stride(1) != 1; }

  static Tensor wanted(bool needed, const Tensor& model, const Tensor& hidden) {
    if (!needed || model.dim() != 2) return new_tensor(hidden, {0});
    if (is_transposed(model) && model.get() != hidden.get())
      return new_tensor(hidden, model.sizes(), {1, model.size(0)});
    return new_tensor(hidden, model.sizes());
  }

  // Validates the targets and returns the number that are not ignored.
  int64_t take_targets(const Tensor& target, const Tensor& hidden) {
    RNNFUSED_CHECK(is_int64(target) && target.dim() == 1 && target.size(0) == params.num_rows &&
                       DeviceNumber(target) == DeviceNumber(hidden),
                   "target must be (rows), int64, on the device of hidden");
    check_features(target, "target");
    const int64_t* const ids = int64_data_of(target, "target");
    params.rows.targets = ids;
    const int64_t ignored = params.rows.ignore_index, classes = params.rows.num_classes;
    bool is_wrong = false;
    for (int64_t i = 0; i < params.num_rows; ++i) {
      const bool counts = ids[i] != ignored;
      count_ += counts;
      is_wrong |= counts & (static_cast<uint64_t>(ids[i]) >= static_cast<uint64_t>(classes));
    }
    RNNFUSED_CHECK(!is_wrong, "a target is neither a class nor ignore_index");
    return count_;
  }

  template <class Value>
  void reduce_losses() {
    const Value* const losses = reinterpret_cast<const Value*>(losses_.get());
    constexpr int kTogether = 8;
    double sums[kTogether] = {};
    for (int64_t i = 0; i < params.num_rows; ++i) sums[i % kTogether] += losses[i];
    double total = 0;
    for (const double each : sums) total += each;
    if (reduction_ == mean) total /= static_cast<double>(count_);
    *static_cast<Value*>(loss.mutable_data_ptr()) = static_cast<Value>(total);
  }

  void round(const Memory& sums, Tensor& tensor) const {
    cpu_kernels().from_sums(params.rows.dtype, sums.get(), tensor.mutable_data_ptr(), tensor.numel());
  }
};

}  // namespace rnnfused
