#include "team.h"

#include <chrono>
#include <thread>

namespace rnnfused {
namespace {

using Clock = std::chrono::steady_clock;

// A step takes less; a thread that has lost its processor is away for longer.
constexpr auto kPatience = std::chrono::microseconds(200);

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Waits until it is so. If that takes long, says so, and leaves the processor to others meanwhile.
template <class IsSo, class SayLate>
void wait_until(const IsSo& is_so, const SayLate& say_late) {
  constexpr int kLooks = 64;  // between two at the clock
  const auto looks = [&] {
    for (int i = 0; i < kLooks; ++i) {
      if (is_so()) return true;
      pause();
    }
    return false;
  };
  if (looks()) return;
  const Clock::time_point end = Clock::now() + kPatience;
  while (Clock::now() < end) {
    if (looks()) return;
  }
  say_late();
  while (!is_so()) std::this_thread::yield();
}

}  // namespace

bool Team::join(Member& member) {
  member.team = this;
  member.number = came_.fetch_add(1, std::memory_order_acq_rel);
  if (member.number == 0) return true;
  const auto is_in = [&] { return members_.load(std::memory_order_acquire) > member.number; };
  wait_until([&] { return is_in() || closed_.load(std::memory_order_acquire); }, [] {});
  member.first_step = first_step_;
  return is_in();
}

// Those who have come; all others of the team wait meanwhile.
void Team::let_in(int64_t first_step) {
  const int64_t came = came_.load(std::memory_order_acquire);
  if (came <= size_) return;
  size_ = came;
  first_step_ = first_step;
  members_.store(came, std::memory_order_release);
}

bool Team::meet(int64_t i) {
  if (size_ == 1) {
    let_in(i + 1);
    return true;
  }
  const int64_t before = meetings_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
    arrived_.store(0, std::memory_order_relaxed);
    const bool ends = was_late_.load(std::memory_order_relaxed);
    if (!ends) let_in(i + 1);
    // Everybody sees the same of the meeting: its number is odd if it was the last.
    meetings_.store(before + (ends ? 1 : 2), std::memory_order_release);
    return !ends;
  }
  int64_t now = before;
  wait_until([&] { return (now = meetings_.load(std::memory_order_acquire)) != before; },
             [&] { was_late_.store(true, std::memory_order_relaxed); });
  return now % 2 == 0;
}

}  // namespace rnnfused
