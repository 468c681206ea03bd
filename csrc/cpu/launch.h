// One call on the CPU: memory for the packed weight and the threads' scratch, and the work split over threads
// once, so that no step synchronises but a team's. parallel_for(n, f) calls f(i) for i in [0, n).
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <optional>
#include <stdexcept>

#include "cpu/dispatch.h"
#include "cpu/memory.h"
#include "sizes.h"
#include "cpu/team.h"

namespace rnnfused {

// Starting threads costs 5 to 19 us; below this many multiply-adds a thread it is not worth it.
constexpr int64_t kMinWorkPerThread = 500'000;
// Packing moves memory rather than multiplies; it is worth sharing from this many elements.
constexpr int64_t kMinPackPerThread = 200'000;

inline int64_t num_chunks(int64_t work, int64_t min_work, int64_t max_chunks) {
  return std::max<int64_t>(1, std::min(work / min_work, max_chunks));
}

// The multiply-adds of a call. One that cannot end is refused, before anything is done.
inline int64_t refuse_endless(int64_t work) {
  if (work >= kTooLarge) throw std::runtime_error("rnnfused: a call of these sizes would not end");
  return work;
}

inline int64_t round_up(int64_t bytes) { return (bytes + kCacheLine - 1) / kCacheLine * kCacheLine; }

inline int64_t num_panels(Dtype dtype, int64_t columns) {
  const int64_t each = cpu_kernels().panel_columns(dtype);
  return (columns + each - 1) / each;
}

// A matrix packed for the kernels.
class Packed {
 public:
  template <class ParallelFor>
  Packed(Dtype dtype, const ConstMatrix& matrix, int64_t depth, int64_t columns, int64_t max_threads,
         const ParallelFor& parallel_for) {
    const CpuKernels& cpu = cpu_kernels();
    memory_.allocate(cpu.packed_bytes(dtype, depth, columns));
    const int64_t panels = num_panels(dtype, columns);
    const int64_t packers =
        num_chunks(product_of(depth, columns), kMinPackPerThread, std::min(max_threads, panels));
    const Parts parts(panels, packers);
    parallel_for(packers, [&](int64_t i) {
      cpu.pack(dtype, matrix, depth, columns, memory_.get(), parts.begin(i), parts.begin(i + 1));
    });
  }
  void* get() const { return memory_.get(); }

 private:
  mutable Memory memory_;  // a loop's weights may be packed through their pointers; these are not
};

// Memory for a thread's own weights of a loop, without a panel yet.
class OwnWeights {
 public:
  OwnWeights(const RecurrenceParams& params, int64_t input_size)
      : hh_(cpu_kernels().packed_bytes(params.dtype, params.hidden_size, params.hidden_size)),
        have_(num_panels(params.dtype, params.hidden_size)) {
    weights_ = {hh_.get(), nullptr, reinterpret_cast<bool*>(have_.get())};
    std::memset(weights_.have, false, num_panels(params.dtype, params.hidden_size));
    if (input_size == 0) return;
    ih_.allocate(cpu_kernels().packed_bytes(params.dtype, input_size, params.hidden_size));
    weights_.ih = ih_.get();
  }
  const PackedWeights& weights() const { return weights_; }

 private:
  Memory hh_, ih_, have_;
  PackedWeights weights_;
};

// The biases of a call, of so many columns, as one of sums that zeros pad to whole panels.
class PaddedBias {
 public:
  template <class Params>
  PaddedBias(Params& params, int64_t columns) {
    if (!params.bias && !params.other_bias) return;
    const CpuKernels& cpu = cpu_kernels();
    const int64_t bytes = cpu.packed_bytes(sum_dtype(params.dtype), 1, columns);
    memory_.allocate(bytes);
    std::memset(memory_.get(), 0, bytes);
    for (const void* bias : {params.bias, params.other_bias}) {
      if (bias) cpu.to_sums(params.dtype, bias, memory_.get(), columns, bias == params.other_bias);
    }
    params.bias = memory_.get();
    params.other_bias = nullptr;
  }

