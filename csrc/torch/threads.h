// Lets torch's own threads work for a call, in a forked child too.
#pragma once

#include <pthread.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <exception>
#include <stdexcept>

#include "cpu/processors.h"
#include "cpu/workers.h"

namespace rnnfused {

// A start of new threads costs 100 to 300 us; kMinWorkPerWorker is for the start of threads that wait for work.
constexpr int64_t kStartsOfNewThread = 40;

inline void parallel_for(int64_t count, Task task) {
  torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) task(i);
  });
}

// OpenMP gives each thread that calls it a pool. The pool of a thread that forked is gone in the child, where OpenMP
// would wait for it forever; a new thread gets a new pool.
inline void parallel_for_on_new_thread(int64_t count, Task task) {
  struct Call {
    int64_t count;
    Task task;
    std::exception_ptr failure;

    static void* run(void* address) {
      Call& call = *static_cast<Call*>(address);
      try {
        parallel_for(call.count, call.task);
      } catch (...) {
        call.failure = std::current_exception();
      }
      return nullptr;
    }
  } call = {count, task, nullptr};
  pthread_t thread;  // the names of a std::thread's templates would be exported
  if (pthread_create(&thread, nullptr, &Call::run, &call) != 0) throw std::runtime_error("rnnfused: no thread starts");
  pthread_join(thread, nullptr);
  if (call.failure) std::rethrow_exception(call.failure);
}

inline bool is_forked = false;
inline const int has_fork_handler = pthread_atfork(nullptr, nullptr, [] { is_forked = true; });

// No more workers than can run at the same time.
inline Workers torch_workers() {
  const int64_t threads = torch::stable::get_num_threads();
  if (threads <= 1) return {};
  const int64_t count = std::min(threads, available_processors());
  if (is_forked) return {count, parallel_for_on_new_thread, threads / count * kStartsOfNewThread};
  return {count, parallel_for, threads / count};
}

}  // namespace rnnfused
