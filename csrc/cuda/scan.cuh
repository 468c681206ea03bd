// The time loop on the GPU, written as phases between barriers. A `Team` runs a phase on all its threads:
// the threads of a cluster (team.cuh), or loops on a host that run them one by one in any order (the tests).
// Nothing here knows how threads wait for each other or how a store reaches another block's memory.
#pragma once

#include "cuda/plan.h"
#include "recurrence.h"

#ifdef __CUDACC__
#define RNNFUSED_PHASE __host__ __device__ __forceinline__
#else
#define RNNFUSED_PHASE inline
#endif

namespace rnnfused {
namespace cuda {

// What a thread keeps in registers.
template <class T, int kDepth>
struct Thread {
  int rank;    // of its block in the cluster
  int index;   // in its block
  int slice;   // the part of the previous state that it multiplies with, kDepth values
  int group;   // the units that it multiplies for, kUnits of them
  T weights[kUnits][kDepth];
  T inputs[kMaxItems][2];
};

// A block's shared memory: the state that a step reads, the one that it writes, and sums on their way.
template <class T>
struct Shared {
  T* const memory;
  const int64_t state_elements;

  RNNFUSED_PHASE Shared(T* memory, const Plan& plan)
      : memory(memory),
        state_elements(int64_t(plan.batch_tile) * plan.slices * slice_stride<T>(plan.depth)) {}

  // (batch_tile, slices, slice_stride)
  RNNFUSED_PHASE T* state(int which) const { return memory + which * state_elements; }
  // (slices, batch_tile, groups * kUnits)
  RNNFUSED_PHASE T* sums() const { return memory + 2 * state_elements; }
};

// Where the hidden unit `k` of a tile's row lies in a state.
template <class T, int kDepth>
RNNFUSED_PHASE int state_offset(const Plan& plan, int row, int k) {
  return (row * plan.slices + k / kDepth) * slice_stride<T>(kDepth) + k % kDepth;
}

// One tile's way through the call. `Step` is ForwardStep or BackwardStep (steps.cuh).
template <class T, int kDepth, class Step, class Team>
struct Scan {
  using Member = Thread<T, kDepth>;
  const Step& step;
  const Plan& plan;
  Team& team;
  const int64_t first_row;  // of the tile in the batch

  RNNFUSED_PHASE int rows_in(int64_t i) const {
    const Recurrence& call = step.call;
    if (i >= call.num_steps) return 0;
    const int64_t t = step.ascending() ? i : call.num_steps - 1 - i;
    const int64_t rows = call.rows_in_step(t) - first_row;
    return static_cast<int>(rows < 0 ? 0 : rows < plan.batch_tile ? rows : plan.batch_tile);
  }

  RNNFUSED_PHASE void run() {
    team.phase([&](Member& me) { prepare(me); });
    team.begin();
    int current = 0, before = 0, now = rows_in(0);
    for (int64_t i = 0; i < step.call.num_steps; ++i) {
      const int after = rows_in(i + 1);
      if (now > 0) {
        const int64_t t = step.ascending() ? i : step.call.num_steps - 1 - i;
        team.phase([&](Member& me) {
          fetch(me, t, before, now);
          multiply(me, current, 0, now);
        });
        // The new state goes to every block of the cluster: now * hidden_size values to each.
        team.exchange(1 - current, int64_t(now) * step.call.hidden_size * sizeof(T),
                      [&](Member& me) { finish(me, t, 1 - current, before, now, after); });
        current = 1 - current;
        if (after < now && step.wants_last_product()) {
          team.phase([&](Member& me) { multiply(me, current, after, now); });
          team.phase([&](Member& me) { store_last_product(me, after, now); });
        }
      }
      before = now;
      now = after;
    }
    team.end();
  }

