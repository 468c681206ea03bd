// The kernels of one instruction set: a table of functions, filled by kernels/isa_*.cpp through kernel_table.inc.h.
#pragma once

#include <cstdint>

#include "cpu/team.h"
#include "cross_entropy_params.h"
#include "generation.h"
#include "params.h"

namespace rnnfused {

// The packed weights of a loop. Either all panels are packed, or a worker owns them and packs each when it needs it.
struct PackedWeights {
  void* hh = nullptr;          // W^T forward, W backward
  void* ih = nullptr;          // W_ih^T; null where the projections are given
  const void* bias = nullptr;  // (hidden) in sum_dtype, padded with zeros to whole panels; null: zeros
  bool* have = nullptr;        // for each panel of both weights: whether it is packed; null: all are
};

struct CpuKernels {
  const char* name;

  // Sizes are in bytes. The caller allocates the memory, aligned to 64 bytes. A size that overflows is kTooLarge or
  // more.

  // Size of a packed (depth, columns) matrix; columns of a panel; packs panels [begin, end).
  int64_t (*packed_bytes)(Dtype dtype, int64_t depth, int64_t columns);
  int64_t (*panel_columns)(Dtype dtype);
  void (*pack)(Dtype dtype, const ConstMatrix& matrix, int64_t depth, int64_t columns, void* packed, int64_t begin,
               int64_t end);

  // Run batch rows [begin, end) through all steps. Workers that share a call have their own rows, and their own
  // scratch memory for end - begin rows. The members of a team have the same rows and the same scratch memory.
  int64_t (*forward_scratch_bytes)(const ForwardParams& params, int64_t rows, int64_t members);
  int64_t (*backward_scratch_bytes)(const BackwardParams& params, int64_t rows);
  bool (*projects)(const ForwardParams& params);  // whether the loop should make its projections itself
  void (*forward)(const ForwardParams& params, const PackedWeights& weights, void* scratch, int64_t begin, int64_t end,
                  const Member& member);
  void (*backward)(const BackwardParams& params, const PackedWeights& weights, void* scratch, int64_t begin,
                   int64_t end, const Member& member);

  // Make rows [begin, end) of a projection, or left columns [begin, end) of a product sum. Each worker has its own
  // scratch memory.
  int64_t (*project_scratch_bytes)(const ProjectionParams& params);
  void (*project)(const ProjectionParams& params, const void* packed_weight, const void* packed_bias, void* scratch,
                  int64_t begin, int64_t end);
  int64_t (*sum_scratch_bytes)(const ProductSumParams& params);
  void (*sum_products)(const ProductSumParams& params, void* scratch, int64_t begin, int64_t end);

  // Makes columns [begin, end) of a token sum.
  void (*sum_tokens)(const TokenSumParams& params, int64_t begin, int64_t end);

  // Makes the losses of rows [begin, end), and perhaps the gradients of their logits. Rows of both are padded with
  // memory to whole cache lines.
  void (*cross_entropy)(const CrossEntropyRowsParams& params, int64_t begin, int64_t end);

  // Convert n values to sums, perhaps adding to old ones; and n sums to values.
  void (*to_sums)(Dtype dtype, const void* values, void* sums, int64_t n, bool adds);
  void (*from_sums)(Dtype dtype, const void* sums, void* values, int64_t n);

  // Runs independent float32 multiply-adds and returns their number, for benchmarks of the processor's peak. The
  // result keeps the compiler from removing them.
  int64_t (*multiply_add)(int64_t rounds, float* result);

  // tanh of n elements, which the tests run on every float32.
  void (*tanh)(Dtype dtype, const void* in, void* out, int64_t n);

  // Generation: run rows [begin, end) through all symbols. Each worker has its own scratch memory.
  int64_t (*generate_scratch_bytes)(const GeneratorSizes& sizes, int64_t rows);
  void (*generate)(const GenerateParams& params, void* scratch, int64_t begin, int64_t end, ChooseSymbol choose,
                   void* context);
  // For n > 0 logits in a dtype of sums: the place of the largest, the first of equal ones, or -1 where one is NaN or
  // +inf or all are -inf; and exp((logit - largest) * factor) of each, in place.
  int64_t (*largest)(Dtype dtype, const void* logits, int64_t n);
  void (*weigh)(Dtype dtype, void* logits, int64_t n, double largest, double factor);
};

// The table of each instruction set that the build has.
const CpuKernels* baseline_kernels();
const CpuKernels* avx2_kernels();
const CpuKernels* avx512_kernels();
const CpuKernels* avx512_bf16_kernels();
const CpuKernels* neon_bf16_kernels();

}  // namespace rnnfused
