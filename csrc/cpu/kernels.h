// What one instruction set offers: a table of functions, filled by isa_*.cpp through kernels.inc.h.
#pragma once

#include <cstdint>

#include "recurrence.h"

namespace rnnfused {

struct CpuKernels {
  const char* name;

  // Sizes in bytes of what the caller allocates, 64-byte aligned.
  int64_t (*packed_bytes)(const Recurrence& call);
  int64_t (*scratch_bytes)(const Recurrence& call, int64_t rows);

  // Packs panels [begin, end) of num_panels(call) of the weight, transposed for forward.
  int64_t (*num_panels)(const Recurrence& call);
  void (*pack)(const Recurrence& call, bool transposed, void* packed, int64_t begin, int64_t end);

  // Run batch rows [begin, end) through all steps. Threads may share a call, each with its own rows
  // and its own scratch_bytes(call, end - begin).
  void (*forward)(const Forward& call, const void* packed, void* scratch, int64_t begin, int64_t end);
  void (*backward)(const Backward& call, const void* packed, void* scratch, int64_t begin, int64_t end);

  // tanh of n elements; the tests compare every float32 with it.
  void (*tanh)(Dtype dtype, const void* in, void* out, int64_t n);
};

// Null where the machine or the build does not have that instruction set.
const CpuKernels* baseline_kernels();
const CpuKernels* avx2_kernels();
const CpuKernels* avx512_kernels();

}  // namespace rnnfused
