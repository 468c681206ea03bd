// The time loop on the GPU, written as phases between barriers. A `Team` runs a phase on all its threads: the threads
// of its blocks (team.cuh), or loop indices on a host, in any order (the tests). Synchronisation and the exchange of
// states between blocks belong to the Team.
#pragma once

#include "cuda/memory.cuh"
#include "cuda/plan.h"
#include "params.h"

namespace rnnfused {
namespace cuda {

// Runs one tile of batch rows through all steps. `Step` is ForwardStep or BackwardStep (steps.cuh).
template <class Product, class Step, class Team>
struct Scan {
  using Member = Thread<Product>;
  using T = typename Product::T;
  using Word = typename Product::Word;
  static constexpr int kValues = Product::kValues;
  const Step& step;
  const Plan& plan;
  Team& team;
  const int64_t first_row;  // of the tile in the batch

  RNNFUSED_PHASE int64_t time_of(int64_t i) const { return step.ascending() ? i : step.params.num_steps - 1 - i; }

  // A step of the batch: its rows and where it starts.
  struct Moment {
    int batch_rows;
    int64_t start;
  };

  RNNFUSED_PHASE Moment moment(int64_t i) const {
    if (i >= step.params.num_steps) return {0, 0};
    const int64_t t = time_of(i);
    return {static_cast<int>(step.params.rows_in_step(t)), step.params.step_start(t)};
  }

  // The rows of the tile. Kept out of moment(), because it waits for a load.
  RNNFUSED_PHASE int rows_in(const Moment& moment) const {
    const int64_t rows = moment.batch_rows - first_row;
    return static_cast<int>(rows < 0 ? 0 : rows < plan.batch_tile ? rows : plan.batch_tile);
  }

  RNNFUSED_PHASE void run() {
    // The tile's steps are contiguous: rows only leave, or only join.
    int64_t i = 0;
    while (i < step.params.num_steps && rows_in(moment(i)) == 0) ++i;
    Moment at = moment(i), at_next = moment(i + 1);
    int current = 0, before = 0, now = rows_in(at);
    team.phase([&](Member& me) {
      me.slice = me.index / Product::kLanes / plan.groups;
      me.group = me.index / Product::kLanes % plan.groups;
      prepare_states(me);
    });
    Product::load_weights(team, plan, [&](const Member& me, int k, int local) {
      const int unit = me.rank * plan.units + local;
      const bool exists = local < plan.units && unit < step.params.hidden_size && k < step.params.hidden_size;
      return exists ? step.weight(k, unit) : T(0);
    });
    team.phase([&](Member& me) { fetch(me, at.start, now); });
    team.begin();
    for (; now > 0; ++i) {
      const int after = rows_in(at_next);
      const Moment at_last = moment(i + 2);  // two steps early, because these loads miss every cache but L2
      team.phase_after_exchange([&](Member& me) { multiply(me, current, 0, now); });
      // Every block of the team receives the new state. Meanwhile the output is stored, so that no release waits for
      // it, and the inputs of the next step are loaded.
      const int64_t words = now * ((step.params.hidden_size + kValues - 1) / kValues);
      team.exchange(
          1 - current, now, words, i,
          [&](Member& me) {
            finish(me, before, now);
            team.publish(me, 1 - current, [&](int n, int& word) { return word_of(me, n, now, word); });
          },
          [&](Member& me) {
            store(me, at.start, now, after);
            fetch(me, at_next.start, after);
          });
      if (team.stopped()) break;
      current = 1 - current;
      if (after < now && step.wants_last_product()) {
        team.phase([&](Member& me) { multiply(me, current, after, now); });
        team.phase([&](Member& me) { store_last_product(me, after, now); });
      }
      before = now;
      now = after;
      at = at_next;
      at_next = at_last;
    }
    team.end();
  }

  // Fills every state with the first one, padded with zeros.
  RNNFUSED_PHASE void prepare_states(Member& me) {
    const int hidden = static_cast<int>(step.params.hidden_size);
    const Shared<Product> shared(team.memory(me), plan);
    const int width = plan.slices * plan.depth;
    const int64_t rows = step.params.batch_size - first_row;
    for (int i = me.index; i < tile_rows<Product>(plan) * (width / kValues); i += plan.threads) {
      const int row = i / (width / kValues), k = i % (width / kValues) * kValues;
      T values[kValues];
      for (int v = 0; v < kValues; ++v) {
        const bool exists = row < plan.batch_tile && row < rows && k + v < hidden;
        values[v] = exists ? step.first_state(first_row + row, k + v) : T(0);
      }
      for (int s = 0; s < plan.states(); ++s) {
        shared.state(s)[Product::word(plan, row, k)] = Product::pack(values);
      }
    }
  }

