// A GPU made of the host, for tests of the probe: the functions of the CUDA runtime and of cuda/launch.h that it
// calls. A launch runs the loop at once, in double, and rounds every state. The variable HOST_GPU_FAULT plants a fault
// into the launches of forced plans that start with the variable HOST_GPU_PLAN.
#include <cuda_runtime.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/launch.h"
#include "values.h"

namespace {

bool g_is_dead = false;
std::string g_alarm;
int g_launches = 0;

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

bool has_fault(const char* name) {
  const std::string plan = variable("HOST_GPU_PLAN");
  return variable("HOST_GPU_FAULT") == name && variable("RNNFUSED_CUDA_PLAN").compare(0, plan.size(), plan) == 0;
}

cudaError_t answer() { return g_is_dead ? cudaErrorIllegalAddress : cudaSuccess; }

}  // namespace

cudaError_t cudaGetDeviceCount(int* count) {
  *count = variable("HOST_GPU_FAULT") == "no GPU" ? 0 : 1;
  return *count ? cudaSuccess : cudaErrorNoDevice;
}
const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorNoDevice ? "no CUDA-capable device is detected" : "an illegal memory access";
}
cudaError_t cudaGetLastError() { return answer(); }
cudaError_t cudaDeviceSynchronize() { return answer(); }
cudaError_t cudaMalloc(void** data, size_t bytes) {
  *data = std::malloc(bytes);
  return answer();
}
cudaError_t cudaFree(void* data) {
  std::free(data);
  return answer();
}
cudaError_t cudaMemset(void* data, int value, size_t bytes) {
  std::memset(data, value, bytes);
  return answer();
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  std::memcpy(to, from, bytes);
  return answer();
}
cudaError_t cudaEventCreate(cudaEvent_t*) { return answer(); }
cudaError_t cudaEventDestroy(cudaEvent_t) { return answer(); }
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return answer(); }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return answer(); }
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t, cudaEvent_t) {
  *milliseconds = 1;
  return answer();
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t*, unsigned) { return answer(); }

