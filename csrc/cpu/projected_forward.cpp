#include "cpu/projected_forward.h"

#include <algorithm>
#include <optional>

#include "cpu/memory.h"
#include "cpu/packed.h"
#include "cpu/part_size.h"
#include "cpu/products.h"
#include "cpu/recurrence.h"
#include "cpu/share.h"
#include "cpu/tuning.h"
#include "projection_runs.h"
#include "sizes.h"

namespace rnnfused {
namespace {

// Makes the projections of a layer, or of some of its steps.
class InputProjection {
 public:
  InputProjection(const ForwardParams& layer, const PackedWeights& packed, const Workers& workers)
      : is_batch_first_(layer.input.is_batch_first()),
        rows_(product_of(layer.num_steps, layer.batch_size)),
        packed_(packed),
        workers_(workers) {
    product_.in_size = layer.input_size;
    product_.out_size = layer.hidden_size;
    product_.dtype = layer.dtype;
    product_.weight = transposed(layer.weight_ih);
    product_.bias_ih = layer.bias_ih;
    product_.bias_hh = layer.bias_hh;
    product_.keeps_sums = true;
  }

  int64_t rows() const { return rows_; }
  bool is_batch_first() const { return is_batch_first_; }

  // Makes the projections of `part` in `memory`, laid out as the input, and hands them to the part's loop.
  void run(ForwardParams& part, void* memory) {
    const int64_t steps = part.num_steps, batch = part.batch_size, hidden = part.hidden_size;
    const Sequence to =
        is_batch_first_ ? Sequence{memory, hidden, steps * hidden} : Sequence{memory, batch * hidden, hidden};
    part.projections = {to.data, to.time_stride, to.batch_stride};
    const int64_t sum_bytes = bytes_of(sum_dtype(part.dtype));
    for_each_run(part, part.input, bytes_of(part.dtype), to, sum_bytes, product_, [&](const ProjectionParams& run) {
      if (packed_.ih) return run_packed_projection(run, packed_.ih, packed_.bias, workers_);
      if (run.rows == rows_) return run_projection(run, workers_);
      if (!weight_) weight_.emplace(run.dtype, run.weight, run.in_size, hidden, workers_);
      run_packed_projection(run, *weight_, workers_);
    });
  }

 private:
  const bool is_batch_first_;
  const int64_t rows_;
  const PackedWeights& packed_;
  const Workers& workers_;
  ProjectionParams product_;
  std::optional<PackedMatrix> weight_;  // packed once for all parts
};

}  // namespace

void run_projected_forward(ForwardParams layer, const PackedWeights& packed, Workers workers) {
  if (layer.batch_size == 0) return;
  check_work(loop_work(layer));
  InputProjection projection(layer, packed, workers);
  layer.bias_ih = layer.bias_hh = nullptr;
  layer.input_size = 0;
  layer.projections_are_sums = true;
  PackedWeights weights;
  weights.hh = packed.hh;
  const int64_t hidden = layer.hidden_size, sum_bytes = bytes_of(sum_dtype(layer.dtype));
  const int64_t rows = projection.rows(), part_rows = projected_rows(layer, workers);
  if (!layer.is_plain() || rows <= 2 * part_rows) {
    Memory memory(product_of(rows, hidden, sum_bytes));
    projection.run(layer, memory.get());
    if (!weights.hh) return run_forward(layer, workers);
    run_packed_forward(layer, weights, workers);
    return;
  }
  const int64_t least = projection.is_batch_first() ? kMinRunSteps : 1, steps = layer.num_steps;
  const int64_t part_steps = std::min(steps, std::max(least, part_rows / layer.batch_size));
  const int64_t parts = (steps + part_steps - 1) / part_steps;
  const Parts starts(steps, parts);
  Memory memory(product_of((steps + parts - 1) / parts, layer.batch_size, hidden, sum_bytes));
  std::optional<PackedMatrix> weight_hh;
  if (!weights.hh) {
    weight_hh.emplace(layer.dtype, transposed(layer.weight_hh), hidden, hidden, workers);
    weights.hh = weight_hh->data();
  }
  for (int64_t i = 0; i < parts; ++i) {
    const int64_t at = layer.reverse ? parts - 1 - i : i;
    ForwardParams part = layer.part(starts.begin(at), starts.begin(at + 1));
    projection.run(part, memory.get());
    // On a busy machine the rest runs on one worker.
    if (run_packed_forward(part, weights, workers)) workers.count = 1;
  }
}

}  // namespace rnnfused
