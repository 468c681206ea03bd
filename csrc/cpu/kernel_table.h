// What one instruction set offers: a table of functions, filled by isa_*.cpp through kernel_table.inc.h.
#pragma once

#include <cstdint>

#include "cpu/team.h"
#include "params.h"

namespace rnnfused {

// The packed weights of a loop. Either all panels are packed, or a worker owns them and packs each when it needs it.
struct PackedWeights {
  void* hh = nullptr;          // W^T forward, W backward
  void* ih = nullptr;          // W_ih^T; null where the projections are given
  const void* bias = nullptr;  // (hidden) in sum_dtype, padded with zeros to whole panels; null: zeros
  bool* have = nullptr;        // of each panel, of both weights: whether it is there; null: all are
};

struct CpuKernels {
  const char* name;

  // All sizes are in bytes, of what the caller allocates, 64-byte aligned. A size that overflows is kTooLarge or more.

  // Packs panels [begin, end) of a (depth, columns) matrix, as the kernels multiply that dtype.
  int64_t (*packed_bytes)(Dtype dtype, int64_t depth, int64_t columns);
  int64_t (*panel_columns)(Dtype dtype);
  void (*pack)(Dtype dtype, const ConstMatrix& matrix, int64_t depth, int64_t columns, void* packed, int64_t begin,
               int64_t end);

  // Run batch rows [begin, end) through all steps. Threads may share a call, each with its own rows and its own
  // scratch of so many bytes for end - begin rows; or as members of a team, with the same few rows and the same
  // scratch.
  int64_t (*forward_scratch_bytes)(const ForwardParams& params, int64_t rows, int64_t members);
  int64_t (*backward_scratch_bytes)(const BackwardParams& params, int64_t rows);
  bool (*projects)(const ForwardParams& params);  // whether the loop should make its projections itself
  void (*forward)(const ForwardParams& params, const PackedWeights& weights, void* scratch, int64_t begin, int64_t end,
                  const Member& member);
  void (*backward)(const BackwardParams& params, const PackedWeights& weights, void* scratch, int64_t begin,
                   int64_t end, const Member& member);

  // Rows [begin, end) of a projection; left columns [begin, end) of a product sum. Shared as the loops are.
  int64_t (*project_scratch_bytes)(const ProjectionParams& params);
  void (*project)(const ProjectionParams& params, const void* packed_weight, const void* packed_bias, void* scratch,
                  int64_t begin, int64_t end);
  int64_t (*sum_scratch_bytes)(const ProductSumParams& params);
  void (*sum_products)(const ProductSumParams& params, void* scratch, int64_t begin, int64_t end);

  // Columns [begin, end) of a token sum.
  void (*sum_tokens)(const TokenSumParams& params, int64_t begin, int64_t end);

  // n values as sums, or added to them; and sums as values.
  void (*to_sums)(Dtype dtype, const void* values, void* sums, int64_t n, bool adds);
  void (*from_sums)(Dtype dtype, const void* sums, void* values, int64_t n);

  // As many float32 multiply-adds as the processor can do in a row, `rounds` times; returns their number, and
  // through `result` what keeps the compiler from leaving them out. Benchmarks time it.
  int64_t (*multiply_add)(int64_t rounds, float* result);

  // tanh of n elements; the tests compare every float32 with it.
  void (*tanh)(Dtype dtype, const void* in, void* out, int64_t n);
};

// Null where the machine or the build does not have that instruction set.
const CpuKernels* baseline_kernels();
const CpuKernels* avx2_kernels();
const CpuKernels* avx512_kernels();
const CpuKernels* avx512_bf16_kernels();

}  // namespace rnnfused
