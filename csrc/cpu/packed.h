// Weights and biases in the layout that the kernels read. Each object owns its memory for one call.
#pragma once

#include <cstdint>

#include "cpu/kernel_table.h"
#include "cpu/memory.h"
#include "cpu/workers.h"
#include "params.h"

namespace rnnfused {

// The number of panels in a packed matrix of `columns` columns.
int64_t panel_count(Dtype dtype, int64_t columns);

// Packs a (depth, columns) matrix into panels, shared among the workers.
void pack_matrix(Dtype dtype, const ConstMatrix& matrix, int64_t depth, int64_t columns, void* packed,
                 const Workers& workers);

// Adds two biases, null for zeros, in sum_dtype. The memory holds zeros, for whole panels.
void pack_bias(Dtype dtype, const void* bias_ih, const void* bias_hh, int64_t columns, void* packed);

// A (depth, columns) matrix, packed into panels by the workers.
class PackedMatrix {
 public:
  PackedMatrix(Dtype dtype, const ConstMatrix& matrix, int64_t depth, int64_t columns, const Workers& workers);
  void* data() const { return memory_.get(); }

 private:
  mutable Memory memory_;  // PackedWeights points to memory that a loop may fill; this one is already full
};

// Memory for one worker's own copy of the loop's weights; the loop packs each panel when it first needs it.
class WorkerWeights {
 public:
  // input_size is 0 where the loop reads its projections; packed_bias may be null.
  WorkerWeights(const RecurrenceParams& params, int64_t input_size, const void* packed_bias);
  const PackedWeights& weights() const { return weights_; }

 private:
  Memory hh_, ih_, has_panel_;
  PackedWeights weights_;
};

// The sum of two biases in sum_dtype, padded with zeros to whole panels; null where both are null.
class PackedBias {
 public:
  PackedBias(Dtype dtype, const void* bias_ih, const void* bias_hh, int64_t columns);
  const void* data() const { return memory_.get(); }

 private:
  Memory memory_;
};

}  // namespace rnnfused
