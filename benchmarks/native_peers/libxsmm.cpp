// LIBXSMM's RNN cell (Debian: libxsmm-dev 1.17), by its header libxsmm_dnn_rnncell.h and its driver of samples.

#include <immintrin.h>
#include <libxsmm.h>
#include <omp.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "peer.h"

namespace {

using Size = std::int64_t;

void check(int status, const char* call) {
  if (status != LIBXSMM_DNN_SUCCESS) {
    throw std::runtime_error(std::string(call) + ": " + libxsmm_dnn_get_error(status));
  }
}

// The library's default block is 64. Blocks must divide the size, and multiples of 8 fill registers.
Size block(Size size) {
  Size best = 1;
  for (Size candidate = 1; candidate <= 64; ++candidate) {
    if (size % candidate == 0 && (candidate % 8 == 0 || best % 8 != 0)) best = candidate;
  }
  return best;
}

struct Free {
  void operator()(void* memory) const { libxsmm_free(memory); }
};
using Buffer = std::unique_ptr<float, Free>;

Buffer allocated(std::size_t count) {
  Buffer buffer(static_cast<float*>(libxsmm_aligned_malloc(count * sizeof(float), 64)));
  if (!buffer) throw std::bad_alloc();
  std::memset(buffer.get(), 0, count * sizeof(float));
  return buffer;
}

// A weight in blocks: (hidden_size / bk, num_columns / bc, bc, bk), each block transposed.
struct Blocks {
  Size hidden_size, num_columns, bk, bc;

  template <class Visit>
  void each(Visit visit) const {  // visit(offset in blocks, offset in torch's layout)
    Size offset = 0;
    for (Size k = 0; k < hidden_size; k += bk)
      for (Size c = 0; c < num_columns; c += bc)
        for (Size j = c; j < c + bc; ++j)
          for (Size i = k; i < k + bk; ++i) visit(offset++, i * num_columns + j);
  }
};

class Libxsmm final : public Peer {
 public:
  explicit Libxsmm(const Layer& layer) : layer_(layer) {
    const Size h = layer.hidden_size, c = layer.input_size;
    libxsmm_dnn_rnncell_desc desc{};
    desc.threads = static_cast<int>(layer.num_threads);
    desc.K = static_cast<libxsmm_blasint>(h);
    desc.N = static_cast<libxsmm_blasint>(layer.batch_size);
    desc.C = static_cast<libxsmm_blasint>(c);
    desc.max_T = static_cast<libxsmm_blasint>(layer.num_steps);
    desc.bk = static_cast<libxsmm_blasint>(block(h));
    desc.bn = static_cast<libxsmm_blasint>(block(layer.batch_size));
    desc.bc = static_cast<libxsmm_blasint>(block(c));
    desc.cell_type = LIBXSMM_DNN_RNNCELL_RNN_TANH;
    desc.datatype_in = desc.datatype_out = LIBXSMM_DNN_DATATYPE_F32;
    desc.buffer_format = LIBXSMM_DNN_TENSOR_FORMAT_NC;
    desc.filter_format = LIBXSMM_DNN_TENSOR_FORMAT_CKPACKED;
    libxsmm_dnn_err_t status;
    cell_ = libxsmm_dnn_create_rnncell(desc, &status);
    check(status, "libxsmm_dnn_create_rnncell");
    of_ih_ = {h, c, desc.bk, desc.bc};
    of_hh_ = {h, h, desc.bk, desc.bk};

    weight_ih_ = packed(layer.weight_ih, of_ih_);
    weight_hh_ = packed(layer.weight_hh, of_hh_);
    weight_hh_t_ = allocated(h * h);
    bias_ = allocated(h);
    add_biases();
    grad_weight_ih_ = allocated(h * c);
    grad_weight_hh_ = allocated(h * h);
    grad_bias_ = allocated(h);
    bind(LIBXSMM_DNN_RNN_REGULAR_INPUT, layer.x);
    // The last step of backward reads the state before the first one here, and all others in `states`.
    bind(LIBXSMM_DNN_RNN_REGULAR_HIDDEN_STATE_PREV, layer.states - layer.batch_size * h);
    bind(LIBXSMM_DNN_RNN_REGULAR_HIDDEN_STATE, layer.states);
    bind(LIBXSMM_DNN_RNN_REGULAR_WEIGHT, weight_ih_.get());
    bind(LIBXSMM_DNN_RNN_REGULAR_RECUR_WEIGHT, weight_hh_.get());
    bind(LIBXSMM_DNN_RNN_REGULAR_RECUR_WEIGHT_TRANS, weight_hh_t_.get());
    bind(LIBXSMM_DNN_RNN_REGULAR_BIAS, bias_.get());
    bind(LIBXSMM_DNN_RNN_GRADIENT_HIDDEN_STATE, layer.gradient);
    bind(LIBXSMM_DNN_RNN_GRADIENT_WEIGHT, grad_weight_ih_.get());
    bind(LIBXSMM_DNN_RNN_GRADIENT_RECUR_WEIGHT, grad_weight_hh_.get());
    bind(LIBXSMM_DNN_RNN_GRADIENT_BIAS, grad_bias_.get());
    // The kind UPD leaves the input's gradient out, as nn.RNN does here. It must have memory, which is not touched.
    bind(LIBXSMM_DNN_RNN_REGULAR_WEIGHT_TRANS, weight_ih_.get());
    bind(LIBXSMM_DNN_RNN_GRADIENT_INPUT, layer.x);

    constexpr auto kAll = LIBXSMM_DNN_COMPUTE_KIND_ALL;
    scratch_ = allocated(libxsmm_dnn_rnncell_get_scratch_size(cell_, kAll, &status) / sizeof(float));
    check(libxsmm_dnn_rnncell_bind_scratch(cell_, kAll, scratch_.get()), "libxsmm_dnn_rnncell_bind_scratch");
    inner_ = allocated(libxsmm_dnn_rnncell_get_internalstate_size(cell_, kAll, &status) / sizeof(float));
    check(libxsmm_dnn_rnncell_bind_internalstate(cell_, kAll, inner_.get()), "libxsmm_dnn_rnncell_bind_internalstate");
  }

