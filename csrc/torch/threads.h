// The threads of a call: torch's own, or the library's where torch's do not suit.
#pragma once

#include <pthread.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>

#include "cpu/own_threads.h"
#include "cpu/processors.h"
#include "cpu/workers.h"

namespace rnnfused {

inline void run_on_torch_threads(int64_t count, Task task) {
  torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) task(i);
  });
}

// In a forked child OpenMP would wait forever for the threads of its pool.
inline bool is_forked = false;
inline const int has_fork_handler = pthread_atfork(nullptr, nullptr, [] { is_forked = true; });

// No more workers than can run at the same time.
inline Workers torch_workers() {
  const int64_t threads = torch::stable::get_num_threads();
  if (threads <= 1) return {};
  const int64_t count = std::min(threads, available_processors());
  if (is_forked) return {openmp_pins_threads() ? 1 : count, run_on_own_threads};
  // Own threads would share the processor to which OpenMP has pinned the caller.
  if (count < threads && !openmp_pins_threads()) return {count, run_on_own_threads};
  return {count, run_on_torch_threads};
}

}  // namespace rnnfused
