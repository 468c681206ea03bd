#include "cpu/team.h"

#include <chrono>
#include <thread>

#include "cpu/tuning.h"

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
  const auto looks = [&] {
    for (int i = 0; i < kSpinsPerClock; ++i) {
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

struct alignas(64) Team::Line {
  std::atomic<int64_t> said{0};
};

Team::Team(int64_t most, int64_t patience_ns) : most_(most), patience_ns_(patience_ns), lines_(new Line[most + 1]) {}

Team::~Team() { delete[] lines_; }

void Team::close() { closed_.store(true, std::memory_order_release); }

// In one word, so that it is all there or not; 0 is none.
void Team::say(const Word& word) {
  const int64_t sizes = word.size_before << kSizeBits | word.size;
  lines_[word.step % 2].said.store((word.step + 1) << (2 * kSizeBits) | sizes, std::memory_order_release);
}

// The last that was said of an even step, or an odd one.
Team::Word Team::heard(int64_t step) const {
  const int64_t said = lines_[step % 2].said.load(std::memory_order_acquire);
  constexpr int64_t kSize = (int64_t{1} << kSizeBits) - 1;
  return {(said >> (2 * kSizeBits)) - 1, said >> kSizeBits & kSize, said & kSize};
}

void Team::wait_for_others(const Member& member, int64_t size, int64_t step) {
  for (int64_t number = 1; number < size; ++number) {
    if (number == member.number) continue;
    wait_until([&] { return lines_[number + 1].said.load(std::memory_order_acquire) >= step; }, patience_ns_,
               [&] { was_late_.store(true, std::memory_order_relaxed); });
  }
}

void Team::come(Member& member) {
  member.team = this;
  member.number = came_.fetch_add(1, std::memory_order_acq_rel);
}

bool Team::join(Member& member, int64_t first_step) {
  if (member.number == 0) {
    member.size = came_.load(std::memory_order_acquire);
    if (member.size > 1) say({first_step, 1, member.size});
    return true;
  }
  // The first word that counts the caller in. The one after it may have been said meanwhile: so a last look.
  Word first;
  bool is_in = false;
  const auto look = [&] {
    for (int64_t parity = 0; parity < 2; ++parity) {
      const Word word = heard(parity);
      if (word.size <= member.number) continue;
      if (!is_in || word.step < first.step) first = word;
      is_in = true;
    }
    return is_in;
  };
  wait_until([&] { return look() || closed_.load(std::memory_order_acquire); }, patience_ns_, [] {});
  if (!look()) return false;
  wait_for_others(member, first.size_before, first.step);
  member.size = first.size;
  member.first_step = first.step;
  return true;
}

bool Team::meet(Member& member, int64_t i) {
  const int64_t step = i + 1, size = member.size;
  Word word;
  if (member.number == 0) {
    const bool ends = size > 1 && was_late_.load(std::memory_order_relaxed);
    word = {step, size, ends ? 1 : came_.load(std::memory_order_acquire)};
    if (size > 1 || word.size > 1) say(word);
  } else {
    lines_[member.number + 1].said.store(step, std::memory_order_release);
    wait_until([&] { return (word = heard(step)).step == step; }, patience_ns_,
               [&] { was_late_.store(true, std::memory_order_relaxed); });
  }
  wait_for_others(member, size, step);
  member.size = word.size;
  return !word.ends();
}

}  // namespace rnnfused
