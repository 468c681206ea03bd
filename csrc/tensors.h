// What every op does with tensors: makes them and checks them. Users meet rnnfused/functional.py, which explains
// mistakes; the checks here only keep a direct call of the ops from reading out of bounds.
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

}  // namespace rnnfused
