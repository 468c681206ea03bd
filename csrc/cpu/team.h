// Threads that share out the columns of every step, where a batch has too few rows for them: they meet after each.
// A meeting of threads that all run takes a tenth of a microsecond; one that has lost its processor would keep the
// others waiting step after step. So the first to come starts alone, others join between two steps when they come,
// and a team that was kept waiting for long ends.
#pragma once

#include <atomic>
#include <cstdint>

namespace rnnfused {

class Team;

// The most rows of a team; any thread can hold the states of so many.
constexpr int64_t kMostTeamRows = 14;

// A thread's part in a team; of none, it is alone. Number 0 came first and has all steps.
struct Member {
  Team* team = nullptr;
  int64_t number = 0;
  int64_t first_step = 0;
};

// Nothing is defined here: what includes this is also compiled for other instruction sets (see kernels.inc.h).
class Team {
 public:
  // A meeting that takes longer than this is the last.
  explicit Team(int64_t patience_ns);
  Team(const Team&) = delete;

  // Returns when the caller is a member; false: it came too late.
  bool join(Member& member);
  // The members of the step to come.
  int64_t size() const;

  // After step i: returns when all members have called it. False: the team has ended, and number 0 goes on alone.
  bool meet(int64_t i);

  // By number 0, when there is nothing more to do.
  void close();

 private:
  void let_in(int64_t first_step);

  const int64_t patience_ns_;
  int64_t size_ = 1, first_step_ = 0;
  alignas(64) std::atomic<int64_t> came_{0};
  std::atomic<bool> was_late_{false};
  alignas(64) std::atomic<int64_t> members_{1};  // that were let in
  std::atomic<bool> closed_{false};
  alignas(64) std::atomic<int64_t> arrived_{0};
  // 2 (i + 1) when the meeting after step i is over, 1 more if it was the last.
  alignas(64) std::atomic<int64_t> meetings_{0};
};

}  // namespace rnnfused
