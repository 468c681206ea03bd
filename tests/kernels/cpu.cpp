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
