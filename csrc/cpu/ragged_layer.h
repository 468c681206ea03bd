// A layer over a batch whose rows end at different steps, packed or with lengths (ragged.h).
#pragma once

#include "cpu/workers.h"
#include "layer_gradients.h"
#include "params.h"

namespace rnnfused {

// The loop reads the projections, which this makes.
void run_ragged_forward(const ForwardParams& batch, Workers workers);

// Writes d only where layer.loop.grad_projections has memory.
void run_ragged_backward(const LayerBackwardParams& layer, Workers workers);

}  // namespace rnnfused
