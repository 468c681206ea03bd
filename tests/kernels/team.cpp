// Runs teams of threads on sums that are wrong if a thread continues too early, for pytest.
#include "cpu/team.cpp"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <random>
#include <vector>

using namespace rnnfused;

namespace {

constexpr int64_t kColumns = 64;

uint64_t next_of(const std::vector<uint64_t>& state, int64_t column) {
  return 3 * state[column] + state[(column + 17) % kColumns] + column;
}

// Runs a team whose threads arrive after a random delay of up to `delay_us`, and sometimes pause for as long. Returns
// whether the last state equals that of one thread, and the number of threads that took part.
std::pair<bool, int> run(int64_t threads, int64_t steps, int64_t delay_us, int64_t patience_us, int64_t seed) {
  std::vector<uint64_t> states[2] = {std::vector<uint64_t>(kColumns, 1), std::vector<uint64_t>(kColumns)};
  std::vector<uint64_t> expected = states[0], next(kColumns);
  const int64_t first = seed % 3;  // step
  for (int64_t i = first; i < steps; ++i) {
    for (int64_t c = 0; c < kColumns; ++c) next[c] = next_of(expected, c);
    expected.swap(next);
  }
  states[first % 2].swap(states[0]);
  Team team(threads, patience_us * 1000);
  std::atomic<int> members{0};
  const auto work = [&](int64_t thread) {
    std::minstd_rand random(seed * 100 + thread);
    const auto rest = [&] { std::this_thread::sleep_for(std::chrono::microseconds(random() % (delay_us + 1))); };
    if (thread > 0) rest();
    Member member;
    team.arrive(member);
    if (random() % 4 == 0) rest();
    if (team.join(member, first)) {
      ++members;
      bool together = true;
      for (int64_t i = std::max(first, member.first_step); i < steps; ++i) {
        const int64_t count = together ? member.size : 1, number = together ? member.number : 0;
        // More often at first, when other threads arrive.
        if (random() % (i < 20 ? 3 : 50) == 0) rest();
        const std::vector<uint64_t>& state = states[i % 2];
        for (int64_t c = kColumns * number / count; c < kColumns * (number + 1) / count; ++c) {
          states[1 - i % 2][c] = next_of(state, c);
        }
        if (!together || team.meet(member, i)) continue;
        together = false;
        team.close();
        if (member.number > 0) return;
      }
    }
    if (member.number == 0) team.close();
  };
  std::vector<std::thread> others;
  for (int64_t i = 1; i < threads; ++i) others.emplace_back(work, i);
  work(0);
  for (std::thread& other : others) other.join();
  return {states[steps % 2] == expected, members};
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) { m.def("run", &run, pybind11::call_guard<pybind11::gil_scoped_release>()); }
