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

PackedMatrix::PackedMatrix(Dtype dtype, const ConstMatrix& matrix, int64_t depth, int64_t columns,
                           const Workers& workers) {
  const CpuKernels& cpu = cpu_kernels();
  memory_.allocate(cpu.packed_bytes(dtype, depth, columns));
  const int64_t panels = panel_count(dtype, columns);
  const int64_t packers = worker_count(product_of(depth, columns), kMinPackPerWorker, workers, panels);
  const Parts parts(panels, packers);
  workers.run(packers, [&](int64_t i) {
    cpu.pack(dtype, matrix, depth, columns, memory_.get(), parts.begin(i), parts.begin(i + 1));
  });
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
  const CpuKernels& cpu = cpu_kernels();
  const int64_t bytes = cpu.packed_bytes(sum_dtype(dtype), 1, columns);
  memory_.allocate(bytes);
  std::memset(memory_.get(), 0, bytes);
  if (bias_ih) cpu.to_sums(dtype, bias_ih, memory_.get(), columns, false);
  if (bias_hh) cpu.to_sums(dtype, bias_hh, memory_.get(), columns, true);
}

}  // namespace rnnfused
