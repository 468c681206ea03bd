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

// Whether a worker per direction is faster than all workers for one direction after the other: where a direction is worth
// a worker, and alone would occupy no more than two.
bool runs_at_once(const RecurrenceParams& loop, int64_t work, const Workers& workers) {
  if (workers.count < 2 || work < kMinWorkPerWorker) return false;
  const int64_t sharing_rows = worker_count(work, kMinWorkPerWorker, workers, loop.batch_size);
  return std::max(team_size(loop, workers), sharing_rows) <= 2;
}

// Runs both directions. `work`: multiply-adds of one.
void run_both(const RecurrenceParams& loop, int64_t work, FunctionRef<void(int64_t, const Workers&)> run,
              const Workers& workers) {
  if (runs_at_once(loop, work, workers)) {
    workers.run(2, [&](int64_t direction) { run(direction, Workers()); });
  } else {
    run(0, workers);
    run(1, workers);
  }
}

}  // namespace

void run_both_forward(const ForwardParams& first, const ForwardParams& second, const Workers& workers) {
  run_both(
      first, loop_work(first),
      [&](int64_t direction, const Workers& own) { run_layer_forward(direction == 0 ? first : second, own); }, workers);
}

void run_both_backward(const LayerBackwardParams& first, const LayerBackwardParams& second, const Workers& workers) {
  // The loop, and the sum of its products with the states.
  const int64_t work = product_of(2, loop_work(first.loop));
  run_both(
      first.loop, work,
      [&](int64_t direction, const Workers& own) { run_layer_backward(direction == 0 ? first : second, own); },
      workers);
}

}  // namespace rnnfused
