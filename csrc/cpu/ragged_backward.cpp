#include <algorithm>
#include <cstring>
#include <optional>

#include "cpu/dispatch.h"
#include "cpu/gradient_sums.h"
#include "cpu/memory.h"
#include "cpu/packed.h"
#include "cpu/products.h"
#include "cpu/ragged.h"
#include "cpu/ragged_layer.h"
#include "cpu/recurrence.h"
#include "cpu/share.h"
#include "cpu/tuning.h"
#include "sizes.h"

namespace rnnfused {
namespace {

// The backward pass of a ragged layer, part by part.
class RaggedBackward {
 public:
  RaggedBackward(const LayerBackwardParams& layer, const Workers& workers)
      : layer_(layer),
        loop_(layer.loop),
        hidden_(layer.loop.hidden_size),
        item_bytes_(layer.item_bytes()),
        workers_(workers),
        sums_(layer, true) {
    const int64_t row_bytes = hidden_ * item_bytes_;
    // Heads pack their weights in each call of the loop: they run once.
    if (loop_.num_heads > 1) return;
    part_rows_ = std::max(kPartBytes / row_bytes, kStripRows);
  }

  void run() {
    const RaggedParts parts(loop_, part_rows_);
    if (parts.count() == 0) return GradientSums::clear(layer_);
    const int64_t most_size = std::max(hidden_, layer_.ids.data ? 0 : layer_.input_size);
    Memory d(product_of(parts.most_rows, hidden_, item_bytes_));
    Memory others(product_of(parts.most_rows, std::max(product_of(most_size, item_bytes_), int64_t{sizeof(int64_t)})));
    Memory d_after(parts.count() > 1 ? product_of(loop_.batch_size, hidden_, item_bytes_) : 0);
    if (parts.count() > 1) {
      std::memset(d_after.get(), 0, loop_.batch_size * hidden_ * item_bytes_);
      pack();
    }
    for (int64_t i = 0; i < parts.count(); ++i) {
      const int64_t at = loop_.reverse ? i : parts.count() - 1 - i;
      const RaggedPart part(loop_, parts.starts[at], parts.starts[at + 1]);
      run_loop(part, d.get(), i > 0 ? d_after.get() : nullptr);
      if (i + 1 < parts.count()) {
        const int64_t last = loop_.reverse ? parts.starts[at + 1] - 1 : parts.starts[at];
        part.copy_step(last, d.get(), hidden_ * item_bytes_, d_after.get());
      }
      if (loop_.grad_projections.data) part.scatter(d.get(), hidden_, item_bytes_, loop_.grad_projections, workers_);
      add_sums(part, d.get(), others.get());
      make_input_gradient(part, d.get(), others.get());
    }
    sums_.write(layer_, workers_);
  }

 private:
  void pack() {
    if (weight_hh_) return;
    weight_hh_.emplace(loop_.dtype, loop_.weight_hh, hidden_, hidden_, workers_);
    if (layer_.gradients.input.data) {
      weight_ih_.emplace(loop_.dtype, layer_.weight_ih, hidden_, layer_.input_size, workers_);
    }
  }

  void run_loop(const RaggedPart& part, void* d, const void* d_after) {
    BackwardParams loop = loop_;
    part.take(loop, loop_.reverse);
    loop.grad_output = part.of(loop_.grad_output, item_bytes_);
    loop.output = part.of(loop_.output, item_bytes_);
    loop.grad_projections = {d, hidden_, hidden_};
    loop.d_after = {d_after, hidden_};
    if (!weight_hh_) return run_backward(loop, workers_);
    PackedWeights weights;
    weights.hh = weight_hh_->data();
    // On a busy machine the rest runs on one worker.
    if (run_packed_backward(loop, weights, workers_)) workers_.count = 1;
  }

