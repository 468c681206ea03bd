#include "cpu/recurrence.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "cpu/dispatch.h"
#include "cpu/memory.h"
#include "cpu/packed.h"
#include "cpu/share.h"
#include "cpu/team.h"
#include "cpu/tuning.h"
#include "sizes.h"

namespace rnnfused {
namespace {

// Gives a worker the shared weights, or memory for its own.
void with_weights(const RecurrenceParams& params, int64_t input_size, const PackedWeights& weights,
                  FunctionRef<void(const PackedWeights&)> use) {
  if (weights.hh) return use(weights);
  use(WorkerWeights(params, input_size, weights.bias).weights());
}

using RunRows =
    FunctionRef<void(const PackedWeights& weights, void* scratch, int64_t begin, int64_t end, const Member& member)>;
using ScratchBytes = FunctionRef<int64_t(int64_t rows, int64_t members)>;

// Runs the loop with a team. Returns whether it waited long.
bool run_team(const RecurrenceParams& params, int64_t input_size, const PackedWeights& weights, int64_t members,
              ScratchBytes scratch_bytes, RunRows run, const Workers& workers) {
  Memory scratch(scratch_bytes(params.batch_size, members));
  // A step takes less; a thread that has lost its processor is away for longer.
  const int64_t patience_ns =
      kPatienceNs + product_of(params.batch_size, params.hidden_size, params.hidden_size) / kPatienceWorkPerNs;
  Team team(members, patience_ns);
  workers.run(members, [&](int64_t) {
    with_weights(params, input_size, weights, [&](const PackedWeights& own) {
      Member member;
      team.arrive(member);  // from here on others wait for this member: nothing may fail
      run(own, scratch.get(), 0, params.batch_size, member);
      if (member.number == 0) team.close();
    });
  });
  return team.was_late();
}

// Runs the loop with a team, or with workers that share the rows. `depth` is the number of multiply-adds per state
// value and step. Returns whether a team waited long.
bool run_rows(const RecurrenceParams& params, int64_t input_size, int64_t depth, const PackedWeights& weights,
              ScratchBytes scratch_bytes, RunRows run, const Workers& workers) {
  const int64_t members = team_size(params, workers);
  if (members > 1) return run_team(params, input_size, weights, members, scratch_bytes, run, workers);
  share_items(
      params.batch_size, product_of(params.num_steps, params.batch_size, depth, params.hidden_size),
      [&](int64_t rows) { return scratch_bytes(rows, 1); },
      [&](void* scratch, int64_t begin, int64_t end) {
        with_weights(params, input_size, weights,
                     [&](const PackedWeights& own) { run(own, scratch, begin, end, Member()); });
      },
      workers);
  return false;
}

}  // namespace

int64_t team_size(const RecurrenceParams& params, const Workers& workers) {
  // Teams suit workers with so few rows each that they mostly read the weight, a weight larger than the nearest
  // cache, and steps that take long beside a meeting.
  const int64_t rows = params.batch_size, values = product_of(params.hidden_size, params.hidden_size);
  if (rows >= kFewRowsPerWorker * workers.count || rows > kMaxTeamRows ||
      product_of(values, bytes_of(params.dtype)) < kMinTeamBytes) {
    return 1;
  }
  const int64_t enough = worker_count(product_of(params.num_steps, rows, values), kMinWorkPerWorker, workers);
  const int64_t panels = panel_count(params.dtype, params.hidden_size);
  const int64_t work = product_of(rows, values);
  // With this number the model's step is shortest (tuning.h).
  const auto fastest = static_cast<int64_t>(std::sqrt(work / (kTeamWorkPerNs * kMeetingNsPerMember)));
  return std::max<int64_t>(1, std::min({work / kMinWorkPerMeeting, fastest, enough, panels, kMaxMembers}));
}

bool workers_pack(const RecurrenceParams& params, int64_t input_size, const Workers& workers) {
  const int64_t bytes = cpu_kernels().packed_bytes(params.dtype, params.hidden_size, params.hidden_size);
  const int64_t bytes_ih = cpu_kernels().packed_bytes(params.dtype, input_size, params.hidden_size);
  if (team_size(params, workers) > 1) return bytes <= kMaxTeamPack && bytes_ih <= kResidentBytes;
  return bytes + bytes_ih <= kResidentBytes;
}

bool run_packed_forward(const ForwardParams& params, const PackedWeights& weights, const Workers& workers) {
  const int64_t depth = params.hidden_size + (params.ids.data ? 0 : params.input_size);
  return run_rows(
      params, params.input_size, depth, weights,
      [&](int64_t rows, int64_t members) { return cpu_kernels().forward_scratch_bytes(params, rows, members); },
      [&](const PackedWeights& own, void* scratch, int64_t begin, int64_t end, const Member& member) {
        cpu_kernels().forward(params, own, scratch, begin, end, member);
      },
      workers);
}

bool run_packed_backward(const BackwardParams& params, const PackedWeights& weights, const Workers& workers) {
  return run_rows(
      params, 0, params.hidden_size, weights,
      [&](int64_t rows, int64_t) { return cpu_kernels().backward_scratch_bytes(params, rows); },
      [&](const PackedWeights& own, void* scratch, int64_t begin, int64_t end, const Member& member) {
        cpu_kernels().backward(params, own, scratch, begin, end, member);
      },
      workers);
}

void run_forward(const ForwardParams& params, const Workers& workers) {
  if (params.batch_size == 0) return;
  check_work(loop_work(params));
  if (params.num_heads > 1) {
    return share_heads(
        params, [&](int64_t head, const Workers& own) { run_forward(params.of_head(head), own); }, workers);
  }
  const Dtype dtype = params.dtype;
  const int64_t hidden_size = params.hidden_size, input_size = params.input_size;
  const PackedBias bias(dtype, params.bias_ih, params.bias_hh, hidden_size);
  PackedWeights weights;
  weights.bias = bias.data();
  if (workers_pack(params, input_size, workers)) {
    run_packed_forward(params, weights, workers);
    return;
  }
  const PackedMatrix weight_hh(dtype, transposed(params.weight_hh), hidden_size, hidden_size, workers);
  weights.hh = weight_hh.data();
  std::optional<PackedMatrix> weight_ih;
  if (input_size > 0) {
    weight_ih.emplace(dtype, transposed(params.weight_ih), input_size, hidden_size, workers);
    weights.ih = weight_ih->data();
  }
  run_packed_forward(params, weights, workers);
}

void run_backward(const BackwardParams& params, const Workers& workers) {
  if (params.batch_size == 0) return;
  check_work(loop_work(params));
  if (params.num_heads > 1) {
    return share_heads(
        params, [&](int64_t head, const Workers& own) { run_backward(params.of_head(head), own); }, workers);
  }
  PackedWeights weights;
  if (workers_pack(params, 0, workers)) {
    run_packed_backward(params, weights, workers);
    return;
  }
  const PackedMatrix weight_hh(params.dtype, params.weight_hh, params.hidden_size, params.hidden_size, workers);
  weights.hh = weight_hh.data();
  run_packed_backward(params, weights, workers);
}

}  // namespace rnnfused
