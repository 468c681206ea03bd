#include "cpu/share.h"

#include <algorithm>
#include <stdexcept>

#include "cpu/memory.h"
#include "cpu/tuning.h"
#include "sizes.h"

namespace rnnfused {
int64_t worker_count(int64_t work, int64_t min_work, const Workers& workers, int64_t most) {
  return std::max<int64_t>(1, std::min({work / min_work, workers.count, most}));
}

void check_work(int64_t work) {
  if (work >= kTooLarge) throw std::runtime_error("rnnfused: a call of these sizes would not end");
}

int64_t all_rows(const RecurrenceParams& params) {
  return params.is_flat() ? params.num_rows : product_of(params.num_steps, params.batch_size);
}

int64_t loop_work(const RecurrenceParams& params) {
  return product_of(all_rows(params), params.hidden_size, params.hidden_size / params.num_heads);
}

void share_items(int64_t items, int64_t work, FunctionRef<int64_t(int64_t)> scratch_bytes,
                 FunctionRef<void(void*, int64_t, int64_t)> run, const Workers& workers) {
  const int64_t count = worker_count(work, kMinWorkPerWorker, workers, items);
  const int64_t bytes = whole_lines(scratch_bytes((items + count - 1) / count));
  const Parts parts(items, count);
  Memory scratch(product_of(count, bytes));
  workers.run(count, [&](int64_t i) { run(scratch.get() + i * bytes, parts.begin(i), parts.begin(i + 1)); });
}

void share_heads(const RecurrenceParams& params, FunctionRef<void(int64_t, const Workers&)> run,
                 const Workers& workers) {
  const int64_t heads = params.num_heads;
  const int64_t count = worker_count(loop_work(params), kMinWorkPerWorker, workers);
  if (count == 1 || heads < count) {
    for (int64_t head = 0; head < heads; ++head) run(head, workers);
    return;
  }
  const Parts parts(heads, count);
  workers.run(count, [&](int64_t i) {
    for (int64_t head = parts.begin(i); head < parts.begin(i + 1); ++head) run(head, Workers());
  });
}

}  // namespace rnnfused
