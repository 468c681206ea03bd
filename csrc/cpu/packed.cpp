#include "cpu/packed.h"

#include <algorithm>
#include <cstring>

#include "cpu/dispatch.h"
#include "cpu/share.h"
#include "cpu/tuning.h"
#include "sizes.h"

namespace rnnfused {

int64_t panel_count(Dtype dtype, int64_t columns) {
  const int64_t panel_columns = cpu_kernels().panel_columns(dtype);
  return (columns + panel_columns - 1) / panel_columns;
}

void pack_matrix(Dtype dtype, const ConstMatrix& matrix, int64_t depth, int64_t columns, void* packed,
                 const Workers& workers) {
  const int64_t panels = panel_count(dtype, columns);
  const int64_t packers = worker_count(product_of(depth, columns), kMinPackPerWorker, workers, panels);
  const Parts parts(panels, packers);
  workers.run(packers, [&](int64_t i) {
    cpu_kernels().pack(dtype, matrix, depth, columns, packed, parts.begin(i), parts.begin(i + 1));
  });
}

void pack_bias(Dtype dtype, const void* bias_ih, const void* bias_hh, int64_t columns, void* packed) {
  if (bias_ih) cpu_kernels().to_sums(dtype, bias_ih, packed, columns, false);
  if (bias_hh) cpu_kernels().to_sums(dtype, bias_hh, packed, columns, bias_ih != nullptr);
}

PackedMatrix::PackedMatrix(Dtype dtype, const ConstMatrix& matrix, int64_t depth, int64_t columns,
                           const Workers& workers) {
  memory_.allocate(cpu_kernels().packed_bytes(dtype, depth, columns));
  pack_matrix(dtype, matrix, depth, columns, memory_.get(), workers);
}

WorkerWeights::WorkerWeights(const RecurrenceParams& params, int64_t input_size, const void* packed_bias)
    : hh_(cpu_kernels().packed_bytes(params.dtype, params.hidden_size, params.hidden_size)),
      has_panel_(panel_count(params.dtype, params.hidden_size)) {
  bool* const has_panel = reinterpret_cast<bool*>(has_panel_.get());
  std::memset(has_panel, false, panel_count(params.dtype, params.hidden_size));
  if (input_size > 0) ih_.allocate(cpu_kernels().packed_bytes(params.dtype, input_size, params.hidden_size));
  weights_ = {hh_.get(), ih_.get(), packed_bias, has_panel};
}

PackedBias::PackedBias(Dtype dtype, const void* bias_ih, const void* bias_hh, int64_t columns) {
  if (!bias_ih && !bias_hh) return;
  const int64_t bytes = cpu_kernels().packed_bytes(sum_dtype(dtype), 1, columns);
  memory_.allocate(bytes);
  std::memset(memory_.get(), 0, bytes);
  pack_bias(dtype, bias_ih, bias_hh, columns, memory_.get());
}

}  // namespace rnnfused
