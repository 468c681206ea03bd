// The kernels for any CPU of this architecture (SSE2 on x86-64, NEON on ARM).
#define RNNFUSED_ISA baseline
#define RNNFUSED_ISA_NAME "default"
#include "cpu/kernels/kernel_table.inc.h"

namespace rnnfused {
const CpuKernels* baseline_kernels() { return &baseline::kKernels; }
}  // namespace rnnfused
