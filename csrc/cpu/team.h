// Threads that share out the columns of every step, where a batch has too few rows for them: they meet after each.
// A meeting of threads that all run takes a tenth of a microsecond; one that has lost its processor would keep the
// others waiting step after step. So the first to come starts alone, others join between two steps when they come,
// and a team that was kept waiting for long ends.
#pragma once

#include <atomic>
#include <cstdint>

namespace rnnfused {

class Team;

// A thread's part in a team; of none, it is alone. Number 0 came first and has all steps.
struct Member {
  Team* team = nullptr;
  int64_t number = 0;
  int64_t first_step = 0;
};

class Team {
 public:
  Team() = default;
  Team(const Team&) = delete;

  // Returns when the caller is a member; false: it came too late.
  bool join(Member& member);
  // The members of the step to come.
  int64_t size() const { return size_; }

  // After step i: returns when all members have called it. False: the team has ended, and number 0 goes on alone.
  bool meet(int64_t i);

  // By number 0, when there is nothing more to do.
  void close() { closed_.store(true, std::memory_order_release); }

 private:
  void let_in(int64_t first_step);

  int64_t size_ = 1, first_step_ = 0;
  alignas(64) std::atomic<int64_t> came_{0};
  std::atomic<bool> was_late_{false};
  alignas(64) std::atomic<int64_t> members_{1};  // that were let in
  std::atomic<bool> closed_{false};
  alignas(64) std::atomic<int64_t> arrived_{0};
  alignas(64) std::atomic<int64_t> meetings_{0};
};

}  // namespace rnnfused
