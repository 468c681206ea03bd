// Makes and checks tensors, for every op. Users call rnnfused/functional.py, which explains mistakes; the checks here
// keep a direct call of an op from accesses out of bounds.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

#include "params.h"

namespace rnnfused {

using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;
using Sizes = torch::headeronly::IntHeaderOnlyArrayRef;

#define RNNFUSED_CHECK(condition, message) \
  if (!(condition)) throw std::runtime_error(std::string("rnnfused: ") + (message))

inline void check_clip(std::optional<double> clip) {
  RNNFUSED_CHECK(!clip || *clip > 0, "state_grad_clip must be positive");
}

// The dtype's number in torch's C interface. It takes one call, unlike scalar_type().
inline int32_t dtype_number(const Tensor& tensor) {
  int32_t number;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(tensor.get(), &number));
  return number;
}

inline Dtype dtype_of(const Tensor& tensor) {
  const int32_t number = dtype_number(tensor);
  if (number == aoti_torch_dtype_float32()) return Dtype::float32;
  if (number == aoti_torch_dtype_float64()) return Dtype::float64;
  if (number == aoti_torch_dtype_bfloat16()) return Dtype::bfloat16;
  if (number == aoti_torch_dtype_float16()) return Dtype::float16;
  throw std::runtime_error("rnnfused: the dtype must be floating point, of 16 to 64 bits");
}

inline bool is_int64(const Tensor& tensor) { return dtype_number(tensor) == aoti_torch_dtype_int64(); }

struct DeviceNumber {
  int32_t type, index;

  explicit DeviceNumber(const Tensor& tensor) : index(tensor.get_device_index()) {
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(tensor.get(), &type));
  }
  bool operator==(const DeviceNumber& other) const { return type == other.type && index == other.index; }
};

[[noreturn]] inline void throw_no_memory(Sizes sizes) {
  int64_t values = 1;
  for (const int64_t size : sizes) values = product_of(values, size);
  throw std::runtime_error("rnnfused: can't allocate memory for a tensor of " + std::to_string(values) + " values");
}

// The tensor that `make` allocates, of the model's sizes.
template <class Make>
Tensor allocated(const Tensor& model, const Make& make) {
  try {
    return make();
  } catch (const std::runtime_error&) {
    throw_no_memory(model.sizes());
  }
}

// An uninitialised tensor on the model's device. Unlike new_empty(), it needs no look-up of an op by name.
inline Tensor new_tensor(const Tensor& model, int32_t dtype, Sizes sizes, Sizes strides) {
  const DeviceNumber device(model);
  AtenTensorHandle result;
  const AOTITorchError error =
      aoti_torch_empty_strided(sizes.size(), sizes.data(), strides.data(), dtype, device.type, device.index, &result);
  if (error != AOTI_TORCH_SUCCESS) throw_no_memory(sizes);
  return Tensor(result);
}

// The same with the model's dtype.
inline Tensor new_tensor(const Tensor& model, Sizes sizes, Sizes strides) {
  return new_tensor(model, dtype_number(model), sizes, strides);
}

// The same with contiguous strides.
inline Tensor new_tensor(const Tensor& model, Sizes sizes) {
  constexpr size_t kMostDims = 3;
  RNNFUSED_CHECK(sizes.size() <= kMostDims, "a tensor must have at most 3 dimensions");
  int64_t strides[kMostDims], stride = 1;
  for (size_t i = sizes.size(); i-- > 0;) {
    strides[i] = stride;
    stride *= std::max<int64_t>(sizes[i], 1);
  }
  return new_tensor(model, sizes, Sizes(strides, sizes.size()));
}

inline void check_like(const Tensor& tensor, const Tensor& model, const char* name) {
  RNNFUSED_CHECK(dtype_number(tensor) == dtype_number(model) && DeviceNumber(tensor) == DeviceNumber(model),
                 std::string(name) + " must have the same dtype and device as the other tensors");
}

inline int64_t last_size(const Tensor& tensor) {
  RNNFUSED_CHECK(tensor.dim() >= 1, "a tensor must have features, its last dimension");
  return tensor.size(tensor.dim() - 1);
}

// A storage may hold fewer values than its tensor: `resize_` frees it, as sharded training does between two uses.
inline void check_storage(const Tensor& tensor, const char* name) {
  int64_t last, bytes;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_storage_offset(tensor.get(), &last));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_storage_size(tensor.get(), &bytes));
  const Sizes sizes = tensor.sizes(), strides = tensor.strides();
  for (size_t i = 0; i < sizes.size(); ++i) {
    if (sizes[i] == 0) return;
    last += (sizes[i] - 1) * strides[i];
  }
  RNNFUSED_CHECK(last < bytes / static_cast<int64_t>(tensor.element_size()),
                 std::string(name) + " has a storage of " + std::to_string(bytes) +
                     " bytes, too few for its values: the storage was resized or freed");
}

// The data of a caller's tensor.
inline const void* data_of(const Tensor& tensor, const char* name) {
  check_storage(tensor, name);
  return tensor.const_data_ptr();
}

inline const int64_t* int64_data_of(const Tensor& tensor, const char* name) {
  return static_cast<const int64_t*>(data_of(tensor, name));
}

inline Tensor contiguous_copy(const Tensor& tensor, const char* name) {
  check_storage(tensor, name);
  return allocated(tensor, [&] { return torch::stable::contiguous(tensor); });
}

// The tensor, copied if its features are strided: the one layout that no kernel takes.
inline Tensor with_contiguous_features(Tensor tensor, const char* name) {
  const int64_t last = tensor.dim() - 1;
  const bool is_strided = last >= 0 && tensor.size(last) > 1 && tensor.stride(last) != 1;
  return is_strided ? contiguous_copy(tensor, name) : tensor;
}

inline OptionalTensor with_contiguous_features(OptionalTensor tensor, const char* name) {
  if (tensor) tensor = with_contiguous_features(std::move(*tensor), name);
  return tensor;
}

inline void check_features(const Tensor& tensor, const char* name) {
  const int64_t last = tensor.dim() - 1;
  // torch regards an empty tensor as contiguous with any strides.
  RNNFUSED_CHECK(last < 0 || tensor.numel() == 0 || tensor.size(last) == 1 || tensor.stride(last) == 1,
                 std::string(name) + " must be contiguous in its last dimension");
}

// An uninitialised sequence like the model: with its layout if the features stay contiguous, else contiguous.
inline Tensor new_sequence(const Tensor& model) {
  if (model.is_contiguous()) return new_tensor(model, model.sizes());
  Tensor result = allocated(model, [&] { return torch::stable::empty_like(model); });
  const int64_t last = model.dim() - 1;
  if (model.size(last) > 1 && result.stride(last) != 1) {
    return new_tensor(model, model.sizes());
  }
  return result;
}

}  // namespace rnnfused
