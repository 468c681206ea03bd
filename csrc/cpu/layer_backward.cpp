#include "cpu/layer_backward.h"

#include <algorithm>
#include <optional>
#include <vector>

#include "cpu/dispatch.h"
#include "cpu/gradient_sums.h"
#include "cpu/memory.h"
#include "cpu/packed.h"
#include "cpu/part_size.h"
#include "cpu/products.h"
#include "cpu/ragged_layer.h"
#include "cpu/recurrence.h"
#include "cpu/share.h"
#include "cpu/tuning.h"
#include "sizes.h"

namespace rnnfused {

namespace {

// Runs the products of a gradient, of either kind.
struct RunSum {
  const Workers& workers;

  void operator()(const ProductSumParams& sum) const { run_product_sum(sum, workers); }
  void operator()(const TokenSumParams& sum) const { run_token_sum(sum, workers); }
};

// The packed weights of a layer's backward pass. Both are empty where a team runs the layer in one part: its members
// pack their own.
struct PackedLayer {
  std::optional<PackedMatrix> weight_hh, weight_ih;

  PackedLayer(const LayerBackwardParams& layer, const Workers& workers) {
    const BackwardParams& loop = layer.loop;
    const int64_t hidden = loop.hidden_size;
    const PartSize size = part_size(layer, std::max<int64_t>(loop.batch_size, 1));
    const bool is_one_part = size.rows >= loop.batch_size && size.steps >= loop.num_steps;
    if (is_one_part && team_size(loop, workers) > 1 && workers_pack(loop, 0, workers)) return;
    weight_hh.emplace(loop.dtype, loop.weight_hh, hidden, hidden, workers);
    if (!layer.gradients.input.data) return;
    weight_ih.emplace(loop.dtype, layer.weight_ih, hidden, layer.input_size, workers);
  }

