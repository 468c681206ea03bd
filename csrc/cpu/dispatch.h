// Selects the instruction set: the best of the processor, or the one that RNNFUSED_CPU_CAPABILITY names.
#pragma once

#include "cpu/kernel_table.h"

namespace rnnfused {

// The table of one instruction set ("default", on x86-64 "avx2", "avx512", "avx512_bf16", on ARM "neon_bf16"); null where
// the processor or the build lacks it.
const CpuKernels* find_cpu_kernels(const char* name);

// The table in use, selected once. Throws std::runtime_error if the environment names one that is missing.
const CpuKernels& cpu_kernels();

}  // namespace rnnfused
