// Runs the time loop on the CPU, shared among workers. Each worker runs its rows of the batch through all steps; a
// batch of few rows is instead run by a team, whose members share the columns of every step (team.h).
#pragma once

#include "cpu/kernel_table.h"
#include "cpu/workers.h"
#include "params.h"

namespace rnnfused {

void run_forward(const ForwardParams& params, const Workers& workers);
void run_backward(const BackwardParams& params, const Workers& workers);

// Run a loop of one head with its bias packed. Where weights.hh is null, each worker packs the weights that it uses.
// Return whether a team waited long for one of its members: a sign of a busy machine.
bool run_packed_forward(const ForwardParams& params, const PackedWeights& weights, const Workers& workers);
bool run_packed_backward(const BackwardParams& params, const PackedWeights& weights, const Workers& workers);

// The number of workers that should run the loop as a team; 1: none.
int64_t team_size(const RecurrenceParams& params, const Workers& workers);

// Whether each worker should pack the weights that it uses. Otherwise the workers share packed weights, and each
// fetches parts of them from the cache of the worker that packed them.
bool workers_pack(const RecurrenceParams& params, int64_t input_size, const Workers& workers);

}  // namespace rnnfused
