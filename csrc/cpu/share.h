// Decides how many workers a piece of work is worth, and gives each worker its share of the items.
#pragma once

#include <cstdint>

#include "cpu/workers.h"
#include "params.h"
#include "sizes.h"

namespace rnnfused {

// The number of workers, from 1 to `most`, that leaves each at least `min_work`, which is worth the start of a thread.
int64_t worker_count(int64_t work, int64_t min_work, const Workers& workers, int64_t most = kTooLarge);

// Throws std::runtime_error for a number of multiply-adds that no machine can finish.
void check_work(int64_t work);

// The rows of a flat sequence, else steps times rows: lengths do not count.
int64_t all_rows(const RecurrenceParams& params);

// Multiply-adds of the time loop.
int64_t loop_work(const RecurrenceParams& params);

// Splits `items` among workers and calls run(scratch, begin, end) for each share. Every worker has scratch memory
// of its own, of scratch_bytes(items of the largest share).
void share_items(int64_t items, int64_t work, FunctionRef<int64_t(int64_t)> scratch_bytes,
                 FunctionRef<void(void*, int64_t, int64_t)> run, const Workers& workers);

// Calls run(head, workers of that head) for every head. With enough heads, each worker runs whole heads.
void share_heads(const RecurrenceParams& params, FunctionRef<void(int64_t, const Workers&)> run,
                 const Workers& workers);

}  // namespace rnnfused
