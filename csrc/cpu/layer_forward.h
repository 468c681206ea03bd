// Runs a layer forward on the CPU: the input projection and the time loop.
#pragma once

#include "cpu/workers.h"
#include "params.h"

namespace rnnfused {

// The loop makes the projections itself where that is faster; otherwise a product makes them before the loop.
void run_layer_forward(const ForwardParams& params, const Workers& workers);

}  // namespace rnnfused
