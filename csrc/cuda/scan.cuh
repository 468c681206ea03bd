// The time loop on the GPU, written as phases between barriers. A `Team` runs a phase on all its threads: the threads
// of its blocks (team.cuh), or loop indices on a host, in any order (the tests). Synchronisation and the exchange of
// states between blocks belong to the Team.
#pragma once

#include <type_traits>

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
    int64_t first = 0;
    while (first < step.params.num_steps && rows_in(moment(first)) == 0) ++first;
    team.phase([&](Member& me) {
      me.shared.place(team.memory(me), plan);
      me.slice = me.index / Product::kLanes / plan.groups;
      me.group = me.index / Product::kLanes % plan.groups;
      locate_items(me);
      prepare_states(me);
    });
    Product::load_weights(team, plan, [&](const Member& me, int k, int local) {
      const int unit = me.rank * plan.units + local;
      const bool exists = local < plan.units && unit < step.params.hidden_size && k < step.params.hidden_size;
      return exists ? step.weight(k, unit) : T(0);
    });
    // What does not change from step to step is a constant of its loop, so that a step has few instructions.
    if (step.params.batch_sizes) {
      loop<Product::kItems, true>(first);
    } else if (plan.items == 1) {
      loop<1, false>(first);
    } else if (plan.items == 2) {
      loop<2, false>(first);
    } else {
      loop<Product::kItems, false>(first);
    }
    team.end();
  }

  // Runs all steps. A thread finishes at most kCount words per step.
  template <int kCount, bool kPacked>
  RNNFUSED_PHASE void loop(int64_t i) {
    const int64_t num_steps = step.params.num_steps;
    Moment at_next = moment(i + 1);
    int current = 0, before = 0, now = rows_in(moment(i));
    const int row_words = static_cast<int>((step.params.hidden_size + kValues - 1) / kValues);  // that a team sends
    auto from = step.inputs_at(moment(i).start, first_row);
    auto* to = step.result_at(moment(i).start, first_row);
    team.phase([&](Member& me) { fetch<kCount>(me, from, now); });  // as the next inputs
    team.begin();
    for (; now > 0; ++i) {
      const int after = kPacked ? rows_in(at_next) : i + 1 < num_steps ? now : 0;
      if (kPacked) {
        from = step.inputs_at(at_next.start, first_row);
      } else {
        step.advance(from);
      }
      // Two steps early, because these loads miss every cache but L2.
      const Moment at_last = kPacked ? moment(i + 2) : Moment{0, 0};
      // The inputs of the next step are on their way for the whole step, because the acquire at its end waits for them.
      team.phase_after_exchange([&](Member& me) {
        take_inputs<kCount>(me);
        fetch<kCount>(me, from, after);
        multiply(me, current, 0, now);
      });
      // Every block of the team receives the new state. Meanwhile the output is stored, so that no release waits for
      // it.
      team.exchange(
          1 - current, now, now * row_words, i,
          [&](Member& me) {
            finish<kCount>(me, before, now);
            team.template publish<kCount>(me, 1 - current, now);
          },
          [&](Member& me) { store<kCount>(me, to, now, after); });
      if (team.stopped()) break;
      current = 1 - current;
      if (after < now && step.wants_last_product()) {
        team.phase([&](Member& me) { multiply(me, current, after, now); });
        team.phase([&](Member& me) { store_last_product<kCount>(me, after, now); });
      }
      before = now;
      now = after;
      if (kPacked) {
        to = step.result_at(at_next.start, first_row);
        at_next = at_last;
      } else {
        step.advance(to);
      }
    }
  }

  // Fills every state with the first one, padded with zeros.
  RNNFUSED_PHASE void prepare_states(Member& me) {
    const int hidden = static_cast<int>(step.params.hidden_size);
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
        me.shared.state(s)[Product::word(plan, row, k)] = Product::pack(values);
      }
    }
  }

  // Locates the words that the thread finishes.
  RNNFUSED_PHASE void locate_items(Member& me) {
    const int words = plan.units / kValues;
    me.part = me.index % plan.parts;
    me.num_slices = kept((plan.slices - me.part + plan.parts - 1) / plan.parts);
    me.slice_stride = kept(plan.parts * me.shared.between_sums);
    me.least_row = kNoRow;
#pragma unroll
    for (int n = 0; n < Product::kItems; ++n) {
      const int i = (me.index + n * plan.threads) / plan.parts, row = plan.row_of(i),
                local = (i - row * words) * kValues;
      const int unit = me.rank * plan.units + local;
      const bool exists = n < plan.items && row < plan.batch_tile && unit < step.params.hidden_size;
      Item& item = me.items[n];
      item.row = exists ? row : kNoRow;
      if (exists && row < me.least_row) me.least_row = row;
      item.word = exists ? Product::word(plan, row, unit) : 0;
      item.sum = (exists ? row * Product::sum_row(plan) + local : 0) + me.part * me.shared.between_sums;
      step.locate(exists ? row : 0, exists ? unit : 0, item.offsets);
      me.next_inputs[n][0] = me.next_inputs[n][1] = Word(0);
    }
  }

  // The first hidden unit of a word that exists.
  RNNFUSED_PHASE int unit_of(const Member& me, const Item& item) const {
    const int row = item.row == kNoRow ? 0 : item.row;
    return me.rank * plan.units + item.sum - me.part * me.shared.between_sums - row * Product::sum_row(plan);
  }

  // Whether a value of a word is a hidden unit. The last word of an odd number of units has one value too many.
  RNNFUSED_PHASE bool exists(const Member& me, const Item& item, int v) const {
    return v == 0 || unit_of(me, item) + v < step.params.hidden_size;
  }

  template <int kCount, class Inputs>
  RNNFUSED_PHASE void fetch(Member& me, const Inputs& from, int now) const {
#pragma unroll
    for (int n = 0; n < kCount; ++n) {
      const Item& item = me.items[n];
      if (item.row < now) step.template fetch<Product>(from, item, exists(me, item, kValues - 1), me.next_inputs[n]);
    }
  }

  template <int kCount>
  RNNFUSED_PHASE void take_inputs(Member& me) const {
#pragma unroll
    for (int n = 0; n < kCount; ++n) {
      me.inputs[n][0] = me.next_inputs[n][0];
      me.inputs[n][1] = me.next_inputs[n][1];
    }
  }

  RNNFUSED_PHASE void multiply(Member& me, int current, int begin, int end) {
    Product::multiply(team, me, plan, me.shared.state(current), me.shared.sums, begin, end);
  }

  // Adds the thread's part of the slices' sums of its words. Several loads are under way at once, and of few words
  // several sums of one unit are independent.
  template <int kCount>
  RNNFUSED_PHASE void total(const Member& me, int rows, T (&sums)[kCount][kValues]) const {
    constexpr int kAtOnce = 4, kChains = kAtOnce / kCount;
    T chains[kCount][kChains][kValues] = {};
    const T* from = me.shared.sums;
    const auto add = [&](auto at_once) {
      constexpr int kLoads = decltype(at_once)::value;
      T values[kLoads][kCount][kValues];
#pragma unroll
      for (int k = 0; k < kLoads; ++k) {
#pragma unroll
        for (int n = 0; n < kCount; ++n) Product::load_sums(from + me.items[n].sum, values[k][n]);
        from += me.slice_stride;
      }
#pragma unroll
      for (int k = 0; k < kLoads; ++k) {
#pragma unroll
        for (int n = 0; n < kCount; ++n) {
#pragma unroll
          for (int v = 0; v < kValues; ++v) chains[n][k % kChains][v] += values[k][n][v];
        }
      }
    };
    // A thread without words must not read: nobody waits for it before the next product.
    int left = me.least_row < rows ? me.num_slices : 0;
#pragma unroll 1
    for (; left >= kAtOnce; left -= kAtOnce) add(std::integral_constant<int, kAtOnce>());
    if (left & 2) add(std::integral_constant<int, 2>());
    if (left & 1) add(std::integral_constant<int, 1>());
#pragma unroll
    for (int n = 0; n < kCount; ++n) {
#pragma unroll
      for (int v = 0; v < kValues; ++v) {
        sums[n][v] = chains[n][0][v];
#pragma unroll
        for (int chain = 1; chain < kChains; ++chain) sums[n][v] += chains[n][chain][v];
      }
    }
    team.add_parts(me, plan.parts, sums[0]);  // a thread with several words shares none
  }

  template <int kCount>
  RNNFUSED_PHASE void finish(Member& me, int before, int now) {
    T sums[kCount][kValues];
    total<kCount>(me, now, sums);
    if (before < now) begin_rows<kCount>(me, before, now, sums);
    apply<kCount>(me, sums);
  }

  // Replaces the product of rows that start in this step: there is none, so that NaN in the weight does not reach them.
  template <int kCount>
  RNNFUSED_PHASE void begin_rows(const Member& me, int before, int now, T (&sums)[kCount][kValues]) const {
#pragma unroll
    for (int n = 0; n < kCount; ++n) {
      const Item& item = me.items[n];
      if (item.row < before || item.row >= now) continue;
#pragma unroll
      for (int v = 0; v < kValues; ++v) {
        if (exists(me, item, v)) sums[n][v] = step.first_sum(first_row + item.row, unit_of(me, item) + v, sums[n][v]);
      }
    }
  }

  template <int kCount>
  RNNFUSED_PHASE void apply(Member& me, const T (&sums)[kCount][kValues]) const {
    const bool is_odd = step.params.hidden_size % kValues != 0;
#pragma unroll
    for (int n = 0; n < kCount; ++n) {
      T inputs[2][kValues], values[kValues];
      Product::unpack(me.inputs[n][0], inputs[0]);
      Product::unpack(me.inputs[n][1], inputs[1]);
#pragma unroll
      for (int v = 0; v < kValues; ++v) {
        values[v] = step.apply(inputs[0][v], inputs[1][v], sums[n][v]);
        if (is_odd && !exists(me, me.items[n], v)) values[v] = T(0);
      }
      me.results[n] = Product::pack(values);
    }
  }

  template <int kCount>
  RNNFUSED_PHASE void store(const Member& me, typename Product::Stored* to, int now, int after) const {
    if (me.part != 0) return;
#pragma unroll
    for (int n = 0; n < kCount; ++n) {
      const Item& item = me.items[n];
      if (item.row < now) step.template store<Product>(to, item, exists(me, item, kValues - 1), me.results[n]);
    }
    if (after < now) store_last<kCount>(me, after, now);
  }

  // Stores the rows whose last step this is.
  template <int kCount>
  RNNFUSED_PHASE void store_last(const Member& me, int after, int now) const {
#pragma unroll
    for (int n = 0; n < kCount; ++n) {
      const Item& item = me.items[n];
      if (item.row < after || item.row >= now) continue;
      T values[kValues];
      Product::unpack(me.results[n], values);
#pragma unroll
      for (int v = 0; v < kValues; ++v) {
        if (exists(me, item, v)) step.store_last(first_row + item.row, unit_of(me, item) + v, values[v]);
      }
    }
  }

  template <int kCount>
  RNNFUSED_PHASE void store_last_product(const Member& me, int begin, int end) const {
    T sums[kCount][kValues];
    total<kCount>(me, end, sums);
#pragma unroll
    for (int n = 0; n < kCount; ++n) {
      const Item& item = me.items[n];
      if (item.row < begin || item.row >= end || me.part != 0) continue;
#pragma unroll
      for (int v = 0; v < kValues; ++v) {
        if (exists(me, item, v)) step.store_last_product(first_row + item.row, unit_of(me, item) + v, sums[n][v]);
      }
    }
  }
};

}  // namespace cuda
}  // namespace rnnfused
