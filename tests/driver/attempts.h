// Runs a call until it succeeds: first with its first allocation failing, then with its second, and so on.
#pragma once

#include <cstdint>
#include <new>

#include "failures.h"

namespace rnnfused {

inline bool fails_allocations = false;

template <class Run>
void attempt(const Run& run) {
  for (int64_t n = 0; fails_allocations; ++n) {
    const FailingAllocation failing(n);
    try {
      run();
      if (!failing.has_failed()) return;
    } catch (const std::bad_alloc&) {
    }
  }
  run();
}

}  // namespace rnnfused
