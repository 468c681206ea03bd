// Registers the CUDA ops with torch's dispatcher. It uses only LibTorch's stable ABI and links no symbol of
// libtorch_cuda, so the library compiles beside a CPU-only torch.
#include <cuda_runtime.h>
#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <string>
#include <tuple>

#include "cuda/launch.h"
#include "torch/layer_tensors.h"

namespace {

using rnnfused::OptionalTensor;
using rnnfused::Problem;
using rnnfused::RecurrenceParams;
using rnnfused::with_contiguous_features;
using torch::stable::Tensor;

// The stable ABI of torch 2.10 lacks a call for a stream's handle; libtorch_cuda exports one since 2.2.
cudaStream_t current_stream(int32_t device) {
  using GetStream = AOTITorchError (*)(int32_t, void**);
  static const auto get_stream = [] {
    void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    return reinterpret_cast<GetStream>(library ? dlsym(library, "aoti_torch_get_current_cuda_stream") : nullptr);
  }();
  void* stream = nullptr;
  RNNFUSED_CHECK(get_stream && get_stream(device, &stream) == TORCH_SUCCESS,
                 "torch does not say which CUDA stream is current");
  return static_cast<cudaStream_t>(stream);
}

Tensor new_memory(const Tensor& model, int64_t count, torch::headeronly::ScalarType type) {
  return torch::stable::new_empty(model, {count}, type);
}

template <class Params>
void run(Params& params, const Problem& problem, const Tensor& model) {
  using torch::headeronly::ScalarType;
  const torch::stable::accelerator::DeviceGuard guard(model.get_device_index());
  const rnnfused::cuda::Plan plan = rnnfused::cuda::plan_for(params);
  RNNFUSED_CHECK(plan.blocks > 0, "no fused kernel takes this call (see fits)");
  const cudaStream_t stream = current_stream(model.get_device_index());
  // The allocator takes both back at the end, and reuses them only after this work on the stream.
  const int64_t steps = static_cast<int64_t>(problem.batch_sizes.size());
  const Tensor table = new_memory(model, 2 * steps, ScalarType::Long);
  if (steps > 0) {
    int64_t* data = static_cast<int64_t*>(table.mutable_data_ptr());
    rnnfused::cuda::write_values(data, problem.batch_sizes, stream);
    rnnfused::cuda::write_values(data + steps, problem.step_starts, stream);
    params.batch_sizes = data;
    params.step_starts = data + steps;
  }
  const Tensor workspace = new_memory(model, rnnfused::cuda::workspace_bytes(params, plan), ScalarType::Byte);
  rnnfused::cuda::launch(params, plan, workspace.mutable_data_ptr(), stream);
}

// A sequence as the kernels take it: its features are contiguous, and the rows of a tile's step lie within 32 bits.
Tensor as_sequence(const Tensor& tensor, const char* name) {
  constexpr int64_t kMostRows = 2048;  // no plan has a tile of so many
  const int64_t dim = tensor.dim() - 2;
  const bool is_far = dim >= 0 && tensor.stride(dim) > UINT32_MAX / (std::min(tensor.size(dim), kMostRows) + 1);
  return is_far ? rnnfused::contiguous_copy(tensor, name) : with_contiguous_features(tensor, name);
}

std::tuple<Tensor, Tensor> forward(Tensor projections, Tensor weight_hh, OptionalTensor h_0, OptionalTensor batch_sizes,
                                   int64_t nonlinearity, bool reverse) {
  projections = as_sequence(projections, "projections");
  h_0 = with_contiguous_features(h_0, "h_0");
  rnnfused::LayerTensors tensors(projections, {}, weight_hh, {}, {}, h_0, {batch_sizes, {}}, 0, nonlinearity, reverse);
  run(tensors.params, tensors.problem, projections);
  return {tensors.output, tensors.h_n};
}

std::tuple<Tensor, Tensor> backward(OptionalTensor grad_output, OptionalTensor grad_h_n, Tensor output,
                                    Tensor weight_hh, OptionalTensor batch_sizes, int64_t nonlinearity, bool reverse,
                                    bool needs_h_0) {
  if (grad_output) grad_output = as_sequence(*grad_output, "grad_output");
  grad_h_n = with_contiguous_features(grad_h_n, "grad_h_n");
  output = as_sequence(output, "output");
  rnnfused::BackwardTensors tensors(grad_output, grad_h_n, output, weight_hh, {batch_sizes, {}}, 0, nonlinearity,
                                    reverse, {}, needs_h_0);
  run(tensors.params, tensors.problem, output);
  return {tensors.grad_projections, tensors.grad_h_0};
}

rnnfused::cuda::Plan plan_of(const Tensor& weight_hh, int64_t batch_size) {
  const torch::stable::accelerator::DeviceGuard guard(weight_hh.get_device_index());
  RecurrenceParams params;
  params.hidden_size = weight_hh.size(0);
  params.batch_size = batch_size;
  params.dtype = rnnfused::dtype_of(weight_hh);
  return rnnfused::cuda::plan_for(params);
}

bool fits(Tensor weight_hh, int64_t batch_size) { return plan_of(weight_hh, batch_size).blocks > 0; }

// The layout of a call in words, and what a step should take; empty where none fits.
std::string fused_plan(Tensor weight_hh, int64_t batch_size) {
  const rnnfused::cuda::Plan plan = plan_of(weight_hh, batch_size);
  if (plan.blocks == 0) return "";
  char estimate[64];
  std::snprintf(estimate, sizeof estimate, ", about %.2f us a step expected", plan.estimated_us);
  return describe(plan) + estimate;
}

bool has_fused_alarm(Tensor like) {
  const torch::stable::accelerator::DeviceGuard guard(like.get_device_index());
  return rnnfused::cuda::has_alarm();
}

// Why an earlier call on the tensor's device was stopped; empty if none was.
std::string fused_alarm(Tensor like) {
  const torch::stable::accelerator::DeviceGuard guard(like.get_device_index());
  return rnnfused::cuda::take_alarm();
}

void fused_time_limit(double seconds) { rnnfused::cuda::set_time_limit(seconds); }

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(rnnfused, m) {
  m.def(
      "forward_fused(Tensor projections, Tensor weight_hh, Tensor? h_0, Tensor? batch_sizes, "
      "int nonlinearity, bool reverse) -> (Tensor output, Tensor h_n)");
  m.def(
      "backward_fused(Tensor? grad_output, Tensor? grad_h_n, Tensor output, Tensor weight_hh, "
      "Tensor? batch_sizes, int nonlinearity, bool reverse, bool needs_h_0) "
      "-> (Tensor grad_projections, Tensor grad_h_0)");
  m.def("fits(Tensor weight_hh, int batch_size) -> bool");
  m.def("fused_plan(Tensor weight_hh, int batch_size) -> str");
  m.def("has_fused_alarm(Tensor like) -> bool");
  m.def("fused_alarm(Tensor like) -> str");
  m.def("fused_time_limit(float seconds) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(rnnfused, CUDA, m) {
  m.impl("forward_fused", TORCH_BOX(&forward));
  m.impl("backward_fused", TORCH_BOX(&backward));
  m.impl("fits", TORCH_BOX(&fits));
  m.impl("fused_plan", TORCH_BOX(&fused_plan));
  m.impl("has_fused_alarm", TORCH_BOX(&has_fused_alarm));
  m.impl("fused_alarm", TORCH_BOX(&fused_alarm));
}

STABLE_TORCH_LIBRARY_IMPL(rnnfused, CompositeExplicitAutograd, m) {  // it has no tensor
  m.impl("fused_time_limit", TORCH_BOX(&fused_time_limit));
}
