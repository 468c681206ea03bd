// The size of the parts that a layer is cut into, so that a part's products find its data in cache.
#pragma once

#include <cstdint>

#include "cpu/workers.h"
#include "layer_gradients.h"

namespace rnnfused {

struct PartSize {
  int64_t rows, steps;
};

// The size of a part of `layer` for a worker with `rows` rows, at least one; the part's d stays in L2. That is all
// steps of a few rows if they fit, else some steps of more rows, or of all rows where W is too large to be read again
// for a few.
PartSize part_size(const LayerBackwardParams& layer, int64_t rows);

// The rows, summed over the steps, of a part whose projections are made before its loop: they stay in L2.
int64_t projected_rows(const RecurrenceParams& loop, const Workers& workers);

// The number of groups of rows that have gradient sums of their own, a power of two. It follows from the sizes alone:
// the order of a sum must not depend on the number of workers.
int64_t row_groups(const LayerBackwardParams& layer);

}  // namespace rnnfused
