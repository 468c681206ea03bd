// Tensors as the pointers, sizes and strides of a call, for every device. Users meet
// rnnfused/functional.py, which explains mistakes; the checks here only keep a direct call of the ops from
// reading out of bounds.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "recurrence.h"

namespace rnnfused {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

#define RNNFUSED_CHECK(condition, message) \
  if (!(condition)) throw std::runtime_error(std::string("rnnfused: ") + (message))

inline Dtype dtype_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return Dtype::float32;
    case ScalarType::Double: return Dtype::float64;
    case ScalarType::BFloat16: return Dtype::bfloat16;
    case ScalarType::Half: return Dtype::float16;
    default: throw std::runtime_error("rnnfused: the dtype must be floating point, of 16 to 64 bits");
  }
}

// An uninitialised tensor of the model's dtype and device. Unlike new_empty(), it is not looked up by name.
inline Tensor new_tensor(const Tensor& model, const std::vector<int64_t>& sizes,
                         const std::vector<int64_t>& strides) {
  int32_t dtype, device_type;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(model.get(), &dtype));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(model.get(), &device_type));
  AtenTensorHandle result;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(sizes.size(), sizes.data(), strides.data(), dtype,
                                                         device_type, model.get_device_index(), &result));
  return Tensor(result);
}

inline Tensor new_tensor(const Tensor& model, const std::vector<int64_t>& sizes) {
  std::vector<int64_t> strides(sizes.size(), 1);
  for (size_t i = sizes.size(); i-- > 1;) strides[i - 1] = strides[i] * std::max<int64_t>(sizes[i], 1);
  return new_tensor(model, sizes, strides);
}

inline void check_like(const Tensor& tensor, const Tensor& model, const char* name) {
  RNNFUSED_CHECK(tensor.is_cpu() == model.is_cpu() &&
                     tensor.get_device_index() == model.get_device_index() &&
                     tensor.scalar_type() == model.scalar_type(),
                 std::string(name) + " must have the same dtype and device as the other tensors");
}

inline void check_features(const Tensor& tensor, const char* name) {
  const int64_t last = tensor.dim() - 1;
  // An empty tensor counts as contiguous for torch, whatever its strides.
  RNNFUSED_CHECK(tensor.numel() == 0 || tensor.size(last) == 1 || tensor.stride(last) == 1,
                 std::string(name) + " must be contiguous in its last dimension");
}

// The sizes of a call, with the memory that its packed-batch pointers need. `sequence` is
// (time, batch, hidden), or (rows, hidden) with batch_sizes.
struct Problem {
  std::vector<int64_t> batch_sizes, step_starts;
  int64_t num_steps = 0, batch_size = 0, hidden_size = 0;

  Problem(const Tensor& sequence, const OptionalTensor& sizes)
      : Problem(sequence, sizes, sequence.size(sequence.dim() - 1)) {}

  // The sequence may also be token ids, without the dimension of features.
  Problem(const Tensor& sequence, const OptionalTensor& sizes, int64_t hidden_size, bool ids = false)
      : hidden_size(hidden_size) {
    RNNFUSED_CHECK(sequence.dim() + ids == (sizes ? 2 : 3),
                   "a sequence is (time, batch, features), or (rows, features) with batch_sizes");
    if (!sizes) {
      num_steps = sequence.size(0);
      batch_size = sequence.size(1);
    } else {
      read_batch_sizes(*sizes, sequence.size(0));
    }
    RNNFUSED_CHECK(num_steps >= 1 && hidden_size >= 1, "there must be a step and a hidden unit");
  }

  void read_batch_sizes(const Tensor& sizes, int64_t total) {
    RNNFUSED_CHECK(sizes.is_cpu() && sizes.scalar_type() == ScalarType::Long && sizes.dim() == 1 &&
                       sizes.is_contiguous(),
                   "batch_sizes must be a contiguous 1-D int64 tensor on the CPU");
    num_steps = sizes.size(0);
    const int64_t* data = static_cast<const int64_t*>(sizes.const_data_ptr());
    batch_sizes.assign(data, data + num_steps);
    batch_size = num_steps ? batch_sizes[0] : 0;
    int64_t rows = 0;
    for (int64_t t = 0; t < num_steps; ++t) {
      RNNFUSED_CHECK(batch_sizes[t] >= 1 && (t == 0 || batch_sizes[t] <= batch_sizes[t - 1]),
                     "batch_sizes must be positive and never increase");
      step_starts.push_back(rows);
      rows += batch_sizes[t];
    }
    RNNFUSED_CHECK(rows == total, "batch_sizes must add up to the rows of the data");
  }

