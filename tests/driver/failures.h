// Allocations that fail on purpose: the n-th one while it is armed, on any thread.
#pragma once

#include <cstdint>

namespace rnnfused {

// Arms in its lifetime. Negative n: none fails.
class FailingAllocation {
 public:
  explicit FailingAllocation(int64_t n);
  FailingAllocation(const FailingAllocation&) = delete;
  ~FailingAllocation();

  // Whether the n-th allocation came, and failed.
  bool has_failed() const;
};

}  // namespace rnnfused
