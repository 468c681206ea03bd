// The CUDA kernels' phases on a host: the very code of scan.cuh and steps.cuh, run by a Team whose threads
// are loop indices. Blocks and threads run in a new random order in every phase, shared memory starts as NaN,
// and a store into shared memory is seen by the other threads of its phase or not, as the order falls: wrong
// indices, tile edges, a mixed-up double buffer and a missing barrier all end in wrong numbers.
// Memory ordering and deadlocks don't show here; those lines are in team.cuh alone.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <random>
#include <stdexcept>
#include <vector>

#include "arrays.h"
#include "cuda/plan.h"
#include "cuda/scan.cuh"
#include "cuda/steps.cuh"

using namespace rnnfused;
using namespace rnnfused::cuda;

namespace {

// bfloat16 on a host: float32 rounded to nearest, ties to even, in its upper half.
struct Bfloat16 {
  uint16_t bits;

  explicit Bfloat16(float value) {
    uint32_t wide;
    std::memcpy(&wide, &value, sizeof wide);
    bits = static_cast<uint16_t>((wide + 0x7fff + (wide >> 16 & 1)) >> 16);
  }
  explicit operator float() const {
    const uint32_t wide = static_cast<uint32_t>(bits) << 16;
    float value;
    std::memcpy(&value, &wide, sizeof value);
    return value;
  }
};

template <class T, int kDepth>
class HostTeam {
 public:
  using Member = Thread<T, kDepth>;

  HostTeam(const Plan& plan, std::mt19937& random) : plan_(plan), random_(random) {
    elements_ = shared_bytes<T>(plan) / sizeof(T);
    memory_.resize(plan.cluster * elements_);
    std::memset(memory_.data(), 0xff, memory_.size() * sizeof(T));
    for (int rank = 0; rank < plan.cluster; ++rank) {
      for (int index = 0; index < plan.threads(); ++index) {
        Member member;
        std::memset(static_cast<void*>(&member), 0xff, sizeof member);
        member.rank = rank;
        member.index = index;
        members_.push_back(member);
      }
    }
    order_.resize(members_.size());
    for (size_t i = 0; i < order_.size(); ++i) order_[i] = static_cast<int>(i);
  }

  T* memory(const Member& me) { return memory_.data() + me.rank * elements_; }
  void begin() {}
  void end() {}

  template <class Phase>
  void phase(const Phase& phase) {
    std::shuffle(order_.begin(), order_.end(), random_);
    for (const int i : order_) phase(members_[i]);
  }

  template <class Phase>
  void exchange(int next, int64_t bytes, const Phase& run) {
    sent_.assign(plan_.cluster, 0);
    next_ = next;
    phase(run);
    for (const int64_t sent : sent_) {
      // On the GPU a block would wait for ever, or go on too early.
      if (sent != bytes) throw std::runtime_error("a block got other bytes than it expects");
    }
  }

  void publish(const Member& me, T* state, T value, int next) {
    const int64_t offset = state - memory(me);
    const Shared<T> shared(memory(me), plan_);
    const int64_t in_state = state - shared.state(next);
    if (next != next_ || in_state < 0 || in_state >= shared.state_elements) {
      throw std::runtime_error("a value was sent to another state than the one waited for");
    }
    for (int rank = 0; rank < plan_.cluster; ++rank) {
      memory_.at(rank * elements_ + offset) = value;
      sent_[rank] += sizeof(T);
    }
  }

  void load4(const T* from, T (&to)[4]) const {
    check_aligned(from);
    std::copy(from, from + 4, to);
  }
  void store4(T* to, const T (&from)[4]) const {
    check_aligned(to);
    std::copy(from, from + 4, to);
  }

 private:
  void check_aligned(const T* address) const {
    if ((address - memory_.data()) % elements_ * sizeof(T) % 16) {
      throw std::runtime_error("a vector access is not aligned to 16 bytes");
    }
  }