  ~Libxsmm() override {
    for (auto* tensor : tensors_) libxsmm_dnn_destroy_tensor(tensor);
    libxsmm_dnn_destroy_rnncell(cell_);
  }

  void forward() override { execute({LIBXSMM_DNN_COMPUTE_KIND_FWD}); }

  void forward_backward() override {
    // Training changes parameters between calls, so what the cell reads besides its weights is made in each.
    add_biases();
    transpose_weight_hh();
    std::fill_n(grad_bias_.get(), layer_.hidden_size, 0.0f);  // the cell adds to it
    execute({LIBXSMM_DNN_COMPUTE_KIND_FWD, LIBXSMM_DNN_COMPUTE_KIND_UPD});
  }

  void copy_gradients() override {
    of_ih_.each([&](Size from, Size to) { layer_.grad_weight_ih[to] = grad_weight_ih_.get()[from]; });
    of_hh_.each([&](Size from, Size to) { layer_.grad_weight_hh[to] = grad_weight_hh_.get()[from]; });
    std::copy_n(grad_bias_.get(), layer_.hidden_size, layer_.grad_bias);
  }

 private:
  static Buffer packed(const float* weight, const Blocks& blocks) {
    Buffer buffer = allocated(blocks.hidden_size * blocks.num_columns);
    blocks.each([&](Size to, Size from) { buffer.get()[to] = weight[from]; });
    return buffer;
  }

  void bind(libxsmm_dnn_tensor_type type, const float* data) {
    libxsmm_dnn_err_t status;
    auto* layout = libxsmm_dnn_rnncell_create_tensor_datalayout(cell_, type, &status);
    check(status, "libxsmm_dnn_rnncell_create_tensor_datalayout");
    tensors_.push_back(libxsmm_dnn_link_tensor(layout, data, &status));
    libxsmm_dnn_destroy_tensor_datalayout(layout);
    check(status, "libxsmm_dnn_link_tensor");
    check(libxsmm_dnn_rnncell_bind_tensor(cell_, tensors_.back(), type), "libxsmm_dnn_rnncell_bind_tensor");
  }

  void add_biases() {
    for (Size k = 0; k < layer_.hidden_size; ++k) bias_.get()[k] = layer_.bias_ih[k] + layer_.bias_hh[k];
  }

  // Exchanges the indices of the blocks, and those in each block.
  void transpose_weight_hh() {
    const Size b = of_hh_.bk, count = of_hh_.hidden_size / b;
    const auto num_threads = static_cast<int>(layer_.num_threads);
#pragma omp parallel for num_threads(num_threads)
    for (Size k = 0; k < count; ++k)
      for (Size c = 0; c < count; ++c)
        for (Size i = 0; i < b; ++i)
          for (Size j = 0; j < b; ++j)
            weight_hh_t_.get()[((k * count + c) * b + i) * b + j] = weight_hh_.get()[((c * count + k) * b + j) * b + i];
  }

  void execute(std::initializer_list<libxsmm_dnn_compute_kind> kinds) {
    const auto num_threads = static_cast<int>(layer_.num_threads);
    int failure = LIBXSMM_DNN_SUCCESS;
#pragma omp parallel num_threads(num_threads)
    for (const auto kind : kinds) {
      const int status = libxsmm_dnn_rnncell_execute_st(cell_, kind, 0, omp_get_thread_num());
      if (status != LIBXSMM_DNN_SUCCESS) failure = status;
    }
    check(failure, "libxsmm_dnn_rnncell_execute_st");
  }

  Layer layer_;
  libxsmm_dnn_rnncell* cell_ = nullptr;
  std::vector<libxsmm_dnn_tensor*> tensors_;
  Blocks of_ih_, of_hh_;
  Buffer weight_ih_, weight_hh_, weight_hh_t_, bias_, grad_weight_ih_, grad_weight_hh_, grad_bias_, scratch_, inner_;
};

__attribute__((target("avx"))) void clear_upper_halves() { _mm256_zeroupper(); }

}  // namespace

// The linker gives LIBXSMM this function in place of tanh (--wrap=tanh). LIBXSMM's generated code leaves the upper
// halves of vector registers in use, and the C library's tanh then takes 6 times as long.
extern "C" double __real_tanh(double x);
extern "C" double __wrap_tanh(double x) {
  static const bool has_upper_halves = __builtin_cpu_supports("avx");
  if (has_upper_halves) clear_upper_halves();
  return __real_tanh(x);
}

std::unique_ptr<Peer> make_peer(const Layer& layer) { return std::make_unique<Libxsmm>(layer); }
