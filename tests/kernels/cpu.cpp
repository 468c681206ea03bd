// The kernels of every instruction set on NumPy arrays, for pytest. They are the kernels of the installed library,
// reached through its one exported symbol.
#include <dlfcn.h>

#include <cstring>
#include <stdexcept>
#include <string>

#include "arrays.h"
#include "cpu/kernel_table.h"
#include "sizes.h"

using namespace rnnfused;

namespace {

using Find = const CpuKernels* (*)(const char*);

Find open_library(const std::string& path) {
  void* library = dlopen(path.c_str(), RTLD_NOW);
  if (!library) throw std::runtime_error(dlerror());
  return reinterpret_cast<Find>(dlsym(library, "rnnfused_cpu_kernels"));
}

// 64-byte aligned memory, filled with NaN: reads before writes show in the results.
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

// Packs the matrix in two pieces, as two workers would.
Poisoned pack(const CpuKernels& cpu, Dtype dtype, const ConstMatrix& matrix, int64_t depth, int64_t columns) {
  Poisoned packed(cpu.packed_bytes(dtype, depth, columns));
  const int64_t each = cpu.panel_columns(dtype), panels = (columns + each - 1) / each;
  cpu.pack(dtype, matrix, depth, columns, packed.get(), panels / 2, panels);
  cpu.pack(dtype, matrix, depth, columns, packed.get(), 0, panels / 2);
  return packed;
}

// Calls run(scratch, begin, end) for rows [cuts[0], cuts[1]), [cuts[1], cuts[2]), .., as workers would.
template <class Bytes, class Run>
void in_pieces(const std::vector<int64_t>& cuts, const Bytes& bytes, const Run& run) {
  for (size_t i = 0; i + 1 < cuts.size(); ++i) {
    Poisoned scratch(bytes(cuts[i + 1] - cuts[i]));
    run(scratch.get(), cuts[i], cuts[i + 1]);
  }
}

// Converts a bias to sums and pads it with zeros to whole panels.
Poisoned pad(const CpuKernels& cpu, const py::array& bias) {
  const int64_t bytes = cpu.packed_bytes(sum_dtype(dtype_of(bias)), 1, bias.size());
  Poisoned padded(bytes);
  std::memset(padded.get(), 0, bytes);
  cpu.to_sums(dtype_of(bias), bias.data(), padded.get(), bias.size(), false);
  return padded;
}

class Kernels {
 public:
  Kernels(const std::string& library, const std::string& name) : kernels_(open_library(library)(name.c_str())) {
    if (!kernels_) throw py::key_error(name);
  }

  std::string name() const { return kernels_->name; }

  // The bytes of a packed matrix with the dtype of `example`.
  int64_t packed_bytes(const py::array& example, int64_t depth, int64_t columns) const {
    return kernels_->packed_bytes(dtype_of(example), depth, columns);
  }

  void tanh(const py::array& in, py::array& out) const {
    kernels_->tanh(dtype_of(in), in.data(), out.mutable_data(), in.size());
  }

  void to_sums(const py::array& values, py::array& sums) const {
    kernels_->to_sums(dtype_of(values), values.data(), sums.mutable_data(), values.size(), false);
  }
  void from_sums(const py::array& sums, py::array& values) const {
    kernels_->from_sums(dtype_of(values), sums.data(), values.mutable_data(), values.size());
  }

  // Whether the loop makes the projections of many rows itself.
  bool projects(const py::array& input) const {
    ForwardParams params;
    params.dtype = dtype_of(input);
    params.num_steps = params.input_size = params.hidden_size = 1;
    params.batch_size = 8;
    return kernels_->projects(params);
  }

  void forward(const py::array& projections, const py::array& weight, const std::optional<py::array>& h_0,
               py::array& output, py::array& h_n, const std::vector<int64_t>& batch_sizes, bool relu, bool reverse,
               const std::vector<int64_t>& cuts) const {
    run_forward(ForwardArrays(projections, weight, h_0, output, h_n, batch_sizes, relu, reverse), nullptr, nullptr,
                cuts);
  }

  // Like forward, but the loop makes the projections of the input.
  void layer_forward(const py::array& input, const py::array& weight_ih, const py::array& bias, const py::array& weight,
                     const std::optional<py::array>& h_0, py::array& output, py::array& h_n,
                     const std::vector<int64_t>& batch_sizes, bool relu, bool reverse,
                     const std::vector<int64_t>& cuts) const {
    ForwardArrays params(output, weight, h_0, output, h_n, batch_sizes, relu, reverse);
    params.input = sequence_view<ConstSequence>(input);
    params.input_size = input.shape(input.ndim() - 1);
    const ConstMatrix matrix = {weight_ih.data(), stride(weight_ih, 1), stride(weight_ih, 0)};
    Poisoned packed_ih = pack(*kernels_, params.dtype, matrix, params.input_size, params.hidden_size);
    Poisoned padded = pad(*kernels_, bias);
    run_forward(params, packed_ih.get(), padded.get(), cuts);
  }

