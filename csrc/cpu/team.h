// Threads that share out the columns of every step, where a batch has too few rows for them: they meet after each.
// A meeting of threads that all run takes a tenth of a microsecond; one that has lost its processor would keep the
// others waiting step after step. So the first to come starts alone, others join between two steps when they come,
// and a team that was kept waiting for long ends.
#pragma once

#include <atomic>
#include <cstdint>

#include "cpu/tuning.h"

namespace rnnfused {

class Team;

// Bits of a number of members.
constexpr int kSizeBits = 7;
static_assert(kMaxMembers < 1 << kSizeBits);

// A thread's part in a team; of none, it is alone. Number 0 came first and has all steps.
struct Member {
  Team* team = nullptr;
  int64_t number = 0;
  int64_t size = 1;  // members of the step to come
  int64_t first_step = 0;
};

// Nothing is defined here: what includes this is also compiled for other instruction sets (see kernel_table.inc.h).
class Team {
 public:
  // Of up to so many members. One that keeps another waiting for longer than the patience ends the team soon.
  Team(int64_t most, int64_t patience_ns);
  Team(const Team&) = delete;
  ~Team();

  int64_t most() const { return most_; }

  // Numbers the callers, up to `most`, as they come. Each must then join, number 0 when all is ready for the first
  // step.
  void come(Member& member);
  // Returns when the caller is a member. False: it came too late.
  bool join(Member& member, int64_t first_step);

  // After step i, for each step from the first on: returns when all members have called it. False: the team has ended,
  // and number 0 goes on alone.
  bool meet(Member& member, int64_t i);

  // By number 0, when there is nothing more to do.
  void close();

  // Whether anybody was kept waiting for long.
  bool was_late() const { return was_late_.load(std::memory_order_relaxed); }

 private:
  // What number 0 says when it is ready for a step: how many members the step before had, and it will have.
  struct Word {
    int64_t step, size_before, size;

    // The team only shrinks to end: number 0 takes the step alone.
    bool ends() const { return size < size_before; }
  };
  struct Line;  // of memory, that one member writes

  void say(const Word& word);
  Word heard(int64_t step) const;
  // Until those of so many members that are neither the caller nor number 0 are ready for the step.
  void wait_for_others(const Member& member, int64_t size, int64_t step);

  const int64_t most_, patience_ns_;
  // Two lines are number 0's, for even and odd steps: nobody is further behind. The others' have the step that they
  // are ready for.
  Line* const lines_;
  alignas(64) std::atomic<int64_t> came_{0};
  std::atomic<bool> was_late_{false}, closed_{false};
};

}  // namespace rnnfused