  // Locates the thread's n-th word; false if its row is not below `rows` or its unit does not exist.
  RNNFUSED_PHASE bool item(const Member& me, int n, int rows, int& row, int& local, int& unit) const {
    const int words = plan.units / kValues, i = me.index + n * plan.threads;
    row = plan.row_of(i);
    local = (i - row * words) * kValues;
    unit = me.rank * plan.units + local;
    return row < rows && unit < step.params.hidden_size;
  }

  RNNFUSED_PHASE void fetch(Member& me, int64_t start, int now) {
#pragma unroll
    for (int n = 0; n < Product::kItems; ++n) {
      int row, local, unit;
      if (!item(me, n, now, row, local, unit)) continue;
#pragma unroll
      for (int v = 0; v < kValues; ++v) {
        if (unit + v >= step.params.hidden_size) continue;
        step.fetch(start, first_row + row, unit + v, me.inputs[n][v]);
      }
    }
  }

  RNNFUSED_PHASE void multiply(Member& me, int current, int begin, int end) {
    const Shared<Product> shared(team.memory(me), plan);
    Product::multiply(team, me, plan, shared.state(current), shared.sums(), begin, end);
  }

  // Adds the slices' sums of a word's units, 16 bytes of them at a time.
  RNNFUSED_PHASE void total(const Shared<Product>& shared, int row, int local, T (&sums)[kValues]) const {
    constexpr int kAtOnce = 16 / static_cast<int>(sizeof(sums));
    for (int v = 0; v < kValues; ++v) sums[v] = T(0);
#pragma unroll kAtOnce
    for (int s = 0; s < plan.slices; ++s) {
      const int64_t rows_before = s * tile_rows<Product>(plan) + row;
#pragma unroll
      for (int v = 0; v < kValues; ++v) {
        sums[v] += shared.sums()[rows_before * Product::sum_row(plan) + local + v];
      }
    }
  }

  // Locates the thread's n-th word in a state.
  RNNFUSED_PHASE bool word_of(const Member& me, int n, int rows, int& word) const {
    int row, local, unit;
    if (!item(me, n, rows, row, local, unit)) return false;
    word = Product::word(plan, row, unit);
    return true;
  }

  RNNFUSED_PHASE void finish(Member& me, int before, int now) {
    const Shared<Product> shared(team.memory(me), plan);
#pragma unroll
    for (int n = 0; n < Product::kItems; ++n) {
      int row, local, unit;
      if (!item(me, n, now, row, local, unit)) continue;
      // A row that starts from zeros skips the product, so that NaN in the weight does not reach it.
      const bool zero = row >= before && step.starts_at_zero();
      T values[kValues], sums[kValues] = {};
      if (!zero) total(shared, row, local, sums);
#pragma unroll
      for (int v = 0; v < kValues; ++v) {
        const bool exists = unit + v < step.params.hidden_size;
        values[v] = T(0);
        if (exists) {
          values[v] = step.apply(first_row + row, unit + v, row >= before, me.inputs[n][v], sums[v]);
        }
      }
      me.results[n] = Product::pack(values);
    }
  }

  RNNFUSED_PHASE void store(const Member& me, int64_t start, int now, int after) {
#pragma unroll
    for (int n = 0; n < Product::kItems; ++n) {
      int row, local, unit;
      if (!item(me, n, now, row, local, unit)) continue;
      T values[kValues];
      Product::unpack(me.results[n], values);
#pragma unroll
      for (int v = 0; v < kValues; ++v) {
        if (unit + v >= step.params.hidden_size) continue;
        step.store(start, first_row + row, unit + v, values[v], row >= after);
      }
    }
  }

  RNNFUSED_PHASE void store_last_product(Member& me, int begin, int end) {
    const Shared<Product> shared(team.memory(me), plan);
#pragma unroll
    for (int n = 0; n < Product::kItems; ++n) {
      int row, local, unit;
      if (!item(me, n, end, row, local, unit) || row < begin) continue;
      T sums[kValues];
      total(shared, row, local, sums);
#pragma unroll
      for (int v = 0; v < kValues; ++v) {
        if (unit + v >= step.params.hidden_size) continue;
        step.store_last_product(first_row + row, unit + v, sums[v]);
      }
    }
  }
};

}  // namespace cuda
}  // namespace rnnfused
