// A layer on the CPU: the loop with the products before it, its projections, or after it, the gradients that are made
// of its d. A plain batch is taken in parts, which are used while they are in cache and leave their memory to the next.
#pragma once

#include <algorithm>
#include <cstring>
#include <optional>
#include <vector>

#include "cpu/launch.h"
#include "layer_gradients.h"

namespace rnnfused {

constexpr int64_t kPartBytes = 384 * 1024;  // stays in L2 beside what else is read
constexpr int64_t kRunSteps = 128;  // of a part where the batch is outside the time: shorter runs cost more

// The projections of a call, before its loop; or of some steps before the loop runs through these. Their memory is
// laid out as the input.
template <class ParallelFor>
void launch_projected(ForwardParams params, int64_t max_threads, const ParallelFor& parallel_for) {
  if (params.batch_size == 0) return;
  refuse_endless(work_of(params));
  const int64_t hidden = params.hidden_size, sum_bytes = bytes_of(sum_dtype(params.dtype));
  const int64_t rows = params.is_flat() ? params.num_rows : product_of(params.num_steps, params.batch_size);
  const bool by_batch = !params.is_flat() && params.input.time_stride < params.input.batch_stride;
  ProjectionParams product;
  product.in_size = params.input_size;
  product.out_size = hidden;
  product.dtype = params.dtype;
  product.weight = transposed(params.weight_ih);
  product.bias = params.bias;
  product.other_bias = params.other_bias;
  product.keeps_sums = true;
  params.bias = params.other_bias = nullptr;
  params.input_size = 0;
  params.projections_are_sums = true;
  std::optional<Packed> weight_ih;
  const auto project = [&](ForwardParams& part, void* memory) {
    const int64_t steps = part.num_steps, batch = part.batch_size;
    const Sequence to = part.is_flat() ? Sequence{memory, hidden, hidden}
                        : by_batch     ? Sequence{memory, hidden, steps * hidden}
                                       : Sequence{memory, batch * hidden, hidden};
    part.projections = {to.data, to.time_stride, to.batch_stride};
    for_each_run(part, part.input, bytes_of(params.dtype), to, sum_bytes, product, [&](const ProjectionParams& run) {
      if (run.rows == rows) return launch(run, max_threads, parallel_for);
      if (!weight_ih) weight_ih.emplace(run.dtype, run.weight, run.in_size, hidden, max_threads, parallel_for);
      launch(run, *weight_ih, max_threads, parallel_for);
    });
  };
  const int64_t part_rows = max_threads * std::max<int64_t>(kPartBytes / (hidden * sum_bytes), 64);
  if (!params.is_plain() || rows <= 2 * part_rows) {
    Memory memory(product_of(rows, hidden, sum_bytes));
    project(params, memory.get());
    return launch(params, max_threads, parallel_for);
  }
  const int64_t least = by_batch ? kRunSteps : 1, steps = params.num_steps;
  const int64_t part_steps = std::min(steps, std::max(least, part_rows / params.batch_size));
  const int64_t parts = (steps + part_steps - 1) / part_steps;
  const Parts starts(steps, parts);
  Memory memory(product_of((steps + parts - 1) / parts, params.batch_size, hidden, sum_bytes));
  const Packed weight_hh(params.dtype, transposed(params.weight_hh), hidden, hidden, max_threads, parallel_for);
  const PackedWeights weights = {weight_hh.get()};
  for (int64_t i = 0; i < parts; ++i) {
    const int64_t at = params.reverse ? parts - 1 - i : i;
    ForwardParams part = params.part(starts.begin(at), starts.begin(at + 1));
    project(part, memory.get());
    if (launch(part, &weights, max_threads, parallel_for)) max_threads = 1;  // on a busy machine, alone from here on
  }
}

struct PartSize {
  int64_t rows, steps;
};

// Of so many rows, at least one, and of all steps: those of a part, whose d stays in L2. All steps of a few rows if
// they fit; else some steps of more rows, or of all where W is too large to be read again for each few.
inline PartSize part_size(const LayerBackwardParams& layer, int64_t rows) {
  constexpr int64_t kTileRows = 14, kManyRows = 56;
  const BackwardParams& loop = layer.loop;
  const int64_t bytes = loop.hidden_size * layer.item_bytes();
  const int64_t whole = kPartBytes / product_of(bytes, loop.num_steps) / kTileRows * kTileRows;
  if (product_of(rows, bytes, loop.num_steps) <= 2 * kPartBytes) return {rows, loop.num_steps};
  if (whole > 0) return {whole, loop.num_steps};
  if (product_of(bytes, loop.hidden_size) <= kResidentBytes) rows = std::min(rows, kManyRows);
  const int64_t least = layer.is_by_batch() ? kRunSteps : (kStripRows + rows - 1) / rows;
  return {rows, std::min(loop.num_steps, std::max(least, kPartBytes / product_of(bytes, rows)))};
}

// The weights of a layer, as its backward multiplies with them. Neither is here where a team has all in one part, which
// packs them itself.
struct PackedLayer {
  std::optional<Packed> weight_hh, weight_ih;

