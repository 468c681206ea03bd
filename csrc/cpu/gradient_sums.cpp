#include "cpu/gradient_sums.h"

#include <algorithm>
#include <cstring>

#include "cpu/dispatch.h"
#include "cpu/share.h"
#include "cpu/tuning.h"
#include "sizes.h"

namespace rnnfused {

GradientSums::GradientSums(const LayerBackwardParams& layer, bool is_first) : sums_(layer.gradients) {
  sums_.by_token = layer.ids.data && product_of(all_rows(layer.loop), kTokensPerId) > layer.input_size;
  const bool is_in_place = is_first && sum_dtype(layer.loop.dtype) == layer.loop.dtype;
  for (int i = 0; i < kCount; ++i) {
    if (!(layer.gradients.*kEach[i]) || (is_in_place && !(i == 0 && sums_.by_token))) continue;
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

void GradientSums::write(const LayerBackwardParams& layer, const Workers& workers) const {
  for (int i = 0; i < kCount; ++i) {
    void* const gradient = layer.gradients.*kEach[i];
    if (!gradient || gradient == sums_.*kEach[i]) continue;
    if (i == 0 && sums_.by_token) {
      const auto run = [&](void*, int64_t begin, int64_t end) {
        layer.loop.dtype == Dtype::float64 ? transpose<double>(layer, begin, end) : transpose<float>(layer, begin, end);
      };
      share_items(layer.loop.hidden_size, size(layer, i), [](int64_t) -> int64_t { return 0; }, run, workers);
    } else {
      cpu_kernels().from_sums(layer.loop.dtype, sums_.*kEach[i], gradient, size(layer, i));
    }
  }
}

template <class Sum>
void GradientSums::transpose(const LayerBackwardParams& layer, int64_t begin, int64_t end) const {
  constexpr int64_t kTogether = 16;  // values of a cache line
  const int64_t hidden = layer.loop.hidden_size, tokens = layer.input_size, bytes = layer.item_bytes();
  const Sum* const sums = static_cast<const Sum*>(sums_.weight_ih);
  char* const gradient = static_cast<char*>(layer.gradients.weight_ih);
  for (int64_t token = 0; token < tokens; token += kTogether) {
    const int64_t n = std::min(kTogether, tokens - token);
    for (int64_t j = begin; j < end; ++j) {
      Sum values[kTogether];
      for (int64_t i = 0; i < n; ++i) values[i] = sums[(token + i) * hidden + j];
      void* const to = gradient + (j * tokens + token) * bytes;
      if (bytes == sizeof(Sum)) {
        std::memcpy(to, values, n * sizeof(Sum));
      } else {
        cpu_kernels().from_sums(layer.loop.dtype, values, to, n);
      }
    }
  }
}

int64_t GradientSums::size(const LayerBackwardParams& layer, int i) {
  const int64_t hidden = layer.loop.hidden_size;
  const int64_t sizes[kCount] = {product_of(hidden, layer.input_size),
                                 product_of(hidden, hidden / layer.loop.num_heads), hidden};
  return sizes[i];
}

}  // namespace rnnfused
