// Runs the fused output layer and cross-entropy on the CPU, shared among workers.
#pragma once

#include "cpu/workers.h"
#include "cross_entropy_params.h"

namespace rnnfused {

// The logits of some rows exist at a time. Results do not depend on the number of workers.
void run_linear_cross_entropy(const LinearCrossEntropyParams& params, const Workers& workers);

}  // namespace rnnfused
