// The runs of rows at one distance in memory: a projection between two sequences is one product for each.
#pragma once

#include "params.h"

namespace rnnfused {

// Calls run(product) for rows of two sequences, once for each run of rows at one distance in both.
template <class Run>
void for_each_run(const RecurrenceParams& loop, const ConstSequence& from, int64_t from_bytes, const Sequence& to,
                  int64_t to_bytes, ProjectionParams product, const Run& run) {
  const int64_t steps = loop.num_steps, rows = loop.batch_size;
  // Runs follow the order of memory.
  const bool by_batch = rows == 1 || (steps > 1 && from.is_batch_first());
  product.rows = by_batch ? steps : rows;
  product.input.batch_stride = by_batch ? from.time_stride : from.batch_stride;
  product.output.batch_stride = by_batch ? to.time_stride : to.batch_stride;
  int64_t count = by_batch ? rows : steps;
  const int64_t from_distance = by_batch ? from.batch_stride : from.time_stride;
  const int64_t to_distance = by_batch ? to.batch_stride : to.time_stride;
  if (from_distance == product.rows * product.input.batch_stride &&
      to_distance == product.rows * product.output.batch_stride) {
    product.rows *= count;
    count = 1;
  }
  for (int64_t i = 0; i < count; ++i) {
    product.input.data = skip(from, i * from_distance, from_bytes).data;
    product.output.data = skip(to, i * to_distance, to_bytes).data;
    run(product);
  }
}

}  // namespace rnnfused
