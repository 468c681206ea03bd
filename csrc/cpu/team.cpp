#include "team.h"

#include <chrono>
#include <thread>

namespace rnnfused {
namespace {

using Clock = std::chrono::steady_clock;

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Waits until it is so. If that takes long, says so, and leaves the processor to others meanwhile.
template <class IsSo, class SayLate>
void wait_until(const IsSo& is_so, int64_t patience_ns, const SayLate& say_late) {
  constexpr int kLooks = 64;  // between two at the clock
  const auto looks = [&] {
    for (int i = 0; i < kLooks; ++i) {
      if (is_so()) return true;
      pause();
    }
    return false;
  };
  if (looks()) return;
  const Clock::time_point end = Clock::now() + std::chrono::nanoseconds(patience_ns);
  while (Clock::now() < end) {
    if (looks()) return;
  }
  say_late();
  while (!is_so()) std::this_thread::yield();
}

}  // namespace

Team::Team(int64_t patience_ns) : patience_ns_(patience_ns) {}

int64_t Team::size() const { return size_; }

void Team::close() { closed_.store(true, std::memory_order_release); }

bool Team::join(Member& member) {
  member.team = this;
  member.number = came_.fetch_add(1, std::memory_order_acq_rel);
  if (member.number == 0) return true;
  const auto is_in = [&] { return members_.load(std::memory_order_acquire) > member.number; };
  wait_until([&] { return is_in() || closed_.load(std::memory_order_acquire); }, patience_ns_, [] {});
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
  // Known to all, also to those who are let in at the one before, however soon they come here.
  const int64_t over = 2 * (i + 1), size = size_;
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size) {
    arrived_.store(0, std::memory_order_relaxed);
    const bool ends = was_late_.load(std::memory_order_relaxed);
    if (!ends) let_in(i + 1);
    meetings_.store(over + (ends ? 1 : 0), std::memory_order_release);
    return !ends;
  }
  int64_t now = 0;
  wait_until([&] { return (now = meetings_.load(std::memory_order_acquire)) >= over; }, patience_ns_,
             [&] { was_late_.store(true, std::memory_order_relaxed); });
  return now == over;
}

}  // namespace rnnfused