  const Plan& plan_;
  std::mt19937& random_;
  int64_t elements_;
  std::vector<T> memory_;
  std::vector<Member> members_;
  std::vector<int> order_;
  std::vector<int64_t> sent_;
  int next_ = -1;
};

template <class T, int kDepth, class Step>
void run_depth(const Step& step, const Plan& plan, unsigned seed) {
  std::mt19937 random(seed);
  for (int64_t row = 0; row < step.call.batch_size; row += plan.batch_tile) {
    HostTeam<T, kDepth> team(plan, random);
    Scan<T, kDepth, Step, HostTeam<T, kDepth>>{step, plan, team, row}.run();
  }
}

template <class T, class Step>
void run_step(const Step& step, const Plan& plan, unsigned seed) {
  switch (plan.depth) {
    case 8: return run_depth<T, 8>(step, plan, seed);
    case 16: return run_depth<T, 16>(step, plan, seed);
    case 32: return run_depth<T, 32>(step, plan, seed);
    case 36: return run_depth<T, 36>(step, plan, seed);
  }
  throw std::runtime_error("the call fits no plan");
}

// As Kernels of cpu.cpp, on a GPU of that many multiprocessors and largest cluster.
class Emulator {
 public:
  Emulator(int multiprocessors, int max_cluster, unsigned seed)
      : multiprocessors_(multiprocessors), max_cluster_(max_cluster), seed_(seed) {}

  Plan plan(int64_t hidden_size, int64_t batch_size, bool is_double) const {
    constexpr int64_t kSharedBytes = 226 * 1024;
    return is_double ? make_plan<double>(hidden_size, batch_size, max_cluster_, multiprocessors_,
                                         kSharedBytes)
                     : make_plan<float>(hidden_size, batch_size, max_cluster_, multiprocessors_,
                                        kSharedBytes);
  }

  void forward(const py::array& projections, const py::array& weight,
               const std::optional<py::array>& h_0, py::array& output, py::array& h_n,
               const std::vector<int64_t>& batch_sizes, bool relu, bool reverse,
               const std::vector<int64_t>&) const {
    run<ForwardStep>(
        ForwardArrays(projections, weight, h_0, output, h_n, batch_sizes, relu, reverse));
  }

  void backward(const std::optional<py::array>& grad_output, const std::optional<py::array>& grad_h_n,
                const py::array& output, const py::array& weight, py::array& grad_projections,
                const std::optional<py::array>& grad_h_0, const std::vector<int64_t>& batch_sizes,
                bool relu, bool reverse, const std::vector<int64_t>&) const {
    run<BackwardStep>(BackwardArrays(grad_output, grad_h_n, output, weight, grad_projections,
                                     grad_h_0, batch_sizes, relu, reverse));
  }

 private:
  template <template <class> class Step, class Call>
  void run(const Call& call) const {
    const Plan layout =
        plan(call.hidden_size, call.batch_size, call.dtype == Dtype::float64);
    switch (call.dtype) {
      case Dtype::float32: return run_step<float>(Step<float>{call}, layout, seed_);
      case Dtype::float64: return run_step<double>(Step<double>{call}, layout, seed_);
      case Dtype::bfloat16: return run_step<float>(Step<Bfloat16>{call}, layout, seed_);
      case Dtype::float16: throw std::runtime_error("the host has no float16");
    }
  }

  const int multiprocessors_, max_cluster_;
  const unsigned seed_;
};

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  py::class_<Plan>(m, "Plan")
      .def_readonly("cluster", &Plan::cluster)
      .def_readonly("units", &Plan::units)
      .def_readonly("depth", &Plan::depth)
      .def_readonly("batch_tile", &Plan::batch_tile)
      .def_property_readonly("threads", &Plan::threads);
  py::class_<Emulator>(m, "Emulator")
      .def(py::init<int, int, unsigned>())
      .def("plan", &Emulator::plan)
      .def("forward", &Emulator::forward)
      .def("backward", &Emulator::backward);
}
