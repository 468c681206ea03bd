#include "cpu/dispatch.h"

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

namespace rnnfused {
namespace {

#if defined(__aarch64__)
// Whether the processor has BFDOT.
bool has_bf16() {
#if defined(__linux__)
  constexpr unsigned long kBf16 = 1 << 14;  // HWCAP2_BF16, which older headers lack
  return getauxval(AT_HWCAP2) & kBf16;
#elif defined(__APPLE__)
  int has = 0;
  size_t size = sizeof has;
  return sysctlbyname("hw.optional.arm.FEAT_BF16", &has, &size, nullptr, 0) == 0 && has;
#else
  return false;
#endif
}
#endif

// Besides the baseline, the fastest first.
constexpr const char* kNames[] = {"avx512_bf16", "avx512", "avx2", "neon_bf16"};

const CpuKernels* best_kernels() {
  for (const char* name : kNames) {
    if (const CpuKernels* kernels = find_cpu_kernels(name)) return kernels;
  }
  return baseline_kernels();
}

const CpuKernels& choose_kernels() {
  const char* wanted = std::getenv("RNNFUSED_CPU_CAPABILITY");
  if (!wanted || !*wanted) return *best_kernels();
  if (const CpuKernels* kernels = find_cpu_kernels(wanted)) return *kernels;
  std::string names = "default";
  for (const char* name : kNames) {
    if (find_cpu_kernels(name)) names.append(", ").append(name);
  }
  throw std::runtime_error(std::string("RNNFUSED_CPU_CAPABILITY is \"") + wanted +
                           "\", but this processor and build have only: " + names);
}

}  // namespace

const CpuKernels* find_cpu_kernels(const char* name) {
  if (std::strcmp(name, "default") == 0) return baseline_kernels();
#if defined(__x86_64__)
  if (std::strcmp(name, "avx2") == 0 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    return avx2_kernels();
  }
  const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                          __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
  if (std::strcmp(name, "avx512") == 0 && has_avx512) return avx512_kernels();
  if (std::strcmp(name, "avx512_bf16") == 0 && has_avx512 && __builtin_cpu_supports("avx512bf16")) {
    return avx512_bf16_kernels();
  }
#elif defined(__aarch64__)
  if (std::strcmp(name, "neon_bf16") == 0 && has_bf16()) return neon_bf16_kernels();
#endif
  return nullptr;
}

const CpuKernels& cpu_kernels() {
  static const CpuKernels& kernels = choose_kernels();
  return kernels;
}

}  // namespace rnnfused

// The library's only exported symbol, through which tests call every instruction set.
extern "C" __attribute__((visibility("default"))) const rnnfused::CpuKernels* rnnfused_cpu_kernels(const char* name) {
  return rnnfused::find_cpu_kernels(name);
}
