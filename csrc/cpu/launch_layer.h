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
  if (loop.batch_sizes || layer.gradients.input || bytes_a_row * loop.batch_size < 4 * kMostBytes) return 0;
  return kMostBytes / bytes_a_row / kRows * kRows;
}

// A thread's own sums of the gradients.
class GradientSums {
 public:
  explicit GradientSums(const LayerBackward& layer) {
    const int64_t hidden = layer.loop.hidden_size;
    const int64_t sizes[] = {hidden * layer.input_size, hidden * hidden, hidden};
    for (int i = 0; i < kCount; ++i) {
      if (!(layer.gradients.*kEach[i])) continue;
      sizes_[i] = sizes[i];
      memory_[i] = new_memory(sizes[i] * layer.item_bytes());
      sums_.*kEach[i] = memory_[i].get();
    }
  }

  const LayerGradients& sums() const { return sums_; }

  // Put into `to`, or added to what is there.
  template <class T>
  void move_to(const LayerGradients& to, bool adds) const {
    for (int i = 0; i < kCount; ++i) {
      T* const sum = static_cast<T*>(to.*kEach[i]);
      const T* const from = static_cast<const T*>(sums_.*kEach[i]);
      for (int64_t j = 0; j < sizes_[i]; ++j) sum[j] = adds ? sum[j] + from[j] : from[j];
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
  const Packed packed(loop.dtype, loop.weight_hh, hidden, hidden, nullptr, max_threads, parallel_for);
  std::vector<std::optional<GradientSums>> sums(threads);
  parallel_for(threads, [&](int64_t i) {
    const GradientSums& own = sums[i].emplace(layer);
    const Memory d = new_memory(loop.num_steps * chunk * hidden * layer.item_bytes());
    const Memory scratch = new_memory(cpu.loop_scratch_bytes(loop, chunk));
    const int64_t first = chunks * i / threads, last = chunks * (i + 1) / threads;
    for (int64_t c = first; c < last; ++c) {
      const int64_t begin = rows * c / chunks, end = rows * (c + 1) / chunks;
      const LayerBackward part = layer.of_rows(begin, end, d.get(), own.sums(), c > first);
      cpu.backward(part.loop, packed.matrix(), scratch.get(), 0, end - begin);
      part.for_each_product([](const auto& product) {
        launch(product, 1, [](int64_t, const auto& run) { run(0); });
      });
    }
  });
  for (int64_t i = 0; i < threads; ++i) {
    if (loop.dtype == Dtype::float64) {
      sums[i]->move_to<double>(layer.gradients, i > 0);
    } else {
      sums[i]->move_to<float>(layer.gradients, i > 0);
    }
  }
}

template <class ParallelFor>
void launch(const LayerBackward& layer, int64_t max_threads, const ParallelFor& parallel_for) {
  if (const int64_t chunk = rows_a_chunk(layer)) {
    launch_in_chunks(layer, chunk, max_threads, parallel_for);
    return;
  }
  launch(layer.loop, max_threads, parallel_for);
  layer.for_each_product([&](const auto& product) { launch(product, max_threads, parallel_for); });
}

}  // namespace rnnfused
