// Spins that end; see watchdog.h.
#pragma once

#include "cuda/tuning.h"
#include "cuda/watchdog.h"

namespace rnnfused {
namespace cuda {

__device__ __forceinline__ uint64_t nanoseconds() {
  uint64_t now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  return now;
}

__device__ __forceinline__ void store_for_host(uint64_t* to, uint64_t value) {
  asm volatile("st.relaxed.sys.global.u64 [%0], %1;" ::"l"(to), "l"(value) : "memory");
}
__device__ __forceinline__ void store_for_host(uint32_t* to, uint32_t value) {
  asm volatile("st.relaxed.sys.global.u32 [%0], %1;" ::"l"(to), "r"(value) : "memory");
}
__device__ __forceinline__ uint64_t load_from_host(const uint64_t* from) {
  uint64_t value;
  asm volatile("ld.relaxed.sys.global.u64 %0, [%1];" : "=l"(value) : "l"(from) : "memory");
  return value;
}

// Polls until `poll()` is true. Returns false if the launch is to stop: after the time limit, or by the alarm of
// another block. The first poll, and some after it, look at neither the time nor the alarm.
template <class Poll>
__device__ __forceinline__ bool spin(const Watchdog& watchdog, const Plan& plan, int rank, const Wait& wait,
                                     const Poll& poll) {
  if (poll()) return true;
  uint64_t begin = 0;
#pragma unroll 1
  for (;;) {
#pragma unroll 1
    for (int n = 0; n < kPollsPerLook; ++n) {
      if (poll()) return true;
    }
    const uint64_t now = nanoseconds();
    if (begin == 0) begin = now;
    const bool stops = load_from_host(&watchdog.alarm->launch) == watchdog.launch;
    if (!stops && now - begin <= watchdog.limit) continue;
    store_for_host(&watchdog.alarm->waits[rank], wait.pack());
    if (!stops) {
      const uint32_t* words = reinterpret_cast<const uint32_t*>(&plan);
#pragma unroll 1
      for (int i = 0; i < int(sizeof plan / sizeof *words); ++i) {
        store_for_host(&watchdog.alarm->plan[i], words[i]);
      }
      store_for_host(&watchdog.alarm->limit, watchdog.limit);
      __threadfence_system();
      store_for_host(&watchdog.alarm->launch, watchdog.launch);
    }
    return false;
  }
}

}  // namespace cuda
}  // namespace rnnfused
