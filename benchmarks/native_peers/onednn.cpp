// oneDNN's RNN primitive (Debian: libdnnl-dev 2.6), by its documentation of vanilla_rnn_forward and _backward.

#include <omp.h>

#include <oneapi/dnnl/dnnl.hpp>

#include <cstring>
#include <stdexcept>
#include <unordered_map>
#include <vector>

#include "peer.h"

namespace {

using dnnl::memory;
using Arguments = std::unordered_map<int, memory>;
using Tag = memory::format_tag;

constexpr auto kTanh = dnnl::algorithm::eltwise_tanh;
constexpr auto kDirection = dnnl::rnn_direction::unidirectional_left2right;

memory::desc described(const memory::dims& sizes, Tag tag) { return {sizes, memory::data_type::f32, tag}; }

// A copy into another layout.
struct Copy {
  Copy(const memory& from, const memory& to) : reorder(from, to), arguments{{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}} {}
  void run(const dnnl::stream& stream) const { reorder.execute(stream, arguments); }

  dnnl::reorder reorder;
  Arguments arguments;
};

class OneDnn final : public Peer {
 public:
  explicit OneDnn(const Layer& layer) : layer_(layer) {
    omp_set_num_threads(static_cast<int>(layer.num_threads));
    const memory::desc none;  // in place of dst_iter: the last state is not copied
    const memory::dim n = layer.batch_size, c = layer.input_size, h = layer.hidden_size;
    const auto x = described({layer.num_steps, n, c}, Tag::tnc), states = described({layer.num_steps, n, h}, Tag::tnc);
    const auto initial = described({1, 1, n, h}, Tag::ldnc), bias = described({1, 1, 1, h}, Tag::ldgo);
    // "any": the primitive chooses the layout of its weights.
    const auto weight_ih = described({1, 1, c, 1, h}, Tag::any), weight_hh = described({1, 1, h, 1, h}, Tag::any);
    const auto forward = [&](dnnl::prop_kind kind) {
      return dnnl::vanilla_rnn_forward::primitive_desc(
          {kind, kTanh, kDirection, x, initial, weight_ih, weight_hh, bias, states, none}, engine_);
    };
    const auto inference = forward(dnnl::prop_kind::forward_inference);
    const auto training = forward(dnnl::prop_kind::forward_training);
    const dnnl::vanilla_rnn_backward::primitive_desc backward(
        {dnnl::prop_kind::backward, kTanh, kDirection, x, initial, weight_ih, weight_hh, bias, states, none, x, initial,
         weight_ih, weight_hh, bias, states, none},
        engine_, training);
    inference_ = dnnl::vanilla_rnn_forward(inference);
    training_ = dnnl::vanilla_rnn_forward(training);
    backward_ = dnnl::vanilla_rnn_backward(backward);

    weight_ih_ = allocated(described({1, 1, c, 1, h}, Tag::ldigo));
    weight_hh_ = allocated(described({1, 1, h, 1, h}, Tag::ldigo));
    run({{of_torch(layer.weight_ih, c), weight_ih_}, {of_torch(layer.weight_hh, h), weight_hh_}});
    bias_ = allocated(bias);
    add_biases();

    // The primitive may leave src_iter out, and would then return a wrong gradient of weight_hh.
    const memory zeros(initial, engine_, layer.states - n * h);
    const Arguments outer = {{DNNL_ARG_SRC_ITER, zeros},
                             {DNNL_ARG_SRC_LAYER, memory(x, engine_, const_cast<float*>(layer.x))},
                             {DNNL_ARG_DST_LAYER, memory(states, engine_, layer.states)},
                             {DNNL_ARG_BIAS, bias_}};
    std::vector<Copy> inference_weights;
    inference_arguments_ = with_weights(outer, inference, inference_weights);
    run(inference_weights);
    training_arguments_ = with_weights(outer, training, training_weights_);
    backward_arguments_ = with_weights(outer, backward, training_weights_);
    training_arguments_[DNNL_ARG_WORKSPACE] = backward_arguments_[DNNL_ARG_WORKSPACE] =
        allocated(training.workspace_desc());
    backward_arguments_[DNNL_ARG_DIFF_DST_LAYER] = memory(states, engine_, const_cast<float*>(layer.gradient));
    // The primitive always computes the input's gradient; nn.RNN leaves it out here.
    backward_arguments_[DNNL_ARG_DIFF_SRC_LAYER] = allocated(x);
    backward_arguments_[DNNL_ARG_DIFF_SRC_ITER] = allocated(initial);
    backward_arguments_[DNNL_ARG_DIFF_WEIGHTS_LAYER] = allocated(backward.diff_weights_layer_desc());
    backward_arguments_[DNNL_ARG_DIFF_WEIGHTS_ITER] = allocated(backward.diff_weights_iter_desc());
    backward_arguments_[DNNL_ARG_DIFF_BIAS] = allocated(bias);
  }