  template <class ParallelFor>
  PackedLayer(const LayerBackwardParams& layer, int64_t max_threads, const ParallelFor& parallel_for) {
    const BackwardParams& loop = layer.loop;
    const int64_t hidden = loop.hidden_size;
    const PartSize size = part_size(layer, std::max<int64_t>(loop.batch_size, 1));
    const bool is_one_part = size.rows >= loop.batch_size && size.steps >= loop.num_steps;
    if (is_one_part && team_size(loop, max_threads) > 1 && packs_itself(loop, 0, max_threads)) return;
    weight_hh.emplace(loop.dtype, loop.weight_hh, hidden, hidden, max_threads, parallel_for);
    if (!layer.gradients.input.data) return;
    weight_ih.emplace(loop.dtype, layer.weight_ih, hidden, layer.input_size, max_threads, parallel_for);
  }

  // Bytes of both weights.
  static int64_t bytes(const LayerBackwardParams& layer) {
    const Dtype dtype = layer.loop.dtype;
    const int64_t hidden = layer.loop.hidden_size, input = layer.gradients.input.data ? layer.input_size : 0;
    return cpu_kernels().packed_bytes(dtype, hidden, hidden) + cpu_kernels().packed_bytes(dtype, hidden, input);
  }
};

// Batch rows [begin, end), part by part.
template <class ParallelFor>
void run_parts(const LayerBackwardParams& layer, const PackedLayer& packed, int64_t begin, int64_t end,
               int64_t max_threads, const ParallelFor& parallel_for) {
  const int64_t row_bytes = layer.loop.hidden_size * layer.item_bytes();
  const int64_t rows = end - begin, steps = layer.loop.num_steps;
  const PartSize size = part_size(layer, std::max<int64_t>(rows, 1));  // no rows: one part, for zeros
  Memory d(product_of(size.rows, size.steps, row_bytes)), d_after(product_of(size.rows, row_bytes));
  const int64_t blocks = std::max<int64_t>(1, (rows + size.rows - 1) / size.rows);
  const int64_t runs = (steps + size.steps - 1) / size.steps;
  const Parts rows_of(rows, blocks), steps_of(steps, runs);
  const PackedWeights weights = {packed.weight_hh ? packed.weight_hh->get() : nullptr};
  bool adds = layer.adds;
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t top = begin + rows_of.begin(block), bottom = begin + rows_of.begin(block + 1);
    for (int64_t i = 0; i < runs; ++i) {
      const int64_t run = layer.loop.reverse ? i : runs - 1 - i;
      LayerBackwardParams part = layer.part(top, bottom, steps_of.begin(run), steps_of.begin(run + 1), d.get(),
                                      {d_after.get(), layer.loop.hidden_size});
      part.adds = adds;
      adds = true;
      const bool was_late = launch(part.loop, packed.weight_hh ? &weights : nullptr, max_threads, parallel_for);
      if (was_late) max_threads = 1;  // as forward
      if (i + 1 < runs) part.copy_last_d(d_after.get());
      part.for_each_sum([&](const auto& sum) { launch(sum, max_threads, parallel_for); });
      part.for_each_input_gradient([&](const ProjectionParams& product) {
        if (!packed.weight_ih) return launch(product, max_threads, parallel_for);
        launch(product, *packed.weight_ih, max_threads, parallel_for);
      });
    }
  }
}

// A thread's own sums of the gradients of weights; those of the layer itself, where they are wanted as sums.
class GradientSums {
 public:
  GradientSums(const LayerBackwardParams& layer, bool of_the_layer) : sums_(layer.gradients) {
    if (of_the_layer && sum_dtype(layer.loop.dtype) == layer.loop.dtype) return;
    for (int i = 0; i < kCount; ++i) {
      if (!(layer.gradients.*kEach[i])) continue;
      memory_[i].allocate(product_of(size(layer, i), bytes_of(sum_dtype(layer.loop.dtype))));
      sums_.*kEach[i] = memory_[i].get();
    }
  }

  const LayerGradients& sums() const { return sums_; }

  // Bytes of all.
  static int64_t bytes(const LayerBackwardParams& layer) {
    int64_t values = 0;
    for (int i = 0; i < kCount; ++i) values += size(layer, i);
    return product_of(values, bytes_of(sum_dtype(layer.loop.dtype)));
  }

  // Zeros where they are wanted, of a layer without rows.
  static void clear(const LayerBackwardParams& layer) {
    for (int i = 0; i < kCount; ++i) {
      void* const to = layer.gradients.*kEach[i];
      if (to) std::memset(to, 0, size(layer, i) * layer.item_bytes());
    }
  }

