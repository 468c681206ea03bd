// The host's side of the watchdog for Python, on a fake CUDA runtime.
#include <algorithm>

#include "cuda/alarms.cu"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

namespace py = pybind11;
using namespace rnnfused::cuda;

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  py::class_<Watchdog>(m, "Watchdog")
      .def_readonly("limit", &Watchdog::limit)
      .def_readonly("launch", &Watchdog::launch)
      // What a kernel does.
      .def("raise_alarm",
           [](const Watchdog& watchdog, int rank, int64_t step, uint32_t barrier, int blocks) {
             Plan plan;
             plan.blocks = blocks;
             plan.exchange = Exchange::cluster;
             plan.units = 64, plan.depth = 32, plan.threads = 256, plan.batch_tile = 4;
             std::memcpy(watchdog.alarm->plan, &plan, sizeof plan);
             watchdog.alarm->waits[rank] = Wait{step, 0, barrier}.pack();
             watchdog.alarm->limit = watchdog.limit;
             watchdog.alarm->launch = watchdog.launch;
           })
      .def("stops", [](const Watchdog& watchdog) { return watchdog.alarm->launch == watchdog.launch; });
  m.def("next_watchdog", &next_watchdog);
  m.def("has_alarm", &has_alarm);
  m.def("take_alarm", &take_alarm);
  m.def("set_time_limit", &set_time_limit);
  m.def("set_device", [](int device) { fake_cuda.device = device; });
  m.def("set_captures", [](bool captures) { fake_cuda.captures = captures; });
  m.def("counts", [] { return std::make_pair(fake_cuda.allocations, fake_cuda.synchronisations); });
}