  void backward(const std::optional<py::array>& grad_output, const std::optional<py::array>& grad_h_n,
                const py::array& output, const py::array& weight, py::array& grad_projections,
                const std::optional<py::array>& grad_h_0, const std::vector<int64_t>& batch_sizes, bool relu,
                bool reverse, const std::vector<int64_t>& cuts) const {
    const BackwardArrays params(grad_output, grad_h_n, output, weight, grad_projections, grad_h_0, batch_sizes, relu,
                                reverse);
    Poisoned packed = pack(*kernels_, params.dtype, params.weight_hh, params.hidden_size, params.hidden_size);
    in_pieces(
        cuts, [&](int64_t rows) { return kernels_->backward_scratch_bytes(params, rows); },
        [&](void* scratch, int64_t begin, int64_t end) {
          kernels_->backward(params, {packed.get()}, scratch, begin, end, Member());
        });
  }

  // output (rows, out) = input (rows, in) weight (out, in)^T + bias
  void project(const py::array& input, const py::array& weight, const std::optional<py::array>& bias, py::array& output,
               const std::vector<int64_t>& cuts) const {
    ProjectionParams params;
    params.rows = input.shape(0);
    params.in_size = input.shape(1);
    params.out_size = weight.shape(0);
    params.dtype = dtype_of(input);
    params.input = {input.data(), stride(input, 0)};
    params.weight = {weight.data(), stride(weight, 1), stride(weight, 0)};
    std::optional<Poisoned> padded;
    if (bias) padded.emplace(pad(*kernels_, *bias));
    params.output = {output.mutable_data(), stride(output, 0)};
    params.keeps_sums = output.itemsize() != input.itemsize();
    Poisoned packed = pack(*kernels_, params.dtype, params.weight, params.in_size, params.out_size);
    in_pieces(
        cuts, [&](int64_t) { return kernels_->project_scratch_bytes(params); },
        [&](void* scratch, int64_t begin, int64_t end) {
          kernels_->project(params, packed.get(), padded ? padded->get() : nullptr, scratch, begin, end);
        });
  }

  // result (left, right) = sum over (outer, inner) of left^T right
  void sum_products(const py::array& left, const py::array& right, py::array& result,
                    const std::vector<int64_t>& cuts) const {
    ProductSumParams params;
    params.outer = left.shape(0);
    params.inner = left.shape(1);
    params.left_size = left.shape(2);
    params.right_size = right.shape(2);
    params.dtype = dtype_of(left);
    params.left = {left.data(), stride(left, 0), stride(left, 1)};
    params.right = {right.data(), stride(right, 0), stride(right, 1)};
    params.result = result.mutable_data();
    in_pieces(
        cuts, [&](int64_t) { return kernels_->sum_scratch_bytes(params); },
        [&](void* scratch, int64_t begin, int64_t end) { kernels_->sum_products(params, scratch, begin, end); });
  }

 private:
  void run_forward(const ForwardArrays& params, void* packed_ih, const void* packed_bias,
                   const std::vector<int64_t>& cuts) const {
    const ConstMatrix matrix = {params.weight_hh.data, params.weight_hh.column_stride, params.weight_hh.row_stride};
    Poisoned packed = pack(*kernels_, params.dtype, matrix, params.hidden_size, params.hidden_size);
    in_pieces(
        cuts, [&](int64_t rows) { return kernels_->forward_scratch_bytes(params, rows, 1); },
        [&](void* scratch, int64_t begin, int64_t end) {
          kernels_->forward(params, {packed.get(), packed_ih, packed_bias}, scratch, begin, end, Member());
        });
  }

  const CpuKernels* kernels_;
};

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  py::class_<Kernels>(m, "Kernels")
      .def(py::init<std::string, std::string>())
      .def_property_readonly("name", &Kernels::name)
      .def("packed_bytes", &Kernels::packed_bytes)
      .def("tanh", &Kernels::tanh)
      .def("to_sums", &Kernels::to_sums)
      .def("from_sums", &Kernels::from_sums)
      .def("projects", &Kernels::projects)
      .def("forward", &Kernels::forward)
      .def("layer_forward", &Kernels::layer_forward)
      .def("backward", &Kernels::backward)
      .def("project", &Kernels::project)
      .def("sum_products", &Kernels::sum_products);
  m.attr("TOO_LARGE") = kTooLarge;
  m.def("product_of", [](int64_t a, int64_t b, int64_t c) { return product_of(a, b, c); });
  m.def("begin_of_part", [](int64_t count, int64_t parts, int64_t i) { return Parts(count, parts).begin(i); });
}