namespace rnnfused {
namespace cuda {
namespace {

using probe::narrowed;
using probe::widened;

// A row's place in the loop: the step before it, or -1.
template <class Params>
int64_t step_before(const Params& params, int64_t t, int64_t row, bool ascending) {
  const int64_t before = ascending ? t - 1 : t + 1;
  return before >= 0 && before < params.num_steps && row < params.rows_in_step(before) ? before : -1;
}

template <class Stored, class View>
auto* at(const View& view, const RecurrenceParams& params, int64_t t, int64_t row) {
  using Pointer = std::conditional_t<std::is_const_v<std::remove_pointer_t<decltype(view.data)>>, const Stored, Stored>;
  return static_cast<Pointer*>(view.data) + params.step_start(t) * view.time_stride + row * view.batch_stride;
}

// value + sum_k state[k] * weight(k)
template <class Stored, class Weight>
double product(double value, const Stored* state, int64_t size, const Weight& weight) {
  for (int64_t k = 0; state && k < size; ++k) value += widened(state[k]) * widened(weight(k));
  return value;
}

template <class Stored>
void run(const ForwardParams& p) {
  const auto* weight = static_cast<const Stored*>(p.weight_hh.data);
  const auto* h_0 = static_cast<const Stored*>(p.h_0.data);
  for (int64_t i = 0; i < p.num_steps; ++i) {
    const int64_t t = p.reverse ? p.num_steps - 1 - i : i;
    for (int64_t row = 0; row < p.rows_in_step(t); ++row) {
      const int64_t before = step_before(p, t, row, !p.reverse);
      const Stored* state = before >= 0 ? at<Stored>(p.output, p, before, row)
                            : h_0       ? h_0 + row * p.h_0.batch_stride
                                        : nullptr;
      Stored* output = at<Stored>(p.output, p, t, row);
      for (int64_t j = 0; j < p.hidden_size; ++j) {
        const double start = widened(at<Stored>(p.projections, p, t, row)[j]);
        const double sum =
            product(start, state, p.hidden_size, [&](int64_t k) { return weight[j * p.hidden_size + k]; });
        output[j] = narrowed<Stored>(p.nonlinearity == Nonlinearity::tanh ? std::tanh(sum) : std::fmax(sum, 0));
        static_cast<Stored*>(p.h_n.data)[row * p.h_n.batch_stride + j] = output[j];
      }
    }
  }
}

template <class Stored>
void run(const BackwardParams& p) {
  const auto* weight = static_cast<const Stored*>(p.weight_hh.data);
  const auto* grad_h_n = static_cast<const Stored*>(p.grad_h_n.data);
  const auto weight_of = [&](int64_t j) { return [=](int64_t k) { return weight[k * p.hidden_size + j]; }; };
  for (int64_t i = 0; i < p.num_steps; ++i) {
    const int64_t t = p.reverse ? i : p.num_steps - 1 - i;
    for (int64_t row = 0; row < p.rows_in_step(t); ++row) {
      const int64_t after = step_before(p, t, row, p.reverse);
      Stored* result = at<Stored>(p.grad_projections, p, t, row);
      for (int64_t j = 0; j < p.hidden_size; ++j) {
        double sum = widened(at<Stored>(p.grad_output, p, t, row)[j]);
        if (after < 0 && grad_h_n) sum += widened(grad_h_n[row * p.grad_h_n.batch_stride + j]);
        if (after >= 0) sum = product(sum, at<Stored>(p.grad_projections, p, after, row), p.hidden_size, weight_of(j));
        const double h = widened(at<Stored>(p.output, p, t, row)[j]);
        result[j] = narrowed<Stored>(sum * (p.nonlinearity == Nonlinearity::tanh ? 1 - h * h : h > 0 ? 1 : 0));
      }
      // The last of a row is its first step.
      for (int64_t j = 0; p.grad_h_0.data && j < p.hidden_size; ++j) {
        static_cast<Stored*>(p.grad_h_0.data)[row * p.grad_h_0.batch_stride + j] =
            narrowed<Stored>(product(0, result, p.hidden_size, weight_of(j)));
      }
    }
  }
}

// Changes results as a faulty kernel would. `last` is the last step that the loop writes, `before` the value that its
// first element had before the launch.
template <class Stored, class View>
void damage(const View& view, const RecurrenceParams& params, int64_t last, Stored before) {
  Stored* row = at<Stored>(view, params, last, 0);
  if (has_fault("unwritten") || (has_fault("sometimes unwritten") && g_launches % 2 == 0)) *row = before;
  if (has_fault("wrong")) row[3] = narrowed<Stored>(widened(row[3]) + 0.02);
  if (has_fault("unstable")) row[3] = narrowed<Stored>(widened(row[3]) * (1 + 1e-7 * g_launches));
  if (has_fault("overrun")) {
    Stored* end = at<Stored>(view, params, params.num_steps - 1, params.rows_in_step(params.num_steps - 1));
    *end = narrowed<Stored>(0);
  }
}

template <class Params, class View>
void launch_any(const Params& params, const View& result, bool ascending) {
  ++g_launches;
  if (has_fault("hang")) sleep(1000);
  if (has_fault("crash")) std::abort();
  if (has_fault("dead")) g_is_dead = true;
  if (has_fault("alarm")) g_alarm = "rnnfused: an earlier fused call stopped";
  probe::with_type(params.dtype, [&](auto sample) {
    using Stored = decltype(sample);
    const int64_t last = ascending ? params.num_steps - 1 : 0;
    const Stored before = *at<Stored>(result, params, last, 0);
    run<Stored>(params);
    damage<Stored>(result, params, last, before);
  });
}

}  // namespace

// As on a GPU whose blocks hold 8192 weights each.
Plan plan_for(const RecurrenceParams& params) {
  const std::string forced = variable("RNNFUSED_CUDA_PLAN");
  const size_t comma = forced.find(',');
  Plan plan;
  plan.blocks = comma == std::string::npos ? 1 : std::atoi(forced.c_str() + comma + 1);
  plan.exchange = forced[0] == 'c' ? Exchange::cluster : forced[0] == 'g' ? Exchange::grid : Exchange::none;
  plan.units = static_cast<int>((params.hidden_size + plan.blocks - 1) / plan.blocks);
  plan.batch_tile = 4;
  if (forced.empty()) plan.blocks = params.hidden_size > 64 ? 0 : 1;
  if (!forced.empty() && plan.units * params.hidden_size > 8192) {
    throw std::runtime_error("RNNFUSED_CUDA_PLAN asks for a plan that does not hold the call");
  }
  return plan;
}

int64_t workspace_bytes(const RecurrenceParams&, const Plan&) { return 0; }

void launch(const ForwardParams& params, const Plan&, void*, cudaStream_t) {
  launch_any(params, params.output, !params.reverse);
}

void launch(const BackwardParams& params, const Plan&, void*, cudaStream_t) {
  launch_any(params, params.grad_projections, params.reverse);
}

void set_time_limit(double) {}

std::string take_alarm() { return std::exchange(g_alarm, ""); }

}  // namespace cuda
}  // namespace rnnfused