  void fill(Recurrence& call, const Tensor& sequence, const Tensor& weight_hh,
            const std::string& nonlinearity, bool reverse) const {
    check_like(weight_hh, sequence, "weight_hh");
    RNNFUSED_CHECK(weight_hh.dim() == 2 && weight_hh.size(0) == hidden_size &&
                       weight_hh.size(1) == hidden_size,
                   "weight_hh must be (hidden, hidden)");
    RNNFUSED_CHECK(nonlinearity == "tanh" || nonlinearity == "relu",
                   "nonlinearity must be 'tanh' or 'relu'");
    call.num_steps = num_steps;
    call.batch_size = batch_size;
    call.hidden_size = hidden_size;
    call.dtype = dtype_of(sequence);
    call.nonlinearity = nonlinearity == "relu" ? Nonlinearity::relu : Nonlinearity::tanh;
    call.reverse = reverse;
    if (!batch_sizes.empty()) {
      call.batch_sizes = batch_sizes.data();
      call.step_starts = step_starts.data();
    }
    call.weight_hh = {weight_hh.const_data_ptr(), weight_hh.stride(0), weight_hh.stride(1)};
  }

  template <class Pointer>
  SequenceOf<Pointer> view(const Tensor& tensor, Pointer data, const char* name) const {
    check_features(tensor, name);
    return {data, tensor.stride(0), tensor.stride(tensor.dim() == 3 ? 1 : 0)};
  }

  // A sequence that comes with `model`, of the same sizes.
  ConstSequence input(const Tensor& tensor, const Tensor& model, const char* name) const {
    check_like(tensor, model, name);
    RNNFUSED_CHECK(tensor.dim() == model.dim(), std::string(name) + " has a wrong shape");
    for (int64_t i = 0; i < model.dim(); ++i) {
      RNNFUSED_CHECK(tensor.size(i) == model.size(i), std::string(name) + " has a wrong shape");
    }
    return view<const void*>(tensor, tensor.const_data_ptr(), name);
  }

  // A layer's states are (1, batch, hidden), as those of several layers are (layers, batch, hidden).
  ConstState state(const OptionalTensor& tensor, const Tensor& model, const char* name, int64_t dims) const {
    if (!tensor) return {};
    check_like(*tensor, model, name);
    RNNFUSED_CHECK(tensor->dim() == dims && (dims == 2 || tensor->size(0) == 1) &&
                       tensor->size(dims - 2) == batch_size && tensor->size(dims - 1) == hidden_size,
                   name + std::string(dims == 2 ? " must be (batch, hidden)" : " must be (1, batch, hidden)"));
    check_features(*tensor, name);
    return {tensor->const_data_ptr(), tensor->stride(dims - 2)};
  }
  Tensor new_state(const Tensor& model, int64_t rows, int64_t dims) const {
    return dims == 2 ? new_tensor(model, {rows, hidden_size}) : new_tensor(model, {1, rows, hidden_size});
  }
};

// Same layout in memory as the model where that keeps the features together, else contiguous.
inline Tensor new_sequence(const Tensor& model) {
  if (model.is_contiguous()) {
    const auto sizes = model.sizes();
    return new_tensor(model, {sizes.begin(), sizes.end()});
  }
  Tensor result = torch::stable::empty_like(model);
  const int64_t last = model.dim() - 1;
  if (model.size(last) > 1 && result.stride(last) != 1) {
    return torch::stable::new_empty(model, model.sizes());
  }
  return result;
}

// The arguments of the op `forward`, its results and its call.
struct ForwardTensors {
  Problem problem;
  Tensor output, h_n;
  Forward call;

  ForwardTensors(const Tensor& projections, const Tensor& weight_hh, const OptionalTensor& h_0,
                 const OptionalTensor& batch_sizes, const std::string& nonlinearity, bool reverse)
      : problem(projections, batch_sizes),
        output(new_sequence(projections)),
        h_n(problem.new_state(projections, problem.batch_size, 2)) {
    problem.fill(call, projections, weight_hh, nonlinearity, reverse);
    call.projections = problem.input(projections, projections, "projections");
    call.h_0 = problem.state(h_0, projections, "h_0", 2);
    call.output = problem.view<void*>(output, output.mutable_data_ptr(), "output");
    call.h_n = {h_n.mutable_data_ptr(), problem.hidden_size};
  }
};

// The same of the op `backward`. A grad_h_0 that is not wanted has no rows.
struct BackwardTensors {
  Problem problem;
  Tensor grad_projections, grad_h_0;
  Backward call;

  BackwardTensors(const OptionalTensor& grad_output, const OptionalTensor& grad_h_n,
                  const Tensor& output, const Tensor& weight_hh, const OptionalTensor& batch_sizes,
                  const std::string& nonlinearity, bool reverse, bool needs_grad_h_0,
                  int64_t state_dims = 2)
      : problem(output, batch_sizes),
        grad_projections(new_sequence(output)),
        grad_h_0(problem.new_state(output, needs_grad_h_0 ? problem.batch_size : 0, state_dims)) {
    problem.fill(call, output, weight_hh, nonlinearity, reverse);
    if (grad_output) call.grad_output = problem.input(*grad_output, output, "grad_output");
    call.grad_h_n = problem.state(grad_h_n, output, "grad_h_n", state_dims);
    call.output = problem.input(output, output, "output");
    call.grad_projections = problem.view<void*>(
        grad_projections, grad_projections.mutable_data_ptr(), "grad_projections");
    if (needs_grad_h_0) call.grad_h_0 = {grad_h_0.mutable_data_ptr(), problem.hidden_size};
  }
};

}  // namespace rnnfused
