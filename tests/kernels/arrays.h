// Turns NumPy arrays into the parameters of csrc/params.h, for the modules that pytest loads.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <vector>

#include "params.h"

namespace py = pybind11;

namespace rnnfused {

// Two-byte integers represent bfloat16, which NumPy lacks.
inline Dtype dtype_of(const py::array& array) {
  if (array.dtype().kind() == 'f' && array.itemsize() == 2) return Dtype::float16;
  return array.itemsize() == 2 ? Dtype::bfloat16 : array.itemsize() == 4 ? Dtype::float32 : Dtype::float64;
}

inline int64_t stride(const py::array& array, int dim) { return array.strides(dim) / array.itemsize(); }

// Sets the parameters that both directions share. `sequence` is (T, B, H), or (N, H) with batch_sizes.
inline void fill(RecurrenceParams& params, const py::array& sequence, const py::array& weight,
                 const std::vector<int64_t>& batch_sizes, std::vector<int64_t>& step_starts, bool relu, bool reverse) {
  const bool packed = !batch_sizes.empty();
  params.num_steps = packed ? batch_sizes.size() : sequence.shape(0);
  params.batch_size = packed ? batch_sizes[0] : sequence.shape(1);
  params.hidden_size = sequence.shape(sequence.ndim() - 1);
  params.dtype = dtype_of(weight);
  params.nonlinearity = relu ? Nonlinearity::relu : Nonlinearity::tanh;
  params.reverse = reverse;
  if (packed) {
    int64_t start = 0;
    for (const int64_t rows : batch_sizes) step_starts.push_back(start), start += rows;
    params.batch_sizes = batch_sizes.data();
    params.step_starts = step_starts.data();
  }
  params.weight_hh = {weight.data(), stride(weight, 0), stride(weight, 1)};
}

template <class View>
View sequence_view(const py::array& array) {
  return {const_cast<void*>(array.data()), stride(array, 0), stride(array, array.ndim() == 3 ? 1 : 0)};
}

template <class View>
View state_view(const std::optional<py::array>& array) {
  if (!array) return {};
  return {const_cast<void*>(array->data()), stride(*array, 0)};
}

// The parameters of both directions, with the memory that a packed batch points to.
struct ForwardArrays : ForwardParams {
  ForwardArrays(const py::array& projections, const py::array& weight, const std::optional<py::array>& h_0,
                const py::array& output_array, const py::array& h_n_array, const std::vector<int64_t>& batch_sizes,
                bool relu, bool reverse) {
    fill(*this, projections, weight, batch_sizes, step_starts_memory, relu, reverse);
    this->projections = sequence_view<ConstSequence>(projections);
    projections_are_sums = projections.itemsize() != weight.itemsize();
    this->h_0 = state_view<ConstState>(h_0);
    output = sequence_view<Sequence>(output_array);
    h_n = state_view<State>(h_n_array);
  }
  std::vector<int64_t> step_starts_memory;
};

struct BackwardArrays : BackwardParams {
  BackwardArrays(const std::optional<py::array>& grad_output_array, const std::optional<py::array>& grad_h_n_array,
                 const py::array& output_array, const py::array& weight, const py::array& grad_projections_array,
                 const std::optional<py::array>& grad_h_0_array, const std::vector<int64_t>& batch_sizes, bool relu,
                 bool reverse) {
    fill(*this, output_array, weight, batch_sizes, step_starts_memory, relu, reverse);
    if (grad_output_array) grad_output = sequence_view<ConstSequence>(*grad_output_array);
    grad_h_n = state_view<ConstState>(grad_h_n_array);
    output = sequence_view<ConstSequence>(output_array);
    grad_projections = sequence_view<Sequence>(grad_projections_array);
    grad_h_0 = state_view<State>(grad_h_0_array);
  }
  std::vector<int64_t> step_starts_memory;
};

}  // namespace rnnfused