  // Adds the part to the gradients of weights.
  void add_sums(const RaggedPart& part, const void* d, void* memory) {
    const LayerGradients& to = sums_.sums();
    if (to.weight_ih && layer_.ids.data) {
      part.gather({layer_.ids.data, layer_.ids.time_stride, layer_.ids.batch_stride}, 1, sizeof(int64_t), memory,
                  workers_);
      TokenSumParams sum;
      sum.outer = 1;
      sum.inner = part.rows();
      sum.size = hidden_;
      sum.num_tokens = layer_.input_size;
      sum.dtype = loop_.dtype;
      sum.rows = {d, 0, hidden_};
      sum.ids = static_cast<const int64_t*>(memory);
      sum.ids_inner_stride = 1;
      sum.result = to.weight_ih;
      sum.is_transposed = !to.by_token;
      sum.adds = adds_;
      run_token_sum(sum, workers_);
    } else if (to.weight_ih) {
      ConstState input = {memory, layer_.input_size};
      if (part.lies_in_order()) {
        input = part.in_order(layer_.input, item_bytes_);
      } else {
        part.gather(layer_.input, layer_.input_size, item_bytes_, memory, workers_);
      }
      add_sum(part, {d, hidden_}, hidden_, input, layer_.input_size, to.weight_ih);
    }
    if (to.bias) add_sum(part, {one_of(loop_.dtype), 0}, 1, {d, hidden_}, hidden_, to.bias);
    if (to.weight_hh) {
      part.gather_states_before(loop_.output, layer_.h_0, loop_.reverse, hidden_, item_bytes_, memory, workers_);
      const int64_t size = hidden_ / loop_.num_heads, sum_bytes = bytes_of(sum_dtype(loop_.dtype));
      for (int64_t first = 0; first < hidden_; first += size) {
        add_sum(part, skip(ConstState{d, hidden_}, first, item_bytes_), size,
                skip(ConstState{memory, hidden_}, first, item_bytes_), size,
                static_cast<char*>(to.weight_hh) + first * size * sum_bytes);
      }
    }
    adds_ = true;
  }

  void add_sum(const RaggedPart& part, const ConstState& left, int64_t left_size, const ConstState& right,
               int64_t right_size, void* result) {
    ProductSumParams sum;
    sum.outer = 1;
    sum.inner = part.rows();
    sum.left_size = left_size;
    sum.right_size = right_size;
    sum.dtype = loop_.dtype;
    sum.left = {left.data, 0, left.batch_stride};
    sum.right = {right.data, 0, right.batch_stride};
    sum.result = result;
    sum.adds = adds_;
    run_product_sum(sum, workers_);
  }

  void make_input_gradient(const RaggedPart& part, const void* d, void* memory) {
    const Sequence& to = layer_.gradients.input;
    if (!to.data) return;
    ProjectionParams product;
    product.rows = part.rows();
    product.in_size = hidden_;
    product.out_size = layer_.input_size;
    product.dtype = loop_.dtype;
    product.weight = layer_.weight_ih;
    product.input = {d, hidden_};
    product.output = part.lies_in_order() ? part.in_order(to, item_bytes_) : State{memory, layer_.input_size};
    if (weight_ih_) {
      run_packed_projection(product, *weight_ih_, workers_);
    } else {
      run_projection(product, workers_);
    }
    if (!part.lies_in_order()) part.scatter(memory, layer_.input_size, item_bytes_, to, workers_);
  }

  const LayerBackwardParams& layer_;
  const BackwardParams& loop_;
  const int64_t hidden_, item_bytes_;
  Workers workers_;
  GradientSums sums_;
  int64_t part_rows_ = kTooLarge;
  std::optional<PackedMatrix> weight_hh_, weight_ih_;  // packed once for several parts
  bool adds_ = false;
};

}  // namespace

void run_ragged_backward(const LayerBackwardParams& layer, Workers workers) {
  check_work(loop_work(layer.loop));
  RaggedBackward(layer, workers).run();
}

}  // namespace rnnfused
