// The insides of the compiled library for pytest: every instruction set's kernels on NumPy arrays.
// It reaches the kernels of the installed library through its one exported symbol: what is tested ships.
#include <dlfcn.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/kernels.h"

namespace py = pybind11;
using rnnfused::Backward;
using rnnfused::CpuKernels;
using rnnfused::Dtype;
using rnnfused::Forward;
using rnnfused::Nonlinearity;
using rnnfused::Recurrence;

namespace {

using Find = const CpuKernels* (*)(const char*);

Find open_library(const std::string& path) {
  void* library = dlopen(path.c_str(), RTLD_NOW);
  if (!library) throw std::runtime_error(dlerror());
  return reinterpret_cast<Find>(dlsym(library, "rnnfused_cpu_kernels"));
}

Dtype dtype_of(const py::array& array) {
  return array.itemsize() == 4 ? Dtype::float32 : Dtype::float64;
}

int64_t stride(const py::array& array, int dim) { return array.strides(dim) / array.itemsize(); }

// 64-byte aligned memory that starts out as NaN: what a kernel reads before it writes shows.
class Poisoned {
 public:
  explicit Poisoned(int64_t bytes) : memory_(bytes + 64, '\xff') {}
  void* get() {
    const auto address = reinterpret_cast<uintptr_t>(memory_.data());
    return memory_.data() + (64 - address % 64) % 64;
  }

 private:
  std::vector<char> memory_;
};

// The arrays of one call and what it says of them. `sequence` is (T, B, H), or (N, H) with batch_sizes.
void fill(Recurrence& call, const py::array& sequence, const py::array& weight,
          const std::vector<int64_t>& batch_sizes, std::vector<int64_t>& step_starts, bool relu,
          bool reverse) {
  const bool packed = !batch_sizes.empty();
  call.num_steps = packed ? batch_sizes.size() : sequence.shape(0);
  call.batch_size = packed ? batch_sizes[0] : sequence.shape(1);
  call.hidden_size = sequence.shape(sequence.ndim() - 1);
  call.dtype = dtype_of(sequence);
  call.nonlinearity = relu ? Nonlinearity::relu : Nonlinearity::tanh;
  call.reverse = reverse;
  if (packed) {
    int64_t start = 0;
    for (const int64_t rows : batch_sizes) step_starts.push_back(start), start += rows;
    call.batch_sizes = batch_sizes.data();
    call.step_starts = step_starts.data();
  }
  call.weight_hh = {weight.data(), stride(weight, 0), stride(weight, 1)};
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

// Runs rows [cuts[0], cuts[1]), [cuts[1], cuts[2]), ..: the pieces that threads would run.
template <class Call>
void run(const CpuKernels& cpu, const Call& call, bool transposed,
         void (*kernel)(const Call&, const void*, void*, int64_t, int64_t),
         const std::vector<int64_t>& cuts) {
  Poisoned packed(cpu.packed_bytes(call));
  const int64_t panels = cpu.num_panels(call);
  cpu.pack(call, transposed, packed.get(), panels / 2, panels);
  cpu.pack(call, transposed, packed.get(), 0, panels / 2);
  for (size_t i = 0; i + 1 < cuts.size(); ++i) {
    Poisoned scratch(cpu.scratch_bytes(call, cuts[i + 1] - cuts[i]));
    kernel(call, packed.get(), scratch.get(), cuts[i], cuts[i + 1]);
  }
}

class Kernels {
 public:
  Kernels(const std::string& library, const std::string& name)
      : kernels_(open_library(library)(name.c_str())) {
    if (!kernels_) throw py::key_error(name);
  }

  std::string name() const { return kernels_->name; }

  void tanh(const py::array& in, py::array& out) const {
    kernels_->tanh(dtype_of(in), in.data(), out.mutable_data(), in.size());
  }

  void forward(const py::array& projections, const py::array& weight,
               const std::optional<py::array>& h_0, py::array& output, py::array& h_n,
               const std::vector<int64_t>& batch_sizes, bool relu, bool reverse,
               const std::vector<int64_t>& cuts) const {
    Forward call;
    std::vector<int64_t> step_starts;
    fill(call, projections, weight, batch_sizes, step_starts, relu, reverse);
    call.projections = sequence_view<rnnfused::ConstSequence>(projections);
    call.h_0 = state_view<rnnfused::ConstState>(h_0);
    call.output = sequence_view<rnnfused::Sequence>(output);
    call.h_n = state_view<rnnfused::State>(h_n);
    run(*kernels_, call, true, kernels_->forward, cuts);
  }

  void backward(const std::optional<py::array>& grad_output, const std::optional<py::array>& grad_h_n,
                const py::array& output, const py::array& weight, py::array& grad_projections,
                const std::optional<py::array>& grad_h_0, const std::vector<int64_t>& batch_sizes,
                bool relu, bool reverse, const std::vector<int64_t>& cuts) const {
    Backward call;
    std::vector<int64_t> step_starts;
    fill(call, output, weight, batch_sizes, step_starts, relu, reverse);
    if (grad_output) call.grad_output = sequence_view<rnnfused::ConstSequence>(*grad_output);
    call.grad_h_n = state_view<rnnfused::ConstState>(grad_h_n);
    call.output = sequence_view<rnnfused::ConstSequence>(output);
    call.grad_projections = sequence_view<rnnfused::Sequence>(grad_projections);
    call.grad_h_0 = state_view<rnnfused::State>(grad_h_0);
    run(*kernels_, call, false, kernels_->backward, cuts);
  }

 private:
  const CpuKernels* kernels_;
};

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  py::class_<Kernels>(m, "Kernels")
      .def(py::init<std::string, std::string>())
      .def_property_readonly("name", &Kernels::name)
      .def("tanh", &Kernels::tanh)
      .def("forward", &Kernels::forward)
      .def("backward", &Kernels::backward);
}
