// A team of threads shares the columns of every step, where a batch has too few rows to share. Its members meet at a
// spin barrier after each step. A meeting of running threads takes 0.1 us, but a thread that has lost its processor
// delays the others at every step. So the first thread starts alone, others join between two steps as they arrive,
// and a team that waits too long ends: its first member finishes alone.
#pragma once

#include <atomic>
#include <cstdint>

#include "cpu/tuning.h"

namespace rnnfused {

class Team;

// Bits of a number of members.
constexpr int kSizeBits = 7;
static_assert(kMaxMembers < 1 << kSizeBits);

// A thread's role in a team. Null team: it works alone. Member 0 arrived first and runs every step.
struct Member {
  Team* team = nullptr;
  int64_t number = 0;
  int64_t size = 1;  // members in the next step
  int64_t first_step = 0;
};

// Member functions are defined in team.cpp: the kernels include this header, for other instruction sets.
class Team {
 public:
  // A team of up to `most` members. It ends soon after a member has waited longer than `patience_ns`.
  Team(int64_t most, int64_t patience_ns);
  Team(const Team&) = delete;
  ~Team();

  int64_t most() const { return most_; }

  // Numbers the callers, at most `most`, in order of arrival. Each must then join; member 0 joins when everything is
  // ready for the first step.
  void arrive(Member& member);
  // Returns when the caller is a member. False: it arrived too late.
  bool join(Member& member, int64_t first_step);

  // Each member calls it after every step i from its first on; returns when all members have. False: the team has
  // ended, and member 0 continues alone.
  bool meet(Member& member, int64_t i);

  // Member 0 calls it when no work remains.
  void close();

  // Whether a member waited longer than the patience.
  bool was_late() const { return was_late_.load(std::memory_order_relaxed); }

 private:
  // Member 0 announces a step with the number of members of the step before, and of this one.
  struct Word {
    int64_t step, size_before, size;

    // A team shrinks only when it ends: member 0 takes the step alone.
    bool ends() const { return size < size_before; }
  };
  struct Line;  // a cache line that one member writes

  void publish(const Word& word);
  Word published(int64_t step) const;
  // Waits until all of `size` members, except the caller and member 0, are ready for the step.
  void wait_for_others(const Member& member, int64_t size, int64_t step);

  const int64_t most_, patience_ns_;
  // Member 0 has two lines, for even and odd steps: no member is further behind. Each other member's line holds the
  // step that it is ready for.
  Line* const lines_;
  alignas(64) std::atomic<int64_t> arrived_{0};
  std::atomic<bool> was_late_{false}, closed_{false};
};

}  // namespace rnnfused
