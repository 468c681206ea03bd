// The CUDA ops enter torch's dispatcher here. LibTorch's stable ABI only, and no symbol of libtorch_cuda is
// linked: this library compiles beside a CPU-only torch.
#include <cuda_runtime.h>
#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <string>
#include <tuple>

#include "cuda/launch.h"
#include "tensors.h"

namespace {

using rnnfused::OptionalTensor;
using rnnfused::Problem;
using rnnfused::Recurrence;
using torch::stable::Tensor;

// The target of this ABI, torch 2.10, has no call for a stream's handle; libtorch_cuda exports one since 2.2.
cudaStream_t current_stream(int32_t device) {
  using GetStream = AOTITorchError (*)(int32_t, void**);
  static const auto get_stream = [] {
    void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    return reinterpret_cast<GetStream>(
        library ? dlsym(library, "aoti_torch_get_current_cuda_stream") : nullptr);
  }();
  void* stream = nullptr;
  RNNFUSED_CHECK(get_stream && get_stream(device, &stream) == TORCH_SUCCESS,
                 "torch does not say which CUDA stream is current");
  return static_cast<cudaStream_t>(stream);
}

// Puts batch_sizes and step_starts where the kernels can read them. The result owns that memory; the
// allocator gives it to nobody else before the stream has passed this call.
Tensor move_steps(Recurrence& call, const Problem& problem, const Tensor& model, cudaStream_t stream) {
  const int64_t steps = static_cast<int64_t>(problem.batch_sizes.size());
  const Tensor memory =
      torch::stable::new_empty(model, {2 * steps}, torch::headeronly::ScalarType::Long);
  if (steps == 0) return memory;
  int64_t* data = static_cast<int64_t*>(memory.mutable_data_ptr());
  const auto copy = [&](int64_t* to, const std::vector<int64_t>& from) {
    const cudaError_t error =
        cudaMemcpyAsync(to, from.data(), steps * sizeof(int64_t), cudaMemcpyHostToDevice, stream);
    RNNFUSED_CHECK(error == cudaSuccess, cudaGetErrorString(error));
    return to;
  };
  call.batch_sizes = copy(data, problem.batch_sizes);
  call.step_starts = copy(data + steps, problem.step_starts);
  return memory;
}

template <class Call>
void run(Call& call, const Problem& problem, const Tensor& model) {
  const torch::stable::accelerator::DeviceGuard guard(model.get_device_index());
  const rnnfused::cuda::Plan plan = rnnfused::cuda::plan_for(call);
  RNNFUSED_CHECK(plan.cluster > 0, "the weight does not fit the GPU's registers (see fits)");
  const cudaStream_t stream = current_stream(model.get_device_index());
  const Tensor steps = move_steps(call, problem, model, stream);
  rnnfused::cuda::launch(call, plan, stream);
}

std::tuple<Tensor, Tensor> forward(Tensor projections, Tensor weight_hh, OptionalTensor h_0,
                                   OptionalTensor batch_sizes, std::string nonlinearity,
                                   bool reverse) {
  rnnfused::ForwardTensors tensors(projections, weight_hh, h_0, batch_sizes, nonlinearity, reverse);
  run(tensors.call, tensors.problem, projections);
  return {tensors.output, tensors.h_n};
}

std::tuple<Tensor, Tensor> backward(OptionalTensor grad_output, OptionalTensor grad_h_n,
                                    Tensor output, Tensor weight_hh, OptionalTensor batch_sizes,
                                    std::string nonlinearity, bool reverse, bool needs_grad_h_0) {
  rnnfused::BackwardTensors tensors(grad_output, grad_h_n, output, weight_hh, batch_sizes,
                                    nonlinearity, reverse, needs_grad_h_0);
  run(tensors.call, tensors.problem, output);
  return {tensors.grad_projections, tensors.grad_h_0};
}

bool fits(Tensor weight_hh) {
  const torch::stable::accelerator::DeviceGuard guard(weight_hh.get_device_index());
  Recurrence call;
  call.hidden_size = weight_hh.size(0);
  call.batch_size = 1;
  call.dtype = rnnfused::dtype_of(weight_hh);
  return rnnfused::cuda::plan_for(call).cluster > 0;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(rnnfused, m) {
  m.def(
      "forward_fused(Tensor projections, Tensor weight_hh, Tensor? h_0, Tensor? batch_sizes, "
      "str nonlinearity, bool reverse) -> (Tensor output, Tensor h_n)");
  m.def(
      "backward_fused(Tensor? grad_output, Tensor? grad_h_n, Tensor output, Tensor weight_hh, "
      "Tensor? batch_sizes, str nonlinearity, bool reverse, bool needs_grad_h_0) "
      "-> (Tensor grad_projections, Tensor grad_h_0)");
  m.def("fits(Tensor weight_hh) -> bool");
}

STABLE_TORCH_LIBRARY_IMPL(rnnfused, CUDA, m) {
  m.impl("forward_fused", TORCH_BOX(&forward));
  m.impl("backward_fused", TORCH_BOX(&backward));
  m.impl("fits", TORCH_BOX(&fits));
}
