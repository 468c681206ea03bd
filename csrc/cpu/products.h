// Runs the matrix products beside the time loop on the CPU, shared among workers.
#pragma once

#include "cpu/packed.h"
#include "cpu/workers.h"
#include "params.h"

namespace rnnfused {

// out = in W^T + b; the second form has W^T packed already, the third b too (null: zeros).
void run_projection(const ProjectionParams& params, const Workers& workers);
void run_packed_projection(const ProjectionParams& params, const PackedMatrix& weight, const Workers& workers);
void run_packed_projection(const ProjectionParams& params, const void* weight, const void* bias,
                           const Workers& workers);

void run_product_sum(const ProductSumParams& params, const Workers& workers);
void run_token_sum(const TokenSumParams& params, const Workers& workers);

}  // namespace rnnfused