  void forward() override {
    inference_.execute(stream_, inference_arguments_);
    stream_.wait();
  }

  void forward_backward() override {
    // Training changes parameters between calls, so the layouts that the primitives chose are made in each.
    add_biases();
    run(training_weights_);
    for (const int gradient : {DNNL_ARG_DIFF_WEIGHTS_LAYER, DNNL_ARG_DIFF_WEIGHTS_ITER, DNNL_ARG_DIFF_BIAS}) {
      const memory& sum = backward_arguments_[gradient];  // the primitive adds to it
      std::memset(sum.get_data_handle(), 0, sum.get_desc().get_size());
    }
    training_.execute(stream_, training_arguments_);
    backward_.execute(stream_, backward_arguments_);
    stream_.wait();
  }

  void copy_gradients() override {
    run({{backward_arguments_[DNNL_ARG_DIFF_WEIGHTS_LAYER], of_torch(layer_.grad_weight_ih, layer_.input_size)},
         {backward_arguments_[DNNL_ARG_DIFF_WEIGHTS_ITER], of_torch(layer_.grad_weight_hh, layer_.hidden_size)}});
    const memory& bias = backward_arguments_[DNNL_ARG_DIFF_BIAS];
    std::memcpy(layer_.grad_bias, bias.get_data_handle(), bias.get_desc().get_size());
  }

 private:
  memory allocated(const memory::desc& desc) const { return {desc, engine_}; }

  memory of_torch(const float* weight, memory::dim num_columns) const {
    return {described({1, 1, num_columns, 1, layer_.hidden_size}, Tag::ldgoi), engine_, const_cast<float*>(weight)};
  }

  void run(const std::vector<Copy>& copies) {
    for (const Copy& copy : copies) copy.run(stream_);
    stream_.wait();
  }

  void add_biases() {
    auto* sums = static_cast<float*>(bias_.get_data_handle());
    for (memory::dim k = 0; k < layer_.hidden_size; ++k) sums[k] = layer_.bias_ih[k] + layer_.bias_hh[k];
  }

  // Adds memory for the weights in the layouts that this primitive chose, and to `copies` what fills it.
  template <class Description>
  Arguments with_weights(Arguments arguments, const Description& primitive, std::vector<Copy>& copies) const {
    const auto add = [&](int name, const memory& weight, const memory::desc& chosen) {
      arguments[name] = allocated(chosen);
      copies.emplace_back(weight, arguments[name]);
    };
    add(DNNL_ARG_WEIGHTS_LAYER, weight_ih_, primitive.weights_layer_desc());
    add(DNNL_ARG_WEIGHTS_ITER, weight_hh_, primitive.weights_iter_desc());
    return arguments;
  }

  Layer layer_;
  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream_{engine_};
  memory weight_ih_, weight_hh_, bias_;
  dnnl::primitive inference_, training_, backward_;
  Arguments inference_arguments_, training_arguments_, backward_arguments_;
  std::vector<Copy> training_weights_;
};

}  // namespace

std::unique_ptr<Peer> make_peer(const Layer& layer) {
  // torch contains a oneDNN of its own, whose functions must not answer here.
  if (dnnl::version()->major != DNNL_VERSION_MAJOR) throw std::runtime_error("oneDNN is not that of its headers");
  return std::make_unique<OneDnn>(layer);
}
