// Which instruction set runs: the best that the machine has, or what RNNFUSED_CPU_CAPABILITY names.
#pragma once

#include "cpu/kernel_table.h"

namespace rnnfused {

// The table of one instruction set ("default", "avx2", "avx512", "avx512_bf16"); null where machine or build
// lacks it.
const CpuKernels* find_cpu_kernels(const char* name);

// The table in use, chosen once. Throws std::runtime_error if the environment names one that is not there.
const CpuKernels& cpu_kernels();

}  // namespace rnnfused
