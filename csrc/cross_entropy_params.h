// The parameters of the fused output layer and cross-entropy. No torch here.
//
//   logits z = h W^T + b,   p = softmax(z),   target distribution q = (1 - s) onehot(target) + s / V
//   loss -sum_v q_v log p_v = log(sum_v exp(z_v)) - sum_v q_v z_v
//   dz = scale (p - q),     dh = dz W,   dW = sum_rows dz^T h,   db = sum_rows dz
//
// s is the label smoothing (Szegedy et al., "Rethinking the Inception Architecture", 2016, section 7).
#pragma once

#include "params.h"

namespace rnnfused {

// The rows of logits that exist at a time, and what becomes of them. All values but dz are in sum_dtype.
struct CrossEntropyRowsParams {
  Dtype dtype = Dtype::float32;  // of dz
  int64_t num_classes = 0;
  State logits;                      // (rows, classes); overwritten
  const int64_t* targets = nullptr;  // (rows)
  int64_t ignore_index = -1;         // rows of this target have no loss and no gradient
  double label_smoothing = 0;
  double scale = 1;                  // of every row's gradient
  const void* row_scales = nullptr;  // (rows), of each row's gradient as well; null: ones
  void* losses = nullptr;            // (rows)
  State grad_logits;                 // dz; null: not wanted. May be the logits themselves where the dtypes are equal
};

struct LinearCrossEntropyParams {
  int64_t num_rows = 0;
  int64_t hidden_size = 0;
  ConstState hidden;            // (rows, hidden)
  ConstMatrix weight;           // (classes, hidden)
  const void* bias = nullptr;   // (classes); null: zeros
  CrossEntropyRowsParams rows;  // targets, row_scales and losses of all rows; logits and grad_logits are set by the CPU
  // Gradients; null: not wanted. Those of the parameters are in sum_dtype.
  State grad_hidden;            // (rows, hidden)
  void* grad_weight = nullptr;  // (classes, hidden), or (hidden, classes) if grad_is_transposed
  bool grad_is_transposed = false;
  void* grad_bias = nullptr;  // (classes)
};

}  // namespace rnnfused
