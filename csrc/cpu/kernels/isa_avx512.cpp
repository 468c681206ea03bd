// The kernels for x86-64 with AVX-512 F, VL, BW and DQ (2017 on).
#define RNNFUSED_ISA avx512
#define RNNFUSED_ISA_NAME "avx512"
#include "cpu/kernels/kernel_table.inc.h"

namespace rnnfused {
const CpuKernels* avx512_kernels() { return &avx512::kKernels; }
}  // namespace rnnfused
