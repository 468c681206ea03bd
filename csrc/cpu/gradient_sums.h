// One group of rows' sums of a layer's weight gradients, in sum_dtype.
#pragma once

#include <cstdint>

#include "cpu/memory.h"
#include "cpu/workers.h"
#include "layer_gradients.h"

namespace rnnfused {

class GradientSums {
 public:
  // The first group sums into those of the layer's gradients that are in sum_dtype and in its layout. Every other one has
  // memory of its own.
  GradientSums(const LayerBackwardParams& layer, bool is_first);

  const LayerGradients& sums() const { return sums_; }

  // Bytes of all three gradients.
  static int64_t bytes(const LayerBackwardParams& layer);

  // Writes zeros into the layer's gradients: those of a batch without rows.
  static void clear(const LayerBackwardParams& layer);

  // Adds share number `share` of `shares` of another group's sums.
  void add(const LayerBackwardParams& layer, const GradientSums& other, int64_t share, int64_t shares);

  // Writes the sums into the layer's gradients, in their dtype and layout.
  void write(const LayerBackwardParams& layer, const Workers& workers) const;

 private:
  static constexpr int kCount = 3;
  static constexpr void* LayerGradients::* kEach[kCount] = {&LayerGradients::weight_ih, &LayerGradients::weight_hh,
                                                            &LayerGradients::bias};

  static int64_t size(const LayerBackwardParams& layer, int i);

  // Writes rows [begin, end) of the gradient of weight_ih from its sums by token.
  template <class Sum>
  void transpose(const LayerBackwardParams& layer, int64_t begin, int64_t end) const;

  template <class Sum>
  void add_as(const LayerBackwardParams& layer, const GradientSums& other, int64_t share, int64_t shares);

  LayerGradients sums_;
  Memory memory_[kCount];
};

}  // namespace rnnfused
