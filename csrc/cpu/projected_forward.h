// Runs a layer forward over projections that a product makes before the loop reads them.
#pragma once

#include "cpu/kernel_table.h"
#include "cpu/workers.h"
#include "params.h"

namespace rnnfused {

// A long plain batch runs in parts, whose projections stay in cache and share memory. `packed` holds W_hh, W_ih and the
// biases where they are packed already; otherwise they are packed here, once for all parts.
void run_projected_forward(ForwardParams layer, const PackedWeights& packed, Workers workers);

}  // namespace rnnfused
