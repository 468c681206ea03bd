// How a call is laid out on the GPU: a cluster of blocks runs a tile of batch rows through all steps. Every
// block owns a slice of the hidden units and keeps its part of W_hh in registers for the whole loop.
#pragma once

#include <cstdint>

#include "recurrence.h"

namespace rnnfused {
namespace cuda {

// Hidden units (rows of the weight) that a thread works on, and values of the previous state that feed them:
// a thread holds kUnits * depth weights in registers.
constexpr int kUnits = 4;
constexpr int kDepths[] = {8, 16, 32, 36};
constexpr int kMaxItems = 4;  // new states that one thread finishes in a step
constexpr int kMaxThreads = 256;
constexpr int kMaxPortableCluster = 8;
constexpr int kMaxCluster = 16;  // where the GPU allows it

struct Plan {
  int cluster = 0;     // blocks; 0: the call does not fit
  int units = 0;       // hidden units a block
  int depth = 0;       // of kDepths
  int slices = 0;      // threads that share a group of units: ceil(hidden_size / depth)
  int groups = 0;      // ceil(units / kUnits)
  int batch_tile = 0;  // rows a cluster

  RNNFUSED_EVERYWHERE int threads() const { return slices * groups; }
};

// Elements between two slices of the state in shared memory: 16 bytes more than a slice, so that threads of
// one warp that read different slices meet different banks.
template <class T>
RNNFUSED_EVERYWHERE constexpr int slice_stride(int depth) {
  return depth + 16 / static_cast<int>(sizeof(T));
}

template <class T>
inline int64_t shared_bytes(const Plan& plan) {
  const int64_t state = int64_t(plan.batch_tile) * plan.slices * slice_stride<T>(plan.depth);
  const int64_t sums = int64_t(plan.slices) * plan.batch_tile * plan.groups * kUnits;
  return (2 * state + sums) * sizeof(T);
}

// A double takes two registers.
template <class T>
RNNFUSED_EVERYWHERE constexpr int max_depth() {
  return sizeof(T) == 8 ? 16 : 36;
}

// The smallest cluster whose threads can hold the weight, and the batch tile that fills the GPU once.
template <class T>
inline Plan make_plan(int64_t hidden_size, int64_t batch_size, int max_cluster, int multiprocessors,
                      int64_t max_shared_bytes) {
  for (int cluster = 1; cluster <= max_cluster; cluster *= 2) {
    for (const int depth : kDepths) {
      if (depth > max_depth<T>()) break;
      Plan plan;
      plan.cluster = cluster;
      plan.units = static_cast<int>((hidden_size + cluster - 1) / cluster);
      plan.depth = depth;
      plan.slices = static_cast<int>((hidden_size + depth - 1) / depth);
      plan.groups = (plan.units + kUnits - 1) / kUnits;
      if (plan.threads() > kMaxThreads) continue;
      const int64_t clusters = multiprocessors / cluster > 0 ? multiprocessors / cluster : 1;
      int64_t tile = (batch_size + clusters - 1) / clusters;
      const int64_t most = int64_t(kMaxItems) * plan.threads() / plan.units;
      plan.batch_tile = static_cast<int>(tile < 1 ? 1 : tile < most ? tile : most);
      if (plan.batch_tile < 1) continue;
      if (shared_bytes<T>(plan) <= max_shared_bytes) return plan;
    }
  }
  return Plan();
}

}  // namespace cuda
}  // namespace rnnfused
