// The end of a wait in vain. A block of a fused kernel that waits longer than the time limit for its team raises an
// alarm in host memory; every block of the launch then leaves its loop, and the next call reports it. A trap would do
// as well, but it ends the user's context.
//
// A launch in a graph of the user's keeps its number. So after an alarm of it, its replays stop at their first wait
// until a call outside of the graph has reported the alarm, which clears it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "cuda/plan.h"

namespace rnnfused {
namespace cuda {

// What a block waits for: the bytes of one of its two states (the index of the mbarrier), or the block of a rank of a
// grid (this and the rank).
constexpr uint32_t kWaitsForRank = 2;

// In mapped host memory, one per device. Blocks write it with relaxed stores at system scope alone.
struct Alarm {
  uint64_t launch = 0;                 // that is to stop; 0: no alarm
  uint64_t limit = 0;                  // of the launch, nanoseconds
  uint64_t waits[kMaxGridTeam] = {};   // for each rank, where a block waited (pack); 0: unknown
  uint32_t plan[sizeof(Plan) / 4]{0};  // of the launch
};

// An argument of every kernel.
struct Watchdog {
  Alarm* alarm = nullptr;  // its address on the device
  uint64_t limit = 0;      // nanoseconds that a block waits
  uint64_t launch = 0;     // identifies the launch; not 0
};

struct Wait {
  int64_t step;      // of the loop, from 0
  int64_t team;      // the tile of batch rows
  uint32_t barrier;  // 0, 1 or kWaitsForRank + rank

  RNNFUSED_EVERYWHERE uint64_t pack() const {
    return static_cast<uint64_t>(step + 1) << 24 | static_cast<uint64_t>(team & 0xffff) << 8 | barrier;
  }
};

inline Wait unpack(uint64_t bits) {
  return {static_cast<int64_t>(bits >> 24) - 1, static_cast<int64_t>(bits >> 8 & 0xffff), uint32_t(bits & 255)};
}

// The message of an alarm; empty if none is raised. The rank that waits at the earliest step comes first: it misses
// something that all others then wait for.
inline std::string text_of(const Alarm& alarm, int device) {
  if (alarm.launch == 0) return "";
  Plan plan;
  static_assert(sizeof plan == sizeof alarm.plan, "a plan has words alone");
  std::memcpy(static_cast<void*>(&plan), alarm.plan, sizeof plan);
  std::vector<std::pair<int64_t, int>> ranks;
  for (int rank = 0; rank < kMaxGridTeam; ++rank) {
    if (alarm.waits[rank]) ranks.emplace_back(unpack(alarm.waits[rank]).step, rank);
  }
  std::sort(ranks.begin(), ranks.end());
  std::string seconds = std::to_string(alarm.limit * 1e-9);
  seconds.resize(seconds.find('.') + 3);
  std::string text = "rnnfused: an earlier fused call stopped on cuda:" + std::to_string(device) +
                     ", because blocks of its kernel waited " + seconds +
                     " s for each other. Its results are incomplete. Its layout: " + describe(plan) + ".";
  constexpr size_t kMostShown = 4;
  for (size_t i = 0; i < ranks.size() && i < kMostShown; ++i) {
    const Wait wait = unpack(alarm.waits[ranks[i].second]);
    text += " Rank " + std::to_string(ranks[i].second) + " of team " + std::to_string(wait.team) + " waited in step " +
            std::to_string(wait.step) + " for " +
            (wait.barrier < kWaitsForRank ? "barrier " + std::to_string(wait.barrier)
                                          : "rank " + std::to_string(wait.barrier - kWaitsForRank)) +
            ".";
  }
  if (ranks.size() > kMostShown) text += " " + std::to_string(ranks.size() - kMostShown) + " more ranks waited.";
  return text + " RNNFUSED_CUDA_FUSED=0 avoids the fused kernels.";
}

}  // namespace cuda
}  // namespace rnnfused
