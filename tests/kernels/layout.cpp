// The kernels with registers of RNNFUSED_PLAIN_VECTORS bytes, whatever the processor has: the layout of other
// instruction sets. Exports what the library exports.
#define RNNFUSED_ISA plain
#define RNNFUSED_ISA_NAME "plain"
#include "cpu/kernels/kernel_table.inc.h"

extern "C" __attribute__((visibility("default"))) const rnnfused::CpuKernels* rnnfused_cpu_kernels(const char*) {
  return &rnnfused::plain::kKernels;
}
