// Stands for csrc/cpu/dispatch.cpp: the kernels of one instruction set, or those of the library that is installed.
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>

#include "cpu/dispatch.h"

namespace rnnfused {
namespace {

#ifdef RNNFUSED_DRIVER_LIBRARY
const CpuKernels* find(const char* name) {
  void* const library = dlopen(std::getenv("RNNFUSED_LIBRARY"), RTLD_NOW);
  if (!library) {
    std::fprintf(stderr, "%s\n", dlerror());
    std::exit(2);
  }
  using Find = const CpuKernels* (*)(const char*);
  return reinterpret_cast<Find>(dlsym(library, "rnnfused_cpu_kernels"))(name);
}
#elif defined(RNNFUSED_DRIVER_KERNELS)
const CpuKernels* find(const char*) { return RNNFUSED_DRIVER_KERNELS(); }
#else
const CpuKernels* find(const char*) { return baseline_kernels(); }
#endif

}  // namespace

const CpuKernels& cpu_kernels() {
  static const CpuKernels* const kernels = [] {
    const char* const name = std::getenv("RNNFUSED_CPU_CAPABILITY");
    const CpuKernels* const found = find(name ? name : "default");
    if (!found) {
      std::fprintf(stderr, "this machine or build has no %s\n", name);
      std::exit(3);
    }
    return found;
  }();
  return *kernels;
}

}  // namespace rnnfused
