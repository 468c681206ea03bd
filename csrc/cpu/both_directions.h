// Runs a layer in both directions: two layers of the same sizes read one input. The second runs from the last step to
// the first.
#pragma once

#include "cpu/workers.h"
#include "layer_gradients.h"
#include "params.h"

namespace rnnfused {

// The parameters of each direction.
void run_both_forward(const ForwardParams& first, const ForwardParams& second, const Workers& workers);
void run_both_backward(const LayerBackwardParams& first, const LayerBackwardParams& second, const Workers& workers);

}  // namespace rnnfused
