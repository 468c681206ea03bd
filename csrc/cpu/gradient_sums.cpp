#include "cpu/gradient_sums.h"

#include <cstring>

#include "cpu/dispatch.h"
#include "sizes.h"

namespace rnnfused {

GradientSums::GradientSums(const LayerBackwardParams& layer, bool is_first) : sums_(layer.gradients) {
  if (is_first && sum_dtype(layer.loop.dtype) == layer.loop.dtype) return;
  for (int i = 0; i < kCount; ++i) {
    if (!(layer.gradients.*kEach[i])) continue;
    memory_[i].allocate(product_of(size(layer, i), bytes_of(sum_dtype(layer.loop.dtype))));
    sums_.*kEach[i] = memory_[i].get();
  }
}

int64_t GradientSums::bytes(const LayerBackwardParams& layer) {
  int64_t values = 0;
  for (int i = 0; i < kCount; ++i) values += size(layer, i);
  return product_of(values, bytes_of(sum_dtype(layer.loop.dtype)));
}

void GradientSums::clear(const LayerBackwardParams& layer) {
  for (int i = 0; i < kCount; ++i) {
    void* const gradient = layer.gradients.*kEach[i];
    if (gradient) std::memset(gradient, 0, size(layer, i) * layer.item_bytes());
  }
}

void GradientSums::add(const LayerBackwardParams& layer, const GradientSums& other, int64_t share, int64_t shares) {
  if (layer.loop.dtype == Dtype::float64) {
    add_as<double>(layer, other, share, shares);
  } else {
    add_as<float>(layer, other, share, shares);
  }
}

template <class Sum>
void GradientSums::add_as(const LayerBackwardParams& layer, const GradientSums& other, int64_t share, int64_t shares) {
  for (int i = 0; i < kCount; ++i) {
    Sum* const to = static_cast<Sum*>(sums_.*kEach[i]);
    const Sum* const from = static_cast<const Sum*>(other.sums_.*kEach[i]);
    const int64_t n = to ? size(layer, i) : 0;
    const Parts parts(n, shares);
    for (int64_t j = parts.begin(share); j < parts.begin(share + 1); ++j) to[j] += from[j];
  }
}

void GradientSums::round(const LayerBackwardParams& layer) const {
  for (int i = 0; i < kCount; ++i) {
    void* const gradient = layer.gradients.*kEach[i];
    if (!gradient || gradient == sums_.*kEach[i]) continue;
    cpu_kernels().from_sums(layer.loop.dtype, sums_.*kEach[i], gradient, size(layer, i));
  }
}

int64_t GradientSums::size(const LayerBackwardParams& layer, int i) {
  const int64_t hidden = layer.loop.hidden_size;
  const int64_t sizes[kCount] = {product_of(hidden, layer.input_size),
                                 product_of(hidden, hidden / layer.loop.num_heads), hidden};
  return sizes[i];
}

}  // namespace rnnfused