  // Bytes of both weights.
  static int64_t bytes(const LayerBackwardParams& layer) {
    const Dtype dtype = layer.loop.dtype;
    const int64_t hidden = layer.loop.hidden_size, input = layer.gradients.input.data ? layer.input_size : 0;
    return cpu_kernels().packed_bytes(dtype, hidden, hidden) + cpu_kernels().packed_bytes(dtype, hidden, input);
  }
};

// Runs batch rows [begin, end), part by part: the loop, then the products while the part's d is in cache.
void run_parts(const LayerBackwardParams& layer, const PackedLayer& packed, int64_t begin, int64_t end,
               Workers workers) {
  const int64_t row_bytes = layer.loop.hidden_size * layer.item_bytes();
  const int64_t rows = end - begin, steps = layer.loop.num_steps;
  const PartSize size = part_size(layer, std::max<int64_t>(rows, 1));  // no rows: one part, for zeros
  Memory d(product_of(size.rows, size.steps, row_bytes)), d_after(product_of(size.rows, row_bytes));
  const int64_t blocks = std::max<int64_t>(1, (rows + size.rows - 1) / size.rows);
  const int64_t runs = (steps + size.steps - 1) / size.steps;
  const Parts rows_of(rows, blocks), steps_of(steps, runs);
  PackedWeights weights;
  if (packed.weight_hh) weights.hh = packed.weight_hh->data();
  bool adds = layer.adds;
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t top = begin + rows_of.begin(block), bottom = begin + rows_of.begin(block + 1);
    for (int64_t i = 0; i < runs; ++i) {
      const int64_t run = layer.loop.reverse ? i : runs - 1 - i;
      LayerBackwardParams part = layer.part(top, bottom, steps_of.begin(run), steps_of.begin(run + 1), d.get(),
                                            {d_after.get(), layer.loop.hidden_size});
      part.adds = adds;
      adds = true;
      // On a busy machine the rest runs on one worker.
      if (run_packed_backward(part.loop, weights, workers)) workers.count = 1;
      if (i + 1 < runs) part.copy_last_d(d_after.get());
      part.for_each_sum(RunSum{workers});
      part.for_each_input_gradient([&](const ProjectionParams& product) {
        if (!packed.weight_ih) return run_projection(product, workers);
        run_packed_projection(product, *packed.weight_ih, workers);
      });
    }
  }
}

// Adds the sums of group after group to those of the first, in order.
void add_groups(const LayerBackwardParams& layer, std::vector<std::optional<GradientSums>>& sums,
                const Workers& workers) {
  const int64_t count = static_cast<int64_t>(sums.size());
  const int64_t adders = worker_count(product_of(count - 1, GradientSums::bytes(layer)), kMinAddPerWorker, workers);
  workers.run(adders, [&](int64_t share) {
    for (int64_t i = 1; i < count; ++i) sums[0]->add(layer, *sums[i], share, adders);
  });
}

// Runs a plain batch in parts. Workers share the groups of rows; where these do not divide evenly, they share each
// product of a part instead.
void run_in_parts(const LayerBackwardParams& layer, const Workers& workers) {
  const BackwardParams& loop = layer.loop;
  const int64_t hidden = loop.hidden_size, rows = loop.batch_size;
  const int64_t depth = 2 * hidden + std::min(layer.input_size, kTooLarge);
  const int64_t work = product_of(loop.num_steps, rows, hidden, depth);
  const int64_t groups = row_groups(layer), count = worker_count(work, kMinWorkPerWorker, workers);
  const int64_t most_groups = (groups + count - 1) / count;  // of one worker
  const bool shares_groups = count > 1 && 4 * most_groups * count <= 5 * groups;
  const bool each_packs = shares_groups && PackedLayer::bytes(layer) <= kResidentBytes;
  std::optional<PackedLayer> packed;
  if (!each_packs) packed.emplace(layer, workers);
  std::vector<std::optional<GradientSums>> sums(shares_groups ? groups : std::min<int64_t>(groups, 2));
  for (size_t i = 0; i < sums.size(); ++i) sums[i].emplace(layer, i == 0);
  const Parts rows_of(rows, groups);
  const auto run_group = [&](int64_t group, GradientSums& own_sums, const PackedLayer& own_packed, const Workers& own) {
    LayerBackwardParams share = layer;
    share.gradients = own_sums.sums();
    run_parts(share, own_packed, rows_of.begin(group), rows_of.begin(group + 1), own);
  };
  if (shares_groups) {
    const Parts groups_of(groups, count);
    workers.run(count, [&](int64_t i) {
      std::optional<PackedLayer> own_packed;
      if (each_packs) own_packed.emplace(layer, Workers());
      for (int64_t group = groups_of.begin(i); group < groups_of.begin(i + 1); ++group) {
        run_group(group, *sums[group], each_packs ? *own_packed : *packed, Workers());
      }
    });
    add_groups(layer, sums, workers);
  } else {
    for (int64_t group = 0; group < groups; ++group) {
      run_group(group, *sums[group > 0], *packed, workers);
      if (group > 0) add_groups(layer, sums, workers);
    }
  }
  sums[0]->write(layer, workers);
}

}  // namespace

void run_layer_backward(const LayerBackwardParams& layer, const Workers& workers) {
  if (layer.loop.batch_size == 0) return GradientSums::clear(layer);
  check_work(loop_work(layer.loop));
  if (layer.loop.is_ragged()) return run_ragged_backward(layer, workers);
  if (layer.in_parts) return run_in_parts(layer, workers);
  const GradientSums sums(layer, true);
  LayerBackwardParams in_sums = layer;
  in_sums.gradients = sums.sums();
  run_backward(in_sums.loop, workers);
  in_sums.for_each_sum(RunSum{workers});
  in_sums.for_each_input_gradient([&](const ProjectionParams& product) { run_projection(product, workers); });
  sums.write(layer, workers);
}

}  // namespace rnnfused
