// One call of the kernels on the GPU: its memory, launches, times and comparison with the host.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "cases.h"
#include "cuda/check.h"
#include "cuda/launch.h"
#include "reference.h"
#include "values.h"

namespace rnnfused {
namespace probe {

inline std::string name_of(const cuda::Plan& plan) {
  const std::string blocks = "," + std::to_string(plan.blocks);
  return plan.blocks == 0                           ? ""
         : plan.exchange == cuda::Exchange::none    ? "none"
         : plan.exchange == cuda::Exchange::cluster ? "cluster" + blocks
                                                    : "grid" + blocks;
}

inline void force_plan(const std::string& plan) { setenv("RNNFUSED_CUDA_PLAN", plan.c_str(), 1); }

struct Timer {
  Timer() {
    RNNFUSED_CUDA_CHECK(cudaEventCreate(&start));
    RNNFUSED_CUDA_CHECK(cudaEventCreate(&end));
  }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;
  ~Timer() {
    (void)cudaEventDestroy(start);
    (void)cudaEventDestroy(end);
  }
  cudaEvent_t start = nullptr, end = nullptr;
};

// The indices of a few of `count` items: the first, the last, and some between.
inline std::vector<int64_t> sample(int64_t count) {
  std::set<int64_t> chosen;
  for (const int64_t i : {int64_t(0), int64_t(1), count / 3, count / 2 + 1, count - 2, count - 1}) {
    if (i >= 0 && i < count) chosen.insert(i);
  }
  return {chosen.begin(), chosen.end()};
}

// No plan holds the call on this GPU.
struct Refused : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The tensors of a case on the device.
class DeviceCall {
 public:
  // Throws Refused if no hidden size of the case fits its plan.
  explicit DeviceCall(const Case& tested) : case_(tested) {
    force_plan(tested.plan);
    choose_hidden_size();
    lay_out();
    Random random;
    const int64_t sequence = num_rows_ * hidden_size_, state = case_.batch_size * hidden_size_;
    const auto given = [&](int64_t count, double limit) {
      inputs_.push_back(random.values(case_.dtype, count, limit));
      arrays_.push_back(std::make_unique<DeviceArray>(inputs_.back()));
      return arrays_.back()->data();
    };
    const auto taken = [&](int64_t count) {
      results_.push_back(std::make_unique<DeviceArray>(count * bytes_of(case_.dtype)));
      return results_.back()->data();
    };
    // Weights of variance 1 / H keep the states away from zero and from saturation.
    const void* weight = given(hidden_size_ * hidden_size_, std::sqrt(3.0 / static_cast<double>(hidden_size_)));
    const int64_t time_stride = case_.packed ? hidden_size_ : state;
    const void* first = given(sequence, 1);
    const void* states = given(case_.forward ? 0 : sequence, 0.999);
    const void* initial = case_.has_states ? given(state, 1) : nullptr;
    void* result = taken(sequence);
    void* last = case_.forward || case_.has_states ? taken(state) : nullptr;
    for (RecurrenceParams* params :
         {static_cast<RecurrenceParams*>(&forward_), static_cast<RecurrenceParams*>(&backward_)}) {
      set_common(*params);
      params->weight_hh = {weight, hidden_size_, 1};
    }
    forward_.projections = {first, time_stride, hidden_size_};
    forward_.h_0 = {initial, hidden_size_};
    forward_.output = {result, time_stride, hidden_size_};
    forward_.h_n = {last, hidden_size_};
    backward_.grad_output = {first, time_stride, hidden_size_};
    backward_.grad_h_n = {initial, hidden_size_};
    backward_.output = {states, time_stride, hidden_size_};
    backward_.grad_projections = {result, time_stride, hidden_size_};
    backward_.grad_h_0 = {last, hidden_size_};
    const int64_t bytes = cuda::workspace_bytes(forward_, plan_);
    workspace_ = std::make_unique<DeviceArray>(std::max<int64_t>(bytes, 1));
  }

  const cuda::Plan& plan() const { return plan_; }
  int64_t num_steps() const { return num_steps_; }
  int64_t hidden_size() const { return hidden_size_; }

  void launch(int64_t num_steps, cudaStream_t stream = nullptr) {
    ForwardParams forward = forward_;
    BackwardParams backward = backward_;
    forward.num_steps = backward.num_steps = num_steps;
    if (case_.forward) {
      cuda::launch(forward, plan_, workspace_->data(), stream);
    } else {
      cuda::launch(backward, plan_, workspace_->data(), stream);
    }
  }

  // Makes every result NaN, so that one which is not written shows.
  void poison() {
    for (const auto& result : results_) result->fill();
  }

  std::vector<std::vector<char>> results() const {
    std::vector<std::vector<char>> bytes;
    for (const auto& result : results_) bytes.push_back(result->download());
    return bytes;
  }

  bool is_overrun() const {
    bool overrun = workspace_->is_overrun();
    for (const auto& result : results_) overrun = overrun || result->is_overrun();
    return overrun;
  }

