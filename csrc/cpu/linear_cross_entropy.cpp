#include "cpu/linear_cross_entropy.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "cpu/dispatch.h"
#include "cpu/memory.h"
#include "cpu/packed.h"
#include "cpu/share.h"
#include "cpu/tuning.h"
#include "sizes.h"

namespace rnnfused {
namespace {

// The distance between rows of logits, in elements: whole cache lines of the wider type, and no multiple of
// kAliasBytes.
int64_t logits_stride(int64_t num_classes, int64_t bytes) {
  const int64_t line = kCacheLine / 2;
  const int64_t stride = (num_classes + line - 1) / line * line;
  return stride * bytes % kAliasBytes == 0 ? stride + line : stride;
}

// The products of one chunk of rows: logits, their gradient, and sums of gradients.
class Chunk {
 public:
  Chunk(const LinearCrossEntropyParams& params, const Workers& workers)
      : params_(params),
        dtype_(params.rows.dtype),
        needs_grads_(params.grad_hidden.data || params.grad_weight || params.grad_bias),
        stride_(logits_stride(params.rows.num_classes, bytes_of(dtype_))),
        row_bytes_(product_of(stride_, bytes_of(sum_dtype(dtype_)))),
        bias_(dtype_, params.bias, nullptr, params.rows.num_classes),
        to_logits_(dtype_, transposed(params.weight), params.hidden_size, params.rows.num_classes, workers) {
    if (params.grad_hidden.data) {
      to_hidden_.emplace(dtype_, params.weight, params.rows.num_classes, params.hidden_size, workers);
    }
    logits_.allocate(product_of(size(), row_bytes_));
    if (needs_grads_ && rounds()) grads_.allocate(product_of(size(), stride_, bytes_of(dtype_)));
  }

  // The most rows of a chunk.
  int64_t size() const {
    const int64_t rows = std::clamp(kLogitsBytes / row_bytes_, kMinLogitsRows, kMaxLogitsRows);
    return std::min(rows, std::max<int64_t>(params_.num_rows, 1));
  }

  void run(int64_t begin, int64_t end, bool adds, const Workers& workers) {
    const int64_t rows = end - begin, bytes = bytes_of(dtype_), sum_bytes = bytes_of(sum_dtype(dtype_));
    const int64_t classes = params_.rows.num_classes, work = product_of(rows, params_.hidden_size, classes);
    const ConstState hidden = skip(params_.hidden, begin * params_.hidden.batch_stride, bytes);

    ProjectionParams logits;
    logits.rows = rows;
    logits.in_size = params_.hidden_size;
    logits.out_size = classes;
    logits.dtype = dtype_;
    logits.input = hidden;
    logits.output = {logits_.get(), stride_};
    logits.keeps_sums = true;
    logits.pads = true;  // see logits_stride

    CrossEntropyRowsParams loss = params_.rows;
    loss.logits = logits.output;
    loss.targets += begin;
    loss.losses = skip(State{loss.losses}, begin, sum_bytes).data;
    loss.row_scales = skip(ConstState{loss.row_scales}, begin, sum_bytes).data;
    if (needs_grads_) loss.grad_logits = rounds() ? State{grads_.get(), stride_} : logits.output;

    ProjectionParams grad_hidden;
    grad_hidden.rows = rows;
    grad_hidden.in_size = classes;
    grad_hidden.out_size = params_.hidden_size;
    grad_hidden.dtype = dtype_;
    grad_hidden.input = {loss.grad_logits.data, stride_};
    grad_hidden.output = skip(params_.grad_hidden, begin * params_.grad_hidden.batch_stride, bytes);

    const CpuKernels& cpu = cpu_kernels();
    const auto scratch_bytes = [&](int64_t) {
      return std::max(cpu.project_scratch_bytes(logits), cpu.project_scratch_bytes(grad_hidden));
    };
    const auto run_rows = [&](void* scratch, int64_t first, int64_t last) {
      // A block's logits stay in L1 or L2 from one product to the next.
      const int64_t block = std::max(kLogitsBlockBytes / row_bytes_, kMinBlockRows);
      for (; first < last; first += block) {
        const int64_t stop = std::min(first + block, last);
        cpu.project(logits, to_logits_.data(), bias_.data(), scratch, first, stop);
        cpu.cross_entropy(loss, first, stop);
        if (to_hidden_) cpu.project(grad_hidden, to_hidden_->data(), nullptr, scratch, first, stop);
      }
    };
    share_items(rows, 2 * work, scratch_bytes, run_rows, workers);
    if (params_.grad_weight || params_.grad_bias) add_sums(hidden, loss.grad_logits, rows, adds, workers);
  }

 private:
  bool rounds() const { return sum_dtype(dtype_) != dtype_; }

  // Adds the products of dz with the hidden states, and the sum of dz.
  void add_sums(const ConstState& hidden, const State& grad_logits, int64_t rows, bool adds,
                const Workers& workers) const {
    const CpuKernels& cpu = cpu_kernels();
    ProductSumParams weight;
    weight.outer = 1;
    weight.inner = rows;
    weight.left_size = params_.rows.num_classes;
    weight.right_size = params_.hidden_size;
    weight.dtype = dtype_;
    weight.left = {grad_logits.data, 0, grad_logits.batch_stride};
    weight.right = {hidden.data, 0, hidden.batch_stride};
    weight.adds = adds;
    ProductSumParams bias = weight;
    bias.left_size = 1;
    bias.right_size = params_.rows.num_classes;
    bias.left = {one_of(dtype_), 0, 0};
    bias.right = weight.left;
    bias.result = params_.grad_bias;
    weight.result = params_.grad_weight;
    if (params_.grad_is_transposed) {
      std::swap(weight.left, weight.right);
      std::swap(weight.left_size, weight.right_size);
    }
    share_items(
        weight.left_size, product_of(rows, weight.left_size, weight.right_size),
        [&](int64_t) { return std::max(cpu.sum_scratch_bytes(weight), cpu.sum_scratch_bytes(bias)); },
        [&](void* scratch, int64_t begin, int64_t end) {
          if (weight.result) cpu.sum_products(weight, scratch, begin, end);
          // The last worker has the fewest columns.
          if (bias.result && end == weight.left_size) cpu.sum_products(bias, scratch, 0, 1);
        },
        workers);
  }

  const LinearCrossEntropyParams& params_;
  const Dtype dtype_;
  const bool needs_grads_;
  const int64_t stride_, row_bytes_;
  PackedBias bias_;
  PackedMatrix to_logits_;
  std::optional<PackedMatrix> to_hidden_;
  Memory logits_, grads_;
};

}  // namespace

void run_linear_cross_entropy(const LinearCrossEntropyParams& params, const Workers& workers) {
  if (params.num_rows == 0) {
    const int64_t bytes = bytes_of(sum_dtype(params.rows.dtype)), classes = params.rows.num_classes;
    if (params.grad_weight) std::memset(params.grad_weight, 0, product_of(classes, params.hidden_size, bytes));
    if (params.grad_bias) std::memset(params.grad_bias, 0, product_of(classes, bytes));
    return;
  }
  check_work(product_of(params.num_rows, params.hidden_size, params.rows.num_classes));
  Chunk chunk(params, workers);
  const int64_t chunks = (params.num_rows + chunk.size() - 1) / chunk.size();
  const Parts parts(params.num_rows, chunks);
  for (int64_t i = 0; i < chunks; ++i) chunk.run(parts.begin(i), parts.begin(i + 1), i > 0, workers);
}

}  // namespace rnnfused
