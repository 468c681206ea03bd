// The kernels for 64-bit ARM with BFDOT (the feature BF16 of Armv8.2: Neoverse V1 and later, Apple's M2 and later).
#define RNNFUSED_ISA neon_bf16
#define RNNFUSED_ISA_NAME "neon_bf16"
#include "cpu/kernels/kernel_table.inc.h"

namespace rnnfused {
const CpuKernels* neon_bf16_kernels() { return &neon_bf16::kKernels; }
}  // namespace rnnfused
