#include "cpu/both_directions.h"

#include <algorithm>

#include "cpu/layer_backward.h"
#include "cpu/layer_forward.h"
#include "cpu/recurrence.h"
#include "cpu/share.h"
#include "cpu/tuning.h"
#include "sizes.h"

namespace rnnfused {
namespace {

// Whether a worker per direction is faster than all workers for one direction after the other. `others`: multiply-adds of
// a direction beside its loop, in products that any number of workers can share.
bool runs_at_once(const RecurrenceParams& loop, int64_t others, const Workers& workers) {
  const int64_t in_loop = loop_work(loop), all = in_loop + others;
  if (workers.count < 2 || all < kMinWorkPerWorker) return false;
  const int64_t sharing_rows =
      worker_count(all, kMinWorkPerWorker, workers, product_of(loop.batch_size, loop.num_heads));
  const int64_t members = loop.num_heads > 1 ? 1 : team_size(loop, workers);
  const int64_t in_turn =
      in_loop / std::max(members, sharing_rows) + others / worker_count(others, kMinWorkPerWorker, workers);
  return all <= 2 * in_turn;
}

void run_both(const RecurrenceParams& loop, int64_t others, FunctionRef<void(int64_t, const Workers&)> run,
              const Workers& workers) {
  if (runs_at_once(loop, others, workers)) {
    workers.run(2, [&](int64_t direction) { run(direction, Workers()); });
  } else {
    run(0, workers);
    run(1, workers);
  }
}

}  // namespace

void run_both_forward(const ForwardParams& first, const ForwardParams& second, const Workers& workers) {
  const int64_t projection = product_of(all_rows(first), first.hidden_size, first.ids.data ? 0 : first.input_size);
  run_both(
      first, projection,
      [&](int64_t direction, const Workers& own) { run_layer_forward(direction == 0 ? first : second, own); }, workers);
}

void run_both_backward(const LayerBackwardParams& first, const LayerBackwardParams& second, const Workers& workers) {
  const int64_t rows = all_rows(first.loop), features = first.ids.data ? 0 : first.input_size;
  const int64_t weights = loop_work(first.loop) + product_of(rows, first.loop.hidden_size, features);
  const int64_t input = first.gradients.input.data ? product_of(rows, first.loop.hidden_size, features) : 0;
  run_both(
      first.loop, weights + input,
      [&](int64_t direction, const Workers& own) { run_layer_backward(direction == 0 ? first : second, own); },
      workers);
}

}  // namespace rnnfused