  // Weights into registers; both states start as the first one, and zeros pad them.
  RNNFUSED_PHASE void prepare(Member& me) {
    const int hidden = static_cast<int>(step.call.hidden_size);
    me.slice = me.index / plan.groups;
    me.group = me.index % plan.groups;
#pragma unroll
    for (int u = 0; u < kUnits; ++u) {
      const int local = me.group * kUnits + u;
      const int unit = me.rank * plan.units + local;
#pragma unroll
      for (int d = 0; d < kDepth; ++d) {
        const int k = me.slice * kDepth + d;
        const bool exists = local < plan.units && unit < hidden && k < hidden;
        me.weights[u][d] = exists ? step.weight(k, unit) : T(0);
      }
    }
    Shared<T> shared(team.memory(me), plan);
    const int width = plan.slices * kDepth;
    const int64_t rows = step.call.batch_size - first_row;
    for (int i = me.index; i < plan.batch_tile * width; i += plan.threads()) {
      const int row = i / width, k = i % width;
      const T value = row < rows && k < hidden ? step.first_state(first_row + row, k) : T(0);
      for (int s = 0; s < 2; ++s) shared.state(s)[state_offset<T, kDepth>(plan, row, k)] = value;
    }
  }

  // Which row and unit the thread's n-th item is; false past the end.
  RNNFUSED_PHASE bool item(const Member& me, int n, int rows, int& row, int& local, int& unit) const {
    const int i = me.index + n * plan.threads();
    row = i / plan.units;
    local = i % plan.units;
    unit = me.rank * plan.units + local;
    return row < rows && unit < step.call.hidden_size;
  }

  // The step's own inputs are asked for before the product, which hides their latency.
  RNNFUSED_PHASE void fetch(Member& me, int64_t t, int before, int now) {
#pragma unroll
    for (int n = 0; n < kMaxItems; ++n) {
      int row, local, unit;
      if (item(me, n, now, row, local, unit)) {
        step.fetch(t, first_row + row, unit, row >= before, me.inputs[n]);
      }
    }
  }

  // sums[slice] = the thread's share of (row of the state) * W^T for its units, for rows [begin, end).
  RNNFUSED_PHASE void multiply(Member& me, int current, int begin, int end) {
    const Shared<T> shared(team.memory(me), plan);
    for (int row = begin; row < end; ++row) {
      const T* state = shared.state(current) + state_offset<T, kDepth>(plan, row, me.slice * kDepth);
      T acc[kUnits] = {};
#pragma unroll
      for (int d = 0; d < kDepth; d += 4) {
        T h[4];
        team.load4(state + d, h);
#pragma unroll
        for (int e = 0; e < 4; ++e) {
#pragma unroll
          for (int u = 0; u < kUnits; ++u) acc[u] += me.weights[u][d + e] * h[e];
        }
      }
      T* sums = shared.sums() + ((me.slice * plan.batch_tile + row) * plan.groups + me.group) * kUnits;
      team.store4(sums, acc);
    }
  }

  RNNFUSED_PHASE T total(const Shared<T>& shared, int row, int local) const {
    T sum = 0;
    for (int s = 0; s < plan.slices; ++s) {
      sum += shared.sums()[(s * plan.batch_tile + row) * plan.groups * kUnits + local];
    }
    return sum;
  }

  RNNFUSED_PHASE void finish(Member& me, int64_t t, int next, int before, int now, int after) {
    const Shared<T> shared(team.memory(me), plan);
#pragma unroll
    for (int n = 0; n < kMaxItems; ++n) {
      int row, local, unit;
      if (!item(me, n, now, row, local, unit)) continue;
      // A row that starts from zeros has no product, so that NaN in the weight stays out of it.
      const bool zero = row >= before && step.starts_at_zero();
      const T value = step.apply(me.inputs[n], zero ? T(0) : total(shared, row, local));
      team.publish(me, shared.state(next) + state_offset<T, kDepth>(plan, row, unit), value, next);
      step.store(t, first_row + row, unit, value, row >= after);
    }
  }

  RNNFUSED_PHASE void store_last_product(Member& me, int begin, int end) {
    const Shared<T> shared(team.memory(me), plan);
#pragma unroll
    for (int n = 0; n < kMaxItems; ++n) {
      int row, local, unit;
      if (!item(me, n, end, row, local, unit) || row < begin) continue;
      step.store_last_product(first_row + row, unit, total(shared, row, local));
    }
  }
};

}  // namespace cuda
}  // namespace rnnfused
