#include "team.h"

#include <chrono>
#include <thread>

namespace rnnfused {
namespace {

using Clock = std::chrono::steady_clock;

// A thread of a pool that is awake comes within a few microseconds.
constexpr auto kJoinTime = std::chrono::microseconds(30);
// A step takes less; a thread that has lost its processor is away for longer.
constexpr auto kMeetTime = std::chrono::microseconds(200);

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Waits until it is so; returns whether that was within the time. After it, others may have the processor.
template <class IsSo, class Late>
void wait_until(const IsSo& is_so, Clock::duration time, const Late& late) {
  constexpr int kLooks = 64;  // between two of the clock
  for (int i = 0; i < kLooks; ++i) {
    if (is_so()) return;
    pause();
  }
  const Clock::time_point end = Clock::now() + time;
  while (Clock::now() < end) {
    for (int i = 0; i < kLooks; ++i) {
      if (is_so()) return;
      pause();
    }
  }
  late();
  while (!is_so()) std::this_thread::yield();
}

}  // namespace

int64_t Team::join() {
  int64_t before = joined_.load();
  do {
    if (before >= kStarted) return -1;
  } while (!joined_.compare_exchange_weak(before, before + 1));
  if (before > 0) {
    wait_until([&] { return joined_.load() >= kStarted; }, kJoinTime, [] {});
    return before;
  }
  bool is_late = false;
  wait_until([&] { return is_late || joined_.load() == most_; }, kJoinTime, [&] { is_late = true; });
  int64_t now = joined_.load();
  do {
    size_ = now;
  } while (!joined_.compare_exchange_weak(now, now + kStarted));
  return 0;
}

bool Team::meet() {
  if (size_ == 1) return true;
  const int64_t before = meetings_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
    arrived_.store(0, std::memory_order_relaxed);
    // Everybody sees the same of the meeting: its number is odd from the end of the team on.
    const int64_t next = before + 2 + (was_late_.load(std::memory_order_relaxed) ? 1 : 0);
    meetings_.store(next, std::memory_order_release);
    return next % 2 == 0;
  }
  int64_t now = before;
  wait_until([&] { return (now = meetings_.load(std::memory_order_acquire)) != before; }, kMeetTime,
             [&] { was_late_.store(true, std::memory_order_relaxed); });
  return now % 2 == 0;
}

}  // namespace rnnfused
