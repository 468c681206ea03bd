// Threads that share out the columns of every step, where a batch has too few rows for them: they meet after each.
// A meeting of threads that all run takes a tenth of a microsecond. One that does not run would keep the others waiting
// step after step: so a team starts with those that come soon, and ends at a meeting that took long.
#pragma once

#include <atomic>
#include <cstdint>

namespace rnnfused {

class Team {
 public:
  explicit Team(int64_t most) : most_(most) {}
  Team(const Team&) = delete;

  // Returns the caller's number, from 0 on, when the team has started; -1 if it did so before.
  int64_t join();
  int64_t size() const { return size_; }

  // Returns when all members have called it. False: the team has ended, and number 0 goes on alone.
  bool meet();

 private:
  static constexpr int64_t kStarted = int64_t{1} << 32;

  const int64_t most_;
  int64_t size_ = 0;
  alignas(64) std::atomic<int64_t> joined_{0};  // how many have; from the start on, kStarted more
  alignas(64) std::atomic<int64_t> arrived_{0};
  alignas(64) std::atomic<int64_t> meetings_{0};
  alignas(64) std::atomic<bool> was_late_{false};
};

// A thread's part in a team; of none, it is alone.
struct Member {
  Team* team = nullptr;
  int64_t number = 0;
};

}  // namespace rnnfused
