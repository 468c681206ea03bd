// The whole backward of a layer on the CPU: the loop, and the products of its d that gradients of weights are.
#pragma once

#include <algorithm>
#include <optional>
#include <vector>

#include "launch.h"
#include "layer.h"

namespace rnnfused {

// Rows of the batch whose d, in all steps, stays in L2 until its products are taken: then d never reaches
// memory. 0 where that cannot be, or is little memory anyway.
inline int64_t rows_a_chunk(const LayerBackward& layer) {
  constexpr int64_t kMostBytes = 384 * 1024, kRows = 14;
  const Backward& loop = layer.loop;
  const int64_t bytes_a_row = loop.num_steps * loop.hidden_size * layer.item_bytes();
  if (loop.batch_sizes || loop.num_heads > 1 || layer.gradients.input || bytes_a_row * loop.batch_size < 4 * kMostBytes) return 0;
  return kMostBytes / bytes_a_row / kRows * kRows;
}

// A thread's own sums of the gradients.
class GradientSums {
 public:
  explicit GradientSums(const LayerBackward& layer) {
    const int64_t hidden = layer.loop.hidden_size;
    const int64_t sizes[] = {hidden * layer.input_size, hidden * hidden / layer.loop.num_heads, hidden};
    for (int i = 0; i < kCount; ++i) {
      if (!(layer.gradients.*kEach[i])) continue;
      sizes_[i] = sizes[i];
      memory_[i].allocate(sizes[i] * bytes_of(sum_dtype(layer.loop.dtype)));
      sums_.*kEach[i] = memory_[i].get();
    }
  }

  const LayerGradients& sums() const { return sums_; }

  // T is what the sums are in.
  template <class T>
  void add(const GradientSums& others) {
    for (int i = 0; i < kCount; ++i) {
      T* const sum = static_cast<T*>(sums_.*kEach[i]);
      const T* const other = static_cast<const T*>(others.sums_.*kEach[i]);
      for (int64_t j = 0; j < sizes_[i]; ++j) sum[j] += other[j];
    }
  }

  void round_to(Dtype dtype, const LayerGradients& to) const {
    for (int i = 0; i < kCount; ++i) {
      if (sizes_[i]) cpu_kernels().from_sums(dtype, sums_.*kEach[i], to.*kEach[i], sizes_[i]);
    }
  }

 private:
  static constexpr int kCount = 3;
  static constexpr void* LayerGradients::*kEach[kCount] = {
      &LayerGradients::weight_ih, &LayerGradients::weight_hh, &LayerGradients::bias};

  LayerGradients sums_;
  Memory memory_[kCount];
  int64_t sizes_[kCount] = {};
};

// Each thread runs its chunks of rows and adds up their gradients; the threads' sums add up in order.
template <class ParallelFor>
void launch_in_chunks(const LayerBackward& layer, int64_t chunk, int64_t max_threads,
                      const ParallelFor& parallel_for) {
  const CpuKernels& cpu = cpu_kernels();
  const Backward& loop = layer.loop;
  const int64_t hidden = loop.hidden_size, rows = loop.batch_size;
  const int64_t chunks = (rows + chunk - 1) / chunk;
  const int64_t work = loop.num_steps * rows * hidden * (2 * hidden + layer.input_size);
  const int64_t threads = num_chunks(work, kMinWorkPerThread, std::min(max_threads, chunks));
  const Packed packed(loop.dtype, loop.weight_hh, hidden, hidden, max_threads, parallel_for);
  std::vector<std::optional<GradientSums>> sums(threads);
  parallel_for(threads, [&](int64_t i) {
    const GradientSums& own = sums[i].emplace(layer);
    Memory d(loop.num_steps * chunk * hidden * layer.item_bytes());
    Memory scratch(cpu.backward_scratch_bytes(loop, chunk));
    const int64_t first = chunks * i / threads, last = chunks * (i + 1) / threads;
    for (int64_t c = first; c < last; ++c) {
      const int64_t begin = rows * c / chunks, end = rows * (c + 1) / chunks;
      const LayerBackward part = layer.of_rows(begin, end, d.get(), own.sums(), c > first);
      cpu.backward(part.loop, packed.matrix(), scratch.get(), 0, end - begin);
      part.for_each_product([](const auto& product) { launch(product, 1, OneThread()); });
    }
  });
  for (int64_t i = 1; i < threads; ++i) {
    if (loop.dtype == Dtype::float64) {
      sums[0]->add<double>(*sums[i]);
    } else {
      sums[0]->add<float>(*sums[i]);
    }
  }
  sums[0]->round_to(loop.dtype, layer.gradients);
}

template <class ParallelFor>
void launch(const LayerBackward& layer, int64_t max_threads, const ParallelFor& parallel_for) {
  if (const int64_t chunk = rows_a_chunk(layer)) {
    launch_in_chunks(layer, chunk, max_threads, parallel_for);
    return;
  }
  const auto run = [&](const LayerBackward& layer) {
    launch(layer.loop, max_threads, parallel_for);
    layer.for_each_product([&](const auto& product) { launch(product, max_threads, parallel_for); });
  };
  if (sum_dtype(layer.loop.dtype) == layer.loop.dtype) return run(layer);
  const GradientSums sums(layer);
  LayerBackward in_sums = layer;
  in_sums.gradients = sums.sums();
  in_sums.gradients.input = layer.gradients.input;
  run(in_sums);
  sums.round_to(layer.loop.dtype, layer.gradients);
}

}  // namespace rnnfused
