// The insides of the compiled library for pytest: every instruction set's kernels on NumPy arrays.
// It reaches the kernels of the installed library through its one exported symbol: what is tested ships.
#include <dlfcn.h>

#include <stdexcept>
#include <string>

#include "arrays.h"
#include "cpu/kernels.h"

using namespace rnnfused;

namespace {

using Find = const CpuKernels* (*)(const char*);

Find open_library(const std::string& path) {
  void* library = dlopen(path.c_str(), RTLD_NOW);
  if (!library) throw std::runtime_error(dlerror());
  return reinterpret_cast<Find>(dlsym(library, "rnnfused_cpu_kernels"));
}

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

// The matrix, packed in two pieces as two threads would.
Poisoned pack(const CpuKernels& cpu, Dtype dtype, const ConstMatrix& matrix, int64_t depth,
              int64_t columns) {
  Poisoned packed(cpu.packed_bytes(dtype, depth, columns));
  const int64_t panels = cpu.num_panels(dtype, columns);
  cpu.pack(dtype, matrix, depth, columns, packed.get(), panels / 2, panels);
  cpu.pack(dtype, matrix, depth, columns, packed.get(), 0, panels / 2);
  return packed;
}

// Runs rows [cuts[0], cuts[1]), [cuts[1], cuts[2]), ..: the pieces that threads would run.
template <class Call>
void run(const CpuKernels& cpu, const Call& call, bool transposed,
         void (*kernel)(const Call&, const void*, void*, int64_t, int64_t),
         const std::vector<int64_t>& cuts) {
  ConstMatrix weight = call.weight_hh;
  if (transposed) std::swap(weight.row_stride, weight.column_stride);
  Poisoned packed = pack(cpu, call.dtype, weight, call.hidden_size, call.hidden_size);
  for (size_t i = 0; i + 1 < cuts.size(); ++i) {
    Poisoned scratch(cpu.loop_scratch_bytes(call, cuts[i + 1] - cuts[i]));
    kernel(call, packed.get(), scratch.get(), cuts[i], cuts[i + 1]);
  }
}

int64_t stride(const py::array& array, int axis) { return array.strides(axis) / array.itemsize(); }

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
    const ForwardArrays call(projections, weight, h_0, output, h_n, batch_sizes, relu, reverse);
    run<Forward>(*kernels_, call, true, kernels_->forward, cuts);
  }

  void backward(const std::optional<py::array>& grad_output, const std::optional<py::array>& grad_h_n,
                const py::array& output, const py::array& weight, py::array& grad_projections,
                const std::optional<py::array>& grad_h_0, const std::vector<int64_t>& batch_sizes,
                bool relu, bool reverse, const std::vector<int64_t>& cuts) const {
    const BackwardArrays call(grad_output, grad_h_n, output, weight, grad_projections, grad_h_0,
                              batch_sizes, relu, reverse);
    run<Backward>(*kernels_, call, false, kernels_->backward, cuts);
  }

  // output (rows, out) = input (rows, in) weight (out, in)^T + bias
  void project(const py::array& input, const py::array& weight, const std::optional<py::array>& bias,
               py::array& output, const std::vector<int64_t>& cuts) const {
    Projection call;
    call.rows = input.shape(0);
    call.in_size = input.shape(1);
    call.out_size = weight.shape(0);
    call.dtype = dtype_of(input);
    call.input = {input.data(), stride(input, 0)};
    call.weight = {weight.data(), stride(weight, 1), stride(weight, 0)};
    if (bias) call.bias = bias->data();
    call.output = {output.mutable_data(), stride(output, 0)};
    Poisoned packed = pack(*kernels_, call.dtype, call.weight, call.in_size, call.out_size);
    for (size_t i = 0; i + 1 < cuts.size(); ++i) {
      Poisoned scratch(kernels_->project_scratch_bytes(call));
      kernels_->project(call, packed.get(), scratch.get(), cuts[i], cuts[i + 1]);
    }
  }

  // result (left, right) = sum over (outer, inner) of left^T right
  void sum_products(const py::array& left, const py::array& right, py::array& result,
                    const std::vector<int64_t>& cuts) const {
    ProductSum call;
    call.outer = left.shape(0);
    call.inner = left.shape(1);
    call.left_size = left.shape(2);
    call.right_size = right.shape(2);
    call.dtype = dtype_of(left);
    call.left = {left.data(), stride(left, 0), stride(left, 1)};
    call.right = {right.data(), stride(right, 0), stride(right, 1)};
    call.result = result.mutable_data();
    for (size_t i = 0; i + 1 < cuts.size(); ++i) {
      Poisoned scratch(kernels_->sum_scratch_bytes(call));
      kernels_->sum_products(call, scratch.get(), cuts[i], cuts[i + 1]);
    }
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
      .def("backward", &Kernels::backward)
      .def("project", &Kernels::project)
      .def("sum_products", &Kernels::sum_products);
}
