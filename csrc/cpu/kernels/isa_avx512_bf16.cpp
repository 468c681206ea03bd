// The kernels for x86-64 with AVX-512 F, VL, BW, DQ and BF16 (Cooper Lake, Zen 4 and later).
#define RNNFUSED_ISA avx512_bf16
#define RNNFUSED_ISA_NAME "avx512_bf16"
#include "cpu/kernels/kernel_table.inc.h"

namespace rnnfused {
const CpuKernels* avx512_bf16_kernels() { return &avx512_bf16::kKernels; }
}  // namespace rnnfused
