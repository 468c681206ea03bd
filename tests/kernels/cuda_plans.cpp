// The planner of csrc/cuda for Python, on a GPU that need not exist.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <map>
#include <string>

#include "cuda/fma_product.cuh"
#include "cuda/forced_plan.h"
#include "cuda/mma_product.cuh"
#include "cuda/planner.h"

namespace py = pybind11;
using namespace rnnfused;
using namespace rnnfused::cuda;

namespace {

struct Half {  // stands for a 16-bit type: plans depend on sizes alone
  uint16_t bits;
  Half() = default;
  explicit Half(float) : bits(0) {}
  explicit operator float() const { return 0; }
};

// `clusters`: blocks of a cluster: how many such clusters run at the same time.
struct Gpu {
  Device device;
  std::map<int, int64_t> clusters;

  // Blocks on a multiprocessor: by its 65,536 registers, all 255 of each thread, and by its shared memory.
  int64_t teams_of(const Plan& plan, int64_t shared) const {
    const int64_t threads = (plan.threads + 31) / 32 * 32;
    const int64_t resident = std::min<int64_t>({32, 65536 / (threads * 255), device.shared_bytes / (shared + 1024)});
    if (plan.exchange != Exchange::cluster) {
      return std::max<int64_t>(1, resident) * device.multiprocessors / plan.blocks;
    }
    const auto known = clusters.find(plan.blocks);
    return known == clusters.end() ? 0 : known->second;
  }

  template <class Product>
  Plan plan_with(int64_t hidden_size, int64_t batch_size, const std::string& forced) const {
    const auto teams = [&](const Plan& plan) { return teams_of(plan, shared_bytes<Product>(plan)); };
    const ForcedPlan wanted = parse_plan(forced.c_str());
    return wanted.blocks > 0 ? force_plan<Product>(wanted, device, hidden_size, batch_size, teams)
                             : choose_plan<Product>(device, hidden_size, batch_size, teams);
  }

  Plan plan(const std::string& dtype, int64_t hidden_size, int64_t batch_size, const std::string& forced) const {
    if (dtype == "float32") return plan_with<Fma<float>>(hidden_size, batch_size, forced);
    if (dtype == "float64") return plan_with<Fma<double>>(hidden_size, batch_size, forced);
    return plan_with<Mma<Half>>(hidden_size, batch_size, forced);
  }

  double by_kernels(const std::string& dtype, int64_t hidden_size, int64_t batch_size) const {
    if (dtype == "float32") return step_us_by_kernels<Fma<float>>(device, hidden_size, batch_size);
    if (dtype == "float64") return step_us_by_kernels<Fma<double>>(device, hidden_size, batch_size);
    return step_us_by_kernels<Mma<Half>>(device, hidden_size, batch_size);
  }
};

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  py::class_<Plan>(m, "Plan", py::module_local())
      .def_readonly("blocks", &Plan::blocks)
      .def_readonly("units", &Plan::units)
      .def_readonly("batch_tile", &Plan::batch_tile)
      .def_readonly("estimated_us", &Plan::estimated_us)
      .def_property_readonly(
          "exchange",
          [](const Plan& plan) {
            return plan.exchange == Exchange::grid ? "grid" : plan.exchange == Exchange::cluster ? "cluster" : "none";
          })
      .def("__str__", &describe);
  py::class_<Gpu>(m, "Gpu")
      .def(py::init([](int multiprocessors, int64_t shared_kilobytes, int major, int minor, double gigahertz,
                       std::map<int, int64_t> clusters) {
             return Gpu{{multiprocessors, (shared_kilobytes - 1) * 1024, major, minor, gigahertz}, std::move(clusters)};
           }),
           py::arg("multiprocessors"), py::arg("shared_kilobytes"), py::arg("major"), py::arg("minor"),
           py::arg("gigahertz"), py::arg("clusters") = std::map<int, int64_t>())
      .def("plan", &Gpu::plan, py::arg("dtype"), py::arg("hidden"), py::arg("batch"), py::arg("forced") = "")
      .def("by_kernels", &Gpu::by_kernels);
}
