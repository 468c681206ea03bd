// Emulates the CUDA kernels' phases on a host. The code of scan.cuh and steps.cuh runs with a Team whose threads are
// loop indices, in a new random order in every phase. Shared memory starts as NaN, and the order decides whether other
// threads of a phase see a store. So wrong indices, tile edges, double buffers and missing barriers give wrong
// numbers. Memory ordering and deadlocks do not show here; that code is in team.cuh alone.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <random>
#include <stdexcept>
#include <vector>

#include "arrays.h"
#include "cuda/fma_product.cuh"
#include "cuda/forced_plan.h"
#include "cuda/mma_product.cuh"
#include "cuda/plan.h"
#include "cuda/planner.h"
#include "cuda/scan.cuh"
#include "cuda/steps.cuh"

using namespace rnnfused;
using namespace rnnfused::cuda;

namespace {

// bfloat16 on a host: float32 rounded to nearest, ties to even, in its upper half; NaN stays NaN.
struct Bfloat16 {
  uint16_t bits;

  Bfloat16() = default;
  explicit Bfloat16(float value) {
    uint32_t wide;
    std::memcpy(&wide, &value, sizeof wide);
    const bool is_nan = value != value;
    bits = is_nan ? 0x7fc0 : static_cast<uint16_t>((wide + 0x7fff + (wide >> 16 & 1)) >> 16);
  }
  explicit operator float() const {
    const uint32_t wide = static_cast<uint32_t>(bits) << 16;
    float value;
    std::memcpy(&value, &wide, sizeof value);
    return value;
  }
};

template <class Product>
class HostTeam {
 public:
  using Member = Thread<Product>;
  using Word = typename Product::Word;