  // Median microseconds of a launch of so many steps.
  double microseconds(int64_t num_steps) {
    std::vector<float> times;
    for (int i = 0; i < 3; ++i) {
      RNNFUSED_CUDA_CHECK(cudaEventRecord(timer_.start));
      launch(num_steps);
      RNNFUSED_CUDA_CHECK(cudaEventRecord(timer_.end));
      RNNFUSED_CUDA_CHECK(cudaEventSynchronize(timer_.end));
      times.push_back(0);
      RNNFUSED_CUDA_CHECK(cudaEventElapsedTime(&times.back(), timer_.start, timer_.end));
    }
    std::sort(times.begin(), times.end());
    return 1000 * times[times.size() / 2];
  }

  Verdict check(const std::vector<std::vector<char>>& results) const {
    std::vector<std::vector<double>> given, got;
    for (const auto& bytes : inputs_) given.push_back(decode(case_.dtype, bytes));
    for (const auto& bytes : results) got.push_back(decode(case_.dtype, bytes));
    Call call;
    call.num_steps = num_steps_;
    call.batch_size = case_.batch_size;
    call.hidden_size = hidden_size_;
    call.relu = case_.relu;
    call.reverse = case_.reverse;
    call.batch_sizes = batch_sizes_.data();
    call.step_starts = step_starts_.data();
    call.weight = given[0].data();
    call.stored_roundoff = roundoff(case_.dtype);
    call.stored_smallest = case_.dtype == Dtype::float16 ? 0x1p-24 : 0;
    call.sum_roundoff = roundoff(sum_dtype(case_.dtype));
    const double* initial = case_.has_states ? given[3].data() : nullptr;
    const double* last = got.size() > 1 ? got[1].data() : nullptr;
    const std::vector<int64_t> steps = sample(num_steps_), rows = sample(case_.batch_size);
    const auto num_checked_steps = static_cast<int64_t>(steps.size()),
               num_checked_rows = static_cast<int64_t>(rows.size());
    if (case_.forward) {
      const ForwardArrays arrays = {given[1].data(), initial, got[0].data(), last};
      return check_forward(call, arrays, steps.data(), num_checked_steps, rows.data(), num_checked_rows);
    }
    const BackwardArrays arrays = {given[1].data(), initial, given[2].data(), got[0].data(), last};
    return check_backward(call, arrays, steps.data(), num_checked_steps, rows.data(), num_checked_rows);
  }

 private:
  static double roundoff(Dtype dtype) {
    switch (dtype) {
      case Dtype::float32: return 0x1p-24;
      case Dtype::float64: return 0x1p-53;
      case Dtype::bfloat16: return 0x1p-8;
      case Dtype::float16: return 0x1p-11;
    }
    return 0;
  }

  void set_common(RecurrenceParams& params) const {
    params.num_steps = num_steps_;
    params.batch_size = case_.batch_size;
    params.hidden_size = hidden_size_;
    params.dtype = case_.dtype;
    params.nonlinearity = case_.relu ? Nonlinearity::relu : Nonlinearity::tanh;
    params.reverse = case_.reverse;
    if (!case_.packed) return;
    params.num_rows = num_rows_;
    params.batch_sizes = static_cast<const int64_t*>(table_->data());
    params.step_starts = params.batch_sizes + num_steps_;
  }

  void choose_hidden_size() {
    std::string refusal = "no fused kernel takes this call";
    for (const int64_t size : case_.hidden_sizes) {
      RecurrenceParams params;
      params.hidden_size = hidden_size_ = size;
      params.batch_size = case_.batch_size;
      params.dtype = case_.dtype;
      try {
        plan_ = cuda::plan_for(params);
      } catch (const std::runtime_error& error) {
        refusal = error.what();
        continue;
      }
      if (plan_.blocks > 0) return;
    }
    throw Refused(refusal);
  }

  // The steps, and the rows of each. Packed rows end one after another.
  void lay_out() {
    constexpr int64_t kMaxValues = 4 << 20;  // of a sequence
    num_steps_ = std::min(case_.num_steps, std::max<int64_t>(8, kMaxValues / (case_.batch_size * hidden_size_)));
    for (int64_t t = 0; t < num_steps_; ++t) {
      step_starts_.push_back(num_rows_);
      batch_sizes_.push_back(case_.packed ? case_.batch_size - t * case_.batch_size / num_steps_ : case_.batch_size);
      num_rows_ += batch_sizes_.back();
    }
    if (!case_.packed) return;
    std::vector<int64_t> both = batch_sizes_;
    both.insert(both.end(), step_starts_.begin(), step_starts_.end());
    const char* begin = reinterpret_cast<const char*>(both.data());
    table_ = std::make_unique<DeviceArray>(std::vector<char>(begin, begin + both.size() * sizeof both[0]));
  }

  const Case case_;
  cuda::Plan plan_;
  int64_t num_steps_ = 0, num_rows_ = 0, hidden_size_ = 0;
  std::vector<int64_t> batch_sizes_, step_starts_;
  std::unique_ptr<DeviceArray> table_, workspace_;
  // The weight; projections or gradients of the output; states; h_0 or the gradient of h_n.
  std::vector<std::vector<char>> inputs_;
  std::vector<std::unique_ptr<DeviceArray>> arrays_;
  // The sequence, and h_n or the gradient of h_0.
  std::vector<std::unique_ptr<DeviceArray>> results_;
  ForwardParams forward_;
  BackwardParams backward_;
  Timer timer_;
};

}  // namespace probe
}  // namespace rnnfused
