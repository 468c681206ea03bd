// The host half of csrc/cuda for Python's ctypes: plans, launches and the bytes of a kernel's arguments. It launches
// nothing and needs no GPU.
#include <cstring>

#include "products.cuh"

using namespace rnnfused;
using namespace rnnfused::cuda;

namespace {

// Calls `use` with the product of a dtype: with all its depths, or with one alone.
template <class Product, int n = 0, class Use>
bool with_depth(int depth, const Use& use) {
  if constexpr (n == int(sizeof Product::kDepths / sizeof *Product::kDepths)) {
    return false;
  } else {
    constexpr int kDepth = Product::kDepths[n];
    if (depth != kDepth) return with_depth<Product, n + 1>(depth, use);
    use(Only<Product, kDepth>());
    return true;
  }
}

template <class Use>
bool with_product(Dtype dtype, int depth, const Use& use) {
  switch (dtype) {
    case Dtype::float32: return with_depth<Fma<float>>(depth, use);
    case Dtype::float64: return with_depth<Fma<double>>(depth, use);
    case Dtype::bfloat16: return with_depth<Mma<__nv_bfloat16>>(depth, use);
    case Dtype::float16: return with_depth<Mma<__half>>(depth, use);
  }
  return false;
}

// Calls `use` with the product of a dtype, of any depth.
template <class Use>
void with_any_depth(Dtype dtype, const Use& use) {
  switch (dtype) {
    case Dtype::float32: return use(Fma<float>());
    case Dtype::float64: return use(Fma<double>());
    case Dtype::bfloat16: return use(Mma<__nv_bfloat16>());
    case Dtype::float16: return use(Mma<__half>());
  }
}

}  // namespace

// Mirrored in launch.py.
struct Request {
  Dtype dtype;
  int depth, blocks;
  Exchange exchange;
  Send send;
  int32_t unused;
  int64_t hidden_size, batch_size, teams, shared_limit;
};

struct Launch {
  int blocks, block_threads, cluster_size, cooperative;
  int64_t shared_bytes, workspace_bytes;
  int batch_tile, plan_bytes;
  Plan plan;
};

struct Call {
  Dtype dtype;
  Nonlinearity nonlinearity;
  int64_t num_steps, batch_size, hidden_size;
  int64_t reverse;
  const int64_t *batch_sizes, *step_starts;
  ConstMatrix weight_hh;
  // Forward: projections, h_0, output, h_n. Backward: grad_output, grad_h_n, output, grad_projections, grad_h_0.
  ConstSequence input, output;
  ConstState initial;
  Sequence result;
  State last;
};

extern "C" {

// The launch of a plan that is given its team and depth; false if that plan does not fit.
bool make_launch(const Request* request, Launch* launch) {
  bool fits = false;
  with_product(request->dtype, request->depth, [&](auto product) {
    using Product = decltype(product);
    Plan plan = make_plan<Product>(request->hidden_size, request->batch_size, request->blocks, request->exchange,
                                   request->teams, request->shared_limit);
    if (plan.batch_tile == 0 || !can_send<Product>(plan, request->hidden_size, request->send)) return;
    plan.send = request->send;
    cudaLaunchAttribute attribute;
    const auto config = configuration<Product>(plan, tiles_of(plan, request->batch_size), attribute);
    const bool cluster = config.numAttrs == 1 && attribute.id == cudaLaunchAttributeClusterDimension;
    launch->blocks = config.gridDim.x;
    launch->block_threads = config.blockDim.x;
    launch->cluster_size = cluster ? attribute.val.clusterDim.x : 1;
    launch->cooperative = config.numAttrs == 1 && attribute.id == cudaLaunchAttributeCooperative;
    launch->shared_bytes = config.dynamicSmemBytes;
    launch->workspace_bytes = workspace_bytes<Product>(plan, request->batch_size);
    launch->batch_tile = plan.batch_tile;
    launch->plan_bytes = sizeof plan;
    launch->plan = plan;
    fits = true;
  });
  return fits;
}

int alarm_bytes() { return sizeof(Alarm); }

// Writes the last argument of a kernel; returns its size.
int write_watchdog(uint64_t alarm, uint64_t limit, uint64_t launch, char* to) {
  Watchdog watchdog;
  watchdog.alarm = reinterpret_cast<Alarm*>(alarm);
  watchdog.limit = limit;
  watchdog.launch = launch;
  std::memcpy(to, &watchdog, sizeof watchdog);
  return sizeof watchdog;
}

// The text of an alarm, and for each rank the team, the step (-1: unknown) and the barrier that it waited for.
void read_alarm(const char* bytes, char* text, int most, int64_t* waits) {
  Alarm alarm;
  std::memcpy(static_cast<void*>(&alarm), bytes, sizeof alarm);
  std::strncpy(text, text_of(alarm, 0).c_str(), most - 1);
  for (int rank = 0; rank < kMaxGridTeam; ++rank) {
    const Wait wait = unpack(alarm.waits[rank]);
    const int64_t values[3] = {wait.team, wait.step, wait.barrier};
    std::memcpy(waits + 3 * rank, values, sizeof values);
  }
}

// Writes the first argument of a kernel, a ForwardStep or a BackwardStep; returns its size.
int write_step(const Call* call, bool forward, char* to) {
  int size = 0;
  const auto fill = [&](auto& params) {
    params.num_steps = call->num_steps;
    params.batch_size = call->batch_size;
    params.hidden_size = call->hidden_size;
    params.dtype = call->dtype;
    params.nonlinearity = call->nonlinearity;
    params.reverse = call->reverse;
    params.batch_sizes = call->batch_sizes;
    params.step_starts = call->step_starts;
    params.weight_hh = call->weight_hh;
  };
  const auto write = [&](const auto& step) {
    size = sizeof step;
    std::memcpy(to, &step, sizeof step);
  };
  with_any_depth(call->dtype, [&](auto product) {
    using Product = decltype(product);
    using Stored = typename Product::Stored;
    if (forward) {
      ForwardParams params;
      fill(params);
      params.projections = call->input;
      params.h_0 = call->initial;
      params.output = call->result;
      params.h_n = call->last;
      write(make_step<Product, Stored>(params));
    } else {
      BackwardParams params;
      fill(params);
      params.grad_output = call->input;
      params.grad_h_n = call->initial;
      params.output = call->output;
      params.grad_projections = call->result;
      params.grad_h_0 = call->last;
      write(make_step<Product, Stored>(params));
    }
  });
  return size;
}
}
