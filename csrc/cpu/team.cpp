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
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

// Spins until the condition holds. Past the patience, reports that and yields the processor between two tests.
template <class Condition, class Report>
void wait_until(const Condition& holds, int64_t patience_ns, const Report& report_late) {
  const auto spin = [&] {
    for (int i = 0; i < kSpinsPerClock; ++i) {
      if (holds()) return true;
      pause();
    }
    return false;
  };
  if (spin()) return;
  const Clock::time_point end = Clock::now() + std::chrono::nanoseconds(patience_ns);
  while (Clock::now() < end) {
    if (spin()) return;
  }
  report_late();
  while (!holds()) std::this_thread::yield();
}

}  // namespace

struct alignas(64) Team::Line {
  std::atomic<int64_t> value{0};
};

Team::Team(int64_t most, int64_t patience_ns) : most_(most), patience_ns_(patience_ns), lines_(new Line[most + 1]) {}

Team::~Team() { delete[] lines_; }

void Team::close() { closed_.store(true, std::memory_order_release); }

// One atomic store publishes the whole word; 0 means none.
void Team::publish(const Word& word) {
  const int64_t sizes = word.size_before << kSizeBits | word.size;
  lines_[word.step % 2].value.store((word.step + 1) << (2 * kSizeBits) | sizes, std::memory_order_release);
}

// The last word about an even step, or about an odd one.
Team::Word Team::published(int64_t step) const {
  const int64_t value = lines_[step % 2].value.load(std::memory_order_acquire);
  constexpr int64_t kSize = (int64_t{1} << kSizeBits) - 1;
  return {(value >> (2 * kSizeBits)) - 1, value >> kSizeBits & kSize, value & kSize};
}

void Team::wait_for_others(const Member& member, int64_t size, int64_t step) {
  for (int64_t number = 1; number < size; ++number) {
    if (number == member.number) continue;
    wait_until([&] { return lines_[number + 1].value.load(std::memory_order_acquire) >= step; }, patience_ns_,
               [&] { was_late_.store(true, std::memory_order_relaxed); });
  }
}

void Team::arrive(Member& member) {
  member.team = this;
  member.number = arrived_.fetch_add(1, std::memory_order_acq_rel);
}

bool Team::join(Member& member, int64_t first_step) {
  if (member.number == 0) {
    member.size = arrived_.load(std::memory_order_acquire);
    if (member.size > 1) publish({first_step, 1, member.size});
    return true;
  }
  // Finds the first word that counts the caller in. The next word may be published meanwhile, so read once more.
  Word first;
  bool is_in = false;
  const auto read = [&] {
    for (int64_t parity = 0; parity < 2; ++parity) {
      const Word word = published(parity);
      if (word.size <= member.number) continue;
      if (!is_in || word.step < first.step) first = word;
      is_in = true;
    }
    return is_in;
  };
  wait_until([&] { return read() || closed_.load(std::memory_order_acquire); }, patience_ns_, [] {});
  if (!read()) return false;
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
    word = {step, size, ends ? 1 : arrived_.load(std::memory_order_acquire)};
    if (size > 1 || word.size > 1) publish(word);
  } else {
    lines_[member.number + 1].value.store(step, std::memory_order_release);
    wait_until([&] { return (word = published(step)).step == step; }, patience_ns_,
               [&] { was_late_.store(true, std::memory_order_relaxed); });
  }
  wait_for_others(member, size, step);
  member.size = word.size;
  return !word.ends();
}

}  // namespace rnnfused