  HostTeam(const Plan& plan, std::mt19937& random)
      : plan_(plan),
        random_(random),
        bytes_(shared_bytes<Product>(plan)),
        memory_(plan.blocks * bytes_ + kAlignment, static_cast<char>(0xff)),
        // Zeros, like the states of a grid at its launch.
        global_(2 * state_words<Product>(plan), Word(0)) {
    if (bytes_ % kAlignment) throw std::runtime_error("a block's shared memory is cut in mid-vector");
    for (int rank = 0; rank < plan.blocks; ++rank) {
      for (int index = 0; index < plan.threads; ++index) {
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

  char* memory(const Member& me) { return block(me.rank); }
  void begin() {}
  void end() {}
  bool stopped() const { return false; }

  template <class Phase>
  void phase_after_exchange(const Phase& phase) {
    this->phase(phase);
  }

  template <class Phase>
  void phase(const Phase& phase) {
    std::shuffle(order_.begin(), order_.end(), random_);
    for (const int i : order_) phase(members_[i]);
  }

  template <class Phase, class Meanwhile>
  void exchange(int next, int rows, int words, int64_t, const Phase& run, const Meanwhile& meanwhile) {
    const Plan& plan = plan_;
    sent_.assign(plan.blocks, 0);
    next_ = next;
    phase([&](Member& me) {
      run(me);
      meanwhile(me);
    });
    for (const int64_t sent : sent_) {
      // On the GPU a block would wait forever, or continue too early.
      if (sent != words) throw std::runtime_error("a block got other words than it expects");
    }
    if (plan.exchange == Exchange::grid) {
      const Word* from = global_.data() + next * state_words<Product>(plan);
      for (int rank = 0; rank < plan.blocks; ++rank) {
        std::memcpy(block(rank), from, rows * Product::row_words(plan) * sizeof(Word));
      }
    }
  }

  // A plan of the emulator has one part: its threads run one after another.
  template <class T, int kValues>
  void add_parts(const Member&, int, T (&)[kValues]) {}

  template <int kCount>
  void publish(const Member& me, int next, int rows) {
    for (int n = 0; n < kCount; ++n) {
      if (me.items[n].row < rows) publish_word(next, me.items[n].word, me.results[n]);
    }
  }

  void load4(const Word* from, Word (&to)[4]) {
    check_aligned(from);
    std::copy(from, from + 4, to);
  }
  void store4(Word* to, const Word (&from)[4]) {
    check_aligned(to);
    std::copy(from, from + 4, to);
  }

  // The result of mma.m16n8k16 for this lane, from the fragments of its warp's lanes in the PTX manual.
  template <class Stored, class LoadB>
  void mma(const Member& me, const uint32_t (&a)[2][4], const LoadB& load_b, float (&acc)[2][4]) {
    const auto value = [](uint32_t word, int which) {
      Stored halves[2];
      std::memcpy(halves, &word, sizeof word);
      return static_cast<float>(halves[which]);
    };
    const auto tile = reinterpret_cast<const char*>(&a) - reinterpret_cast<const char*>(&me);
    const int lane = me.index % 32;
    const Member* warp = &me - lane;
    for (int c = 0; c < 4; ++c) {
      const int row = lane / 4 + c / 2 * 8, column = lane % 4 * 2 + c % 2;
      for (int k = 0; k < 16; ++k) {
        const int owner = k % 8 / 2;  // among the four lanes that share a row of A or a column of B
        uint32_t b[2];
        load_b(column * 4 + owner, b);
        const char* other = reinterpret_cast<const char*>(warp + row % 8 * 4 + owner) + tile;
        for (int m = 0; m < 2; ++m) {
          uint32_t word;
          std::memcpy(&word, other + (m * 4 + k / 8 * 2 + row / 8) * sizeof word, sizeof word);
          acc[m][c] += value(word, k % 2) * value(b[k / 8], k % 2);
        }
      }
    }
  }

 private:
  static constexpr size_t kAlignment = 16;

  void publish_word(int next, int word, Word value) {
    const Plan& plan = plan_;
    if (next != next_ || word < 0 || word >= state_words<Product>(plan)) {
      throw std::runtime_error("a word was sent to another state than the one waited for");
    }
    if (plan.exchange == Exchange::grid) global_[next * state_words<Product>(plan) + word] = value;
    for (int rank = 0; rank < plan.blocks; ++rank) {
      Shared<Product> shared;
      shared.place(block(rank), plan);
      if (plan.exchange != Exchange::grid) shared.state(next)[word] = value;
      sent_[rank] += 1;
    }
  }

  char* block(int rank) {
    const size_t past = reinterpret_cast<uintptr_t>(memory_.data()) % kAlignment;
    return memory_.data() + (kAlignment - past) % kAlignment + rank * bytes_;
  }

  void check_aligned(const void* address) const {
    if (reinterpret_cast<uintptr_t>(address) % kAlignment) {
      throw std::runtime_error("a vector access is not aligned to 16 bytes");
    }
  }

  const Plan& plan_;
  std::mt19937& random_;
  const int64_t bytes_;
  std::vector<char> memory_;
  std::vector<Word> global_;
  std::vector<Member> members_;
  std::vector<int> order_;
  std::vector<int64_t> sent_;
  int next_ = -1;
};

// Runs the product's n-th depth or a later one, as a compile-time constant.
template <class Product, int n = 0, class Step>
void run_step(const Step& step, const Plan& plan, unsigned seed) {
  if constexpr (n < int(sizeof Product::kDepths / sizeof *Product::kDepths)) {
    constexpr int kDepth = Product::kDepths[n];
    if (plan.depth != kDepth) return run_step<Product, n + 1>(step, plan, seed);
    using Own = typename Product::template Of<kDepth>;
    if (plan.parts != 1) throw std::logic_error("threads share a word");
    std::mt19937 random(seed);
    for (int64_t row = 0; row < step.params.batch_size; row += plan.batch_tile) {
      HostTeam<Own> team(plan, random);
      Scan<Own, Step, HostTeam<Own>>{step, plan, team, row}.run();
    }
  } else {
    throw std::runtime_error("the call fits no plan");
  }
}

// The interface of Kernels in cpu.cpp, on a GPU whose clusters can use some multiprocessors, or none. `forced` is a value
// of RNNFUSED_CUDA_PLAN.
class Emulator {
 public:
  Emulator(int multiprocessors, int for_clusters, unsigned seed, const std::string& forced)
      : multiprocessors_(multiprocessors),
        for_clusters_(for_clusters),
        seed_(seed),
        forced_(parse_plan(forced.c_str())) {}

  template <class Product>
  Plan plan(int64_t hidden_size, int64_t batch_size) const {
    const Device device = {multiprocessors_, 226 * 1024, 9, 0, 1.755};
    const auto teams_of = [&](const Plan& plan) -> int64_t {
      if (shared_bytes<Product>(plan) > device.shared_bytes) throw std::logic_error("too much memory");
      for (int i = 0; i < Product::max_items(plan.depth) * plan.threads; ++i) {
        if (plan.row_of(i) != i / (plan.units / Product::kValues)) throw std::logic_error("wrong row");
      }
      return (plan.exchange == Exchange::cluster ? for_clusters_ : multiprocessors_) / plan.blocks;
    };
    return forced_.blocks > 0 ? force_plan<Product>(forced_, device, hidden_size, batch_size, teams_of)
                              : choose_plan<Product>(device, hidden_size, batch_size, teams_of);
  }

  void forward(const py::array& projections, const py::array& weight, const std::optional<py::array>& h_0,
               py::array& output, py::array& h_n, const std::vector<int64_t>& batch_sizes, bool relu, bool reverse,
               const std::vector<int64_t>&) const {
    run(ForwardArrays(projections, weight, h_0, output, h_n, batch_sizes, relu, reverse));
  }

  void backward(const std::optional<py::array>& grad_output, const std::optional<py::array>& grad_h_n,
                const py::array& output, const py::array& weight, py::array& grad_projections,
                const std::optional<py::array>& grad_h_0, const std::vector<int64_t>& batch_sizes, bool relu,
                bool reverse, const std::vector<int64_t>&) const {
    run(BackwardArrays(grad_output, grad_h_n, output, weight, grad_projections, grad_h_0, batch_sizes, relu, reverse));
  }

 private:
  template <class Params>
  void run(const Params& params) const {
    switch (params.dtype) {
      case Dtype::float32: return run_product<Fma<float>>(make_step<Fma<float>, float>(params));
      case Dtype::float64: return run_product<Fma<double>>(make_step<Fma<double>, double>(params));
      case Dtype::bfloat16: return run_product<Mma<Bfloat16>>(make_step<Mma<Bfloat16>, Bfloat16>(params));
      case Dtype::float16: throw std::runtime_error("the host has no float16");
    }
  }

  template <class Product, class Step>
  void run_product(const Step& step) const {
    Plan own = plan<Product>(step.params.hidden_size, step.params.batch_size);
    own.parts = 1;
    run_step<Product>(step, own, seed_);
  }

  const int multiprocessors_, for_clusters_;
  const unsigned seed_;
  const ForcedPlan forced_;
};

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  py::class_<Plan>(m, "Plan", py::module_local())
      .def_readonly("blocks", &Plan::blocks)
      .def_readonly("units", &Plan::units)
      .def_readonly("depth", &Plan::depth)
      .def_readonly("threads", &Plan::threads)
      .def_readonly("batch_tile", &Plan::batch_tile)
      .def_readonly("estimated_us", &Plan::estimated_us)
      .def("__str__", &describe)
      .def_property_readonly("exchange", [](const Plan& plan) {
        return plan.exchange == Exchange::grid ? "grid" : plan.exchange == Exchange::cluster ? "cluster" : "none";
      });
  py::class_<Emulator>(m, "Emulator")
      .def(py::init<int, int, unsigned, std::string>(), py::arg(), py::arg(), py::arg(), py::arg("forced") = "")
      .def("plan_float32", &Emulator::plan<Fma<float>>)
      .def("plan_float64", &Emulator::plan<Fma<double>>)
      .def("plan_bfloat16", &Emulator::plan<Mma<Bfloat16>>)
      .def("forward", &Emulator::forward)
      .def("backward", &Emulator::backward);
}
