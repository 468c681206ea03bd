// Runs a layer backward on the CPU: the time loop and the products that make the gradients from its d.
#pragma once

#include "cpu/workers.h"
#include "layer_gradients.h"

namespace rnnfused {

void run_layer_backward(const LayerBackwardParams& layer, const Workers& workers);

}  // namespace rnnfused
