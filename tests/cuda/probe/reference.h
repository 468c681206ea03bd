// One step of the loop on a host, in double, against the values that a GPU has written. Knows no CUDA.
//
// Each step is computed from the states that the GPU itself stored at the step before. So errors do not add up along
// the sequence, the bounds are those of one step, and the first wrong step is found. As the first step starts from
// given values, right steps make a right sequence.
#pragma once

#include <cstdint>

namespace rnnfused {
namespace probe {

// The sizes, options and shared inputs of a call. Rows of sequences are packed: row r of step t is row
// step_starts[t] + r of a (rows, hidden) array. All arrays hold the values that the GPU reads, as double.
struct Call {
  int64_t num_steps = 0, batch_size = 0, hidden_size = 0;
  bool relu = false, reverse = false;
  const int64_t* batch_sizes = nullptr;  // (num_steps), non-increasing
  const int64_t* step_starts = nullptr;  // (num_steps)
  const double* weight = nullptr;        // (hidden, hidden), W_hh
  double stored_roundoff = 0;            // half the distance from 1 to the next value of the tensors' dtype
  double stored_smallest = 0;            // the smallest positive value of that dtype
  double sum_roundoff = 0;               // as stored_roundoff, for the dtype of the sums
};

struct ForwardArrays {
  const double* projections;  // (rows, hidden)
  const double* h_0;          // (batch, hidden); null: zeros
  const double* output;       // (rows, hidden), of the GPU
  const double* h_n;          // (batch, hidden), of the GPU
};

struct BackwardArrays {
  const double* grad_output;       // (rows, hidden)
  const double* grad_h_n;          // (batch, hidden); null: zeros
  const double* output;            // (rows, hidden), the states h
  const double* grad_projections;  // (rows, hidden), of the GPU
  const double* grad_h_0;          // (batch, hidden), of the GPU; null: not wanted
};

// The comparison of some values.
struct Verdict {
  int64_t checked = 0, wrong = 0;
  double worst = 0;  // the largest error / bound; above 1 is wrong
  // The first wrong value in the order of the loop.
  int64_t step = -1, row = -1, unit = -1;
  double got = 0, expected = 0;
};

// Compare the rows `rows` of the steps `steps` (both sorted). A row that takes no part in a step is left out. A state
// or gradient that belongs to a row but to no step is compared for every row of `rows`.
Verdict check_forward(const Call& call, const ForwardArrays& arrays, const int64_t* steps, int64_t num_checked_steps,
                      const int64_t* rows, int64_t num_checked_rows);
Verdict check_backward(const Call& call, const BackwardArrays& arrays, const int64_t* steps, int64_t num_checked_steps,
                       const int64_t* rows, int64_t num_checked_rows);

}  // namespace probe
}  // namespace rnnfused
