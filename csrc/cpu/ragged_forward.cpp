#include <cstring>
#include <optional>

#include "cpu/memory.h"
#include "cpu/packed.h"
#include "cpu/part_size.h"
#include "cpu/products.h"
#include "cpu/ragged.h"
#include "cpu/ragged_layer.h"
#include "cpu/recurrence.h"
#include "cpu/share.h"
#include "sizes.h"

namespace rnnfused {
namespace {

// Copies the first states to `states`, where rows that start after the first part find them.
void copy_first_states(const ForwardParams& batch, const State& states) {
  const int64_t item_bytes = bytes_of(batch.dtype), bytes = batch.hidden_size * item_bytes;
  for (int64_t i = 0; i < batch.rows_in_step(0); ++i) {
    const int64_t row = batch.state_row(i);
    void* const to = skip(states, row * states.batch_stride, item_bytes).data;
    if (batch.h_0.data) {
      std::memcpy(to, skip(batch.h_0, row * batch.h_0.batch_stride, item_bytes).data, bytes);
    } else {
      std::memset(to, 0, bytes);
    }
  }
}

}  // namespace

void run_ragged_forward(const ForwardParams& batch, Workers workers) {
  check_work(loop_work(batch));
  const int64_t hidden = batch.hidden_size, inputs = batch.input_size;
  const int64_t item_bytes = bytes_of(batch.dtype), sum_bytes = bytes_of(sum_dtype(batch.dtype));
  // Heads pack their weights in each call of the loop: they run once.
  const RaggedParts parts(batch, batch.num_heads > 1 ? kTooLarge : projected_rows(batch, workers));
  Memory input(product_of(parts.most_rows, inputs, item_bytes)),
      projections(product_of(parts.most_rows, hidden, sum_bytes));
  Memory last_states(parts.count() > 1 && !batch.h_n.data ? product_of(batch.batch_size, hidden, item_bytes) : 0);
  const State states = batch.h_n.data ? batch.h_n : State{last_states.get(), hidden};
  if (parts.count() > 1 && batch.reverse) copy_first_states(batch, states);
  std::optional<PackedMatrix> weight_hh, weight_ih;
  PackedWeights weights;
  if (parts.count() > 1) {
    weight_hh.emplace(batch.dtype, transposed(batch.weight_hh), hidden, hidden, workers);
    weight_ih.emplace(batch.dtype, transposed(batch.weight_ih), inputs, hidden, workers);
    weights.hh = weight_hh->data();
  }
  for (int64_t i = 0; i < parts.count(); ++i) {
    const int64_t at = batch.reverse ? parts.count() - 1 - i : i;
    const RaggedPart part(batch, parts.starts[at], parts.starts[at + 1]);
    ProjectionParams product;
    product.rows = part.rows();
    product.in_size = inputs;
    product.out_size = hidden;
    product.dtype = batch.dtype;
    product.weight = transposed(batch.weight_ih);
    product.bias_ih = batch.bias_ih;
    product.bias_hh = batch.bias_hh;
    product.keeps_sums = true;
    product.output = {projections.get(), hidden};
    if (part.lies_in_order()) {
      product.input = part.in_order(batch.input, item_bytes);
    } else {
      part.gather(batch.input, inputs, item_bytes, input.get(), workers);
      product.input = {input.get(), inputs};
    }
    ForwardParams loop = batch;
    part.take(loop, !batch.reverse);
    loop.rows_after = 0;  // the rows' states pass to the next part as if they ended here
    loop.bias_ih = loop.bias_hh = nullptr;
    loop.input_size = 0;
    loop.projections_are_sums = true;
    loop.projections = {projections.get(), hidden, hidden};
    loop.output = part.of(batch.output, item_bytes);
    if (parts.count() == 1) {
      run_projection(product, workers);
      return run_forward(loop, workers);
    }
    loop.h_n = states;
    if (i > 0) loop.h_0 = {states.data, states.batch_stride};
    run_packed_projection(product, *weight_ih, workers);
    // On a busy machine the rest runs on one worker.
    if (run_packed_forward(loop, weights, workers)) workers.count = 1;
  }
}

}  // namespace rnnfused