  // The others' share number `share` of so many shares; T is what the sums are in.
  template <class T>
  void add(const LayerBackwardParams& layer, const GradientSums& others, int64_t share, int64_t shares) {
    for (int i = 0; i < kCount; ++i) {
      T* const sum = static_cast<T*>(sums_.*kEach[i]);
      const T* const other = static_cast<const T*>(others.sums_.*kEach[i]);
      const int64_t n = sum ? size(layer, i) : 0;
      const Parts parts(n, shares);
      for (int64_t j = parts.begin(share); j < parts.begin(share + 1); ++j) sum[j] += other[j];
    }
  }

  // To what is wanted of the layer.
  void round(const LayerBackwardParams& layer) const {
    const Dtype dtype = layer.loop.dtype;
    for (int i = 0; i < kCount; ++i) {
      void* const to = layer.gradients.*kEach[i];
      if (to && to != sums_.*kEach[i]) cpu_kernels().from_sums(dtype, sums_.*kEach[i], to, size(layer, i));
    }
  }

 private:
  static constexpr int kCount = 3;
  static constexpr void* LayerGradients::*kEach[kCount] = {
      &LayerGradients::weight_ih, &LayerGradients::weight_hh, &LayerGradients::bias};

  static int64_t size(const LayerBackwardParams& layer, int i) {
    const int64_t hidden = layer.loop.hidden_size;
    const int64_t sizes[kCount] = {product_of(hidden, layer.input_size),
                                   product_of(hidden, hidden / layer.loop.num_heads), hidden};
    return sizes[i];
  }

  LayerGradients sums_;
  Memory memory_[kCount];
};

// Threads share out the rows, each with sums of its own, which add up in order; or, where these would be large or
// rows are fewer than threads, each product of a part.
template <class ParallelFor>
void launch_in_parts(const LayerBackwardParams& layer, int64_t max_threads, const ParallelFor& parallel_for) {
  constexpr int64_t kMostBytes = 2 * 1024 * 1024, kMinBytesPerAdder = 32 * 1024;
  const BackwardParams& loop = layer.loop;
  const int64_t hidden = loop.hidden_size, rows = loop.batch_size;
  const int64_t depth = 2 * hidden + std::min(layer.input_size, kTooLarge);
  const int64_t work = product_of(loop.num_steps, rows, hidden, depth);
  const int64_t useful = num_chunks(work, kMinWorkPerThread, max_threads);
  const bool own = useful > 1 && useful <= rows && GradientSums::bytes(layer) <= kMostBytes;
  const int64_t threads = own ? useful : 1;
  const bool each_packs = own && PackedLayer::bytes(layer) <= kResidentBytes;
  std::optional<PackedLayer> packed;
  if (!each_packs) packed.emplace(layer, max_threads, parallel_for);
  std::vector<std::optional<GradientSums>> sums(threads);
  for (int64_t i = 0; i < threads; ++i) sums[i].emplace(layer, i == 0);
  const Parts shares(rows, threads);
  const auto run = [&](int64_t i, int64_t threads_each, const auto& parallel) {
    LayerBackwardParams share = layer;
    share.gradients = sums[i]->sums();
    std::optional<PackedLayer> own_packed;
    if (each_packs) own_packed.emplace(layer, 1, parallel);
    run_parts(share, each_packs ? *own_packed : *packed, shares.begin(i), shares.begin(i + 1), threads_each, parallel);
  };
  if (own) {
    parallel_for(threads, [&](int64_t i) { run(i, 1, OneThread()); });
  } else {
    run(0, max_threads, parallel_for);
  }
  const int64_t adders = num_chunks(GradientSums::bytes(layer), kMinBytesPerAdder, threads);
  const auto add = [&](int64_t share) {
    for (int64_t i = 1; i < threads; ++i) {
      loop.dtype == Dtype::float64 ? sums[0]->add<double>(layer, *sums[i], share, adders)
                                   : sums[0]->add<float>(layer, *sums[i], share, adders);
    }
  };
  if (threads > 1) parallel_for(adders, add);
  sums[0]->round(layer);
}

template <class ParallelFor>
void launch(const LayerBackwardParams& layer, int64_t max_threads, const ParallelFor& parallel_for) {
  if (layer.loop.batch_size == 0) return GradientSums::clear(layer);
  refuse_endless(work_of(layer.loop));
  if (layer.in_parts) return launch_in_parts(layer, max_threads, parallel_for);
  const GradientSums sums(layer, true);
  LayerBackwardParams in_sums = layer;
  in_sums.gradients = sums.sums();
  launch(in_sums.loop, max_threads, parallel_for);
  const auto run = [&](const auto& product) { launch(product, max_threads, parallel_for); };
  in_sums.for_each_sum(run);
  in_sums.for_each_input_gradient(run);
  sums.round(layer);
}

}  // namespace rnnfused
