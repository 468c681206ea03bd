// The worker threads of a call. A task runs once per index; whoever starts tasks waits for all of them.
#pragma once

#include <cstdint>

#include "cpu/float_mode.h"

namespace rnnfused {

// A reference to a callable, which must outlive it. Unlike std::function, it never allocates.
template <class Signature>
class FunctionRef;

template <class Result, class... Arguments>
class FunctionRef<Result(Arguments...)> {
 public:
  template <class Function>
  FunctionRef(const Function& function)
      : object_(&function), call_([](const void* object, Arguments... arguments) -> Result {
          return (*static_cast<const Function*>(object))(arguments...);
        }) {}

  Result operator()(Arguments... arguments) const { return call_(object_, arguments...); }

 private:
  const void* object_;
  Result (*call_)(const void*, Arguments...);
};

using Task = FunctionRef<void(int64_t)>;

// Runs task(i) for every i in [0, count), on any threads and in any order; returns when all are done.
using ParallelFor = void (*)(int64_t count, Task task);

// By default one worker: the calling thread.
struct Workers {
  int64_t count = 1;
  ParallelFor parallel_for = nullptr;

  void run(int64_t tasks, Task task) const {
    if (tasks > 1 && parallel_for) {
      const FloatMode mode = float_mode();  // the caller's
      return parallel_for(tasks, [&](int64_t i) {
        const FloatModeGuard guard(mode);
        task(i);
      });
    }
    for (int64_t i = 0; i < tasks; ++i) task(i);
  }
};

}  // namespace rnnfused