 private:
  Memory memory_;
};

// Calls run(scratch, begin, end) for each thread's share of `items`, with scratch_bytes(the largest share) of
// its own.
template <class ScratchBytes, class Run, class ParallelFor>
void share(int64_t items, int64_t work, int64_t max_threads, const ScratchBytes& scratch_bytes,
           const Run& run, const ParallelFor& parallel_for) {
  const int64_t threads = num_chunks(work, kMinWorkPerThread, std::min(max_threads, items));
  const int64_t bytes = round_up(scratch_bytes((items + threads - 1) / threads));
  const Parts parts(items, threads);
  Memory scratch(product_of(threads, bytes));
  parallel_for(threads, [&](int64_t i) { run(scratch.get() + i * bytes, parts.begin(i), parts.begin(i + 1)); });
}

template <class ParallelFor>
void launch(ForwardParams params, int64_t max_threads, const ParallelFor& parallel_for);
template <class ParallelFor>
void launch(const BackwardParams& params, int64_t max_threads, const ParallelFor& parallel_for);

// How many threads should run the loop as a team: where each would have so few rows that it mostly reads the
// weight, which is larger than its nearest cache, and where a step is long beside a meeting.
inline int64_t team_size(const RecurrenceParams& params, int64_t max_threads) {
  constexpr int64_t kFewRows = 4, kMinBytes = 128 * 1024, kMinWorkPerMeeting = 32'000;
  const int64_t rows = params.batch_size, values = product_of(params.hidden_size, params.hidden_size);
  if (rows >= kFewRows * max_threads || rows > kMostTeamRows || product_of(values, bytes_of(params.dtype)) < kMinBytes) {
    return 1;
  }
  const int64_t enough = num_chunks(product_of(params.num_steps, rows, values), kMinWorkPerThread, max_threads);
  const int64_t panels = num_panels(params.dtype, params.hidden_size);
  return num_chunks(product_of(rows, values), kMinWorkPerMeeting, std::min({enough, panels, kMostMembers}));
}

// Whether each thread should pack the weights that it uses, for what another packed would have to come out of that
// one's cache. A member of a team uses few columns of W.
inline bool packs_itself(const RecurrenceParams& params, int64_t input_size, int64_t max_threads) {
  constexpr int64_t kMostTeamBytes = 16 * 1024 * 1024;
  const int64_t bytes = cpu_kernels().packed_bytes(params.dtype, params.hidden_size, params.hidden_size);
  const int64_t bytes_ih = cpu_kernels().packed_bytes(params.dtype, input_size, params.hidden_size);
  if (team_size(params, max_threads) > 1) return bytes <= kMostTeamBytes && bytes_ih <= kResidentBytes;
  return bytes + bytes_ih <= kResidentBytes;
}

// Calls run(weights, scratch, begin, end, member) for each thread's rows of the batch, or for each member of a team
// with all rows; with scratch_bytes(rows, members). Without weights, each thread has its own; with those of so many
// input features, if the loop makes its projections. Returns whether a team was kept waiting for long.
template <class ScratchBytes, class Run, class ParallelFor>
bool share_rows(const RecurrenceParams& params, const PackedWeights* weights, int64_t input_size, int64_t depth,
                int64_t max_threads, const ScratchBytes& scratch_bytes, const Run& run,
                const ParallelFor& parallel_for) {
  const auto with_weights = [&](const auto& use) {
    if (weights) return use(*weights);
    use(OwnWeights(params, input_size).weights());
  };
  const int64_t members = team_size(params, max_threads);
  if (members > 1) {
    Memory scratch(scratch_bytes(params.batch_size, members));
    // A step takes less; a thread that has lost its processor is away for longer.
    Team team(members, 200'000 + product_of(params.batch_size, params.hidden_size, params.hidden_size) / 4);
    parallel_for(members, [&](int64_t) {
      with_weights([&](const PackedWeights& weights) {
        Member member;
        team.come(member);  // who has come is waited for: nothing may fail from here on
        run(weights, scratch.get(), 0, params.batch_size, member);
        if (member.number == 0) team.close();
      });
    });
    return team.was_late();
  }
  share(
      params.batch_size, product_of(params.num_steps, params.batch_size, depth, params.hidden_size), max_threads,
      [&](int64_t rows) { return scratch_bytes(rows, 1); },
      [&](void* scratch, int64_t begin, int64_t end) {
        with_weights([&](const PackedWeights& weights) { run(weights, scratch, begin, end, Member()); });
      },
      parallel_for);
  return false;
}

// parallel_for of one thread.
struct OneThread {
  template <class Run>
  void operator()(int64_t, const Run& run) const {
    run(0);
  }
};

// Multiply-adds of the loop.
inline int64_t work_of(const RecurrenceParams& params) {
  const int64_t rows = params.is_flat() ? params.num_rows : product_of(params.num_steps, params.batch_size);
  return product_of(rows, params.hidden_size, params.hidden_size / params.num_heads);
}

// Runs each head's call, heads on threads of their own where they are enough.
template <class Params, class ParallelFor>
void launch_heads(const Params& params, int64_t max_threads, const ParallelFor& parallel_for) {
  const int64_t heads = params.num_heads, size = params.hidden_size / heads;
  const int64_t work = product_of(params.num_steps, params.batch_size, params.hidden_size, size);
  const int64_t threads = num_chunks(work, kMinWorkPerThread, max_threads);
  if (threads == 1 || heads < threads) {
    for (int64_t i = 0; i < heads; ++i) launch(params.of_head(i), max_threads, parallel_for);
    return;
  }
  const Parts parts(heads, threads);
  parallel_for(threads, [&](int64_t thread) {
    for (int64_t i = parts.begin(thread); i < parts.begin(thread + 1); ++i) {
      launch(params.of_head(i), 1, OneThread());
    }
  });
}

// Of a call without heads, with its biases padded; and its weights packed, unless each thread packs them. Returns what
// share_rows does.
template <class ParallelFor>
bool launch(const ForwardParams& params, const PackedWeights* weights, int64_t max_threads, const ParallelFor& parallel_for) {
  return share_rows(
      params, weights, params.input_size, params.hidden_size + (params.ids.data ? 0 : params.input_size), max_threads,
      [&](int64_t rows, int64_t members) { return cpu_kernels().forward_scratch_bytes(params, rows, members); },
      [&](const PackedWeights& weights, void* scratch, int64_t begin, int64_t end, const Member& member) {
        cpu_kernels().forward(params, weights, scratch, begin, end, member);
      },
      parallel_for);
}

template <class ParallelFor>
void launch(ForwardParams params, int64_t max_threads, const ParallelFor& parallel_for) {
  if (params.batch_size == 0) return;
  refuse_endless(work_of(params));
  if (params.num_heads > 1) return launch_heads(params, max_threads, parallel_for);
  const int64_t hidden = params.hidden_size, input = params.input_size;
  const PaddedBias bias(params, hidden);
  if (packs_itself(params, input, max_threads)) return void(launch(params, nullptr, max_threads, parallel_for));
  const Packed packed(params.dtype, transposed(params.weight_hh), hidden, hidden, max_threads, parallel_for);
  std::optional<Packed> packed_ih;
  if (input > 0) packed_ih.emplace(params.dtype, transposed(params.weight_ih), input, hidden, max_threads, parallel_for);
  const PackedWeights weights = {packed.get(), packed_ih ? packed_ih->get() : nullptr};
  launch(params, &weights, max_threads, parallel_for);
}

// The same backward.
template <class ParallelFor>
bool launch(const BackwardParams& params, const PackedWeights* weights, int64_t max_threads, const ParallelFor& parallel_for) {
  return share_rows(
      params, weights, 0, params.hidden_size, max_threads,
      [&](int64_t rows, int64_t) { return cpu_kernels().backward_scratch_bytes(params, rows); },
      [&](const PackedWeights& weights, void* scratch, int64_t begin, int64_t end, const Member& member) {
        cpu_kernels().backward(params, weights, scratch, begin, end, member);
      },
      parallel_for);
}

template <class ParallelFor>
void launch(const BackwardParams& params, int64_t max_threads, const ParallelFor& parallel_for) {
  if (params.batch_size == 0) return;
  refuse_endless(work_of(params));
  if (params.num_heads > 1) return launch_heads(params, max_threads, parallel_for);
  if (packs_itself(params, 0, max_threads)) return void(launch(params, nullptr, max_threads, parallel_for));
  const int64_t hidden = params.hidden_size;
  const Packed packed(params.dtype, params.weight_hh, hidden, hidden, max_threads, parallel_for);
  const PackedWeights weights = {packed.get()};
  launch(params, &weights, max_threads, parallel_for);
}

template <class ParallelFor>
void launch(ProjectionParams params, const Packed& packed, int64_t max_threads, const ParallelFor& parallel_for) {
  const CpuKernels& cpu = cpu_kernels();
  const PaddedBias bias(params, params.out_size);
  share(
      params.rows, product_of(params.rows, params.in_size, params.out_size), max_threads,
      [&](int64_t) { return cpu.project_scratch_bytes(params); },
      [&](void* scratch, int64_t begin, int64_t end) {
        cpu.project(params, packed.get(), scratch, begin, end);
      },
      parallel_for);
}

// How many threads should each make columns of a projection, and pack the weight of these alone: where rows are few
// beside the columns, and these can be shared out evenly.
inline int64_t column_shares(const ProjectionParams& params, int64_t max_threads) {
  const int64_t panels = num_panels(params.dtype, params.out_size);
  const int64_t threads =
      num_chunks(product_of(params.rows, params.in_size, params.out_size), kMinWorkPerThread, std::min(max_threads, panels));
  const int64_t most = (panels + threads - 1) / threads * threads;
  return params.rows <= params.out_size && 8 * most <= 9 * panels ? threads : 1;
}

template <class ParallelFor>
void launch(const ProjectionParams& params, int64_t max_threads, const ParallelFor& parallel_for) {
  if (params.rows == 0 || params.out_size == 0) return;
  refuse_endless(product_of(params.rows, params.in_size, params.out_size));
  const int64_t shares = column_shares(params, max_threads);
  if (shares > 1) {
    const int64_t panels = num_panels(params.dtype, params.out_size), each = cpu_kernels().panel_columns(params.dtype);
    const Parts parts(panels, shares);
    return parallel_for(shares, [&](int64_t i) {
      const int64_t end = std::min(parts.begin(i + 1) * each, params.out_size);
      launch(params.columns(parts.begin(i) * each, end), 1, OneThread());
    });
  }
  const Packed packed(params.dtype, params.weight, params.in_size, params.out_size, max_threads, parallel_for);
  launch(params, packed, max_threads, parallel_for);
}

template <class ParallelFor>
void launch(const ProductSumParams& params, int64_t max_threads, const ParallelFor& parallel_for) {
  const CpuKernels& cpu = cpu_kernels();
  if (params.left_size == 0 || params.right_size == 0) return;
  if (params.outer == 0 || params.inner == 0) {
    const int64_t bytes = params.left_size * params.right_size * bytes_of(sum_dtype(params.dtype));
    if (!params.adds) std::memset(params.result, 0, bytes);
    return;
  }
  const int64_t work = product_of(params.outer, params.inner, params.left_size, params.right_size);
  if (!params.lengths) refuse_endless(work);
  share(
      params.left_size, work, max_threads,
      [&](int64_t) { return cpu.sum_scratch_bytes(params); },
      [&](void* scratch, int64_t begin, int64_t end) { cpu.sum_products(params, scratch, begin, end); },
      parallel_for);
}

template <class ParallelFor>
void launch(const TokenSumParams& params, int64_t max_threads, const ParallelFor& parallel_for) {
  constexpr int64_t kColumns = 16;  // that no two threads should share
  share(
      (params.size + kColumns - 1) / kColumns, product_of(params.outer, params.inner, params.size), max_threads,
      [](int64_t) { return 0; },
      [&](void*, int64_t begin, int64_t end) {
        cpu_kernels().sum_tokens(params, begin * kColumns, std::min(end * kColumns, params.size));
      },
      parallel_for);
}

}  // namespace rnnfused
