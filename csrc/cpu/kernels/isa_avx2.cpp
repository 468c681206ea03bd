// The kernels for x86-64 with AVX2 and FMA (2013 on).
#define RNNFUSED_ISA avx2
#define RNNFUSED_ISA_NAME "avx2"
#include "cpu/kernels/kernel_table.inc.h"

namespace rnnfused {
const CpuKernels* avx2_kernels() { return &avx2::kKernels; }
}  // namespace rnnfused
