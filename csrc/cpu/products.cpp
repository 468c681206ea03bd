#include "cpu/products.h"

#include <algorithm>
#include <cstring>

#include "cpu/dispatch.h"
#include "cpu/share.h"
#include "cpu/tuning.h"
#include "sizes.h"

namespace rnnfused {
namespace {

// The number of workers that should each make some columns of a projection and pack their part of the weight; 1 where
// workers should share the rows instead. Columns suit few rows, if the panels divide evenly.
int64_t column_workers(const ProjectionParams& params, const Workers& workers) {
  const int64_t panels = panel_count(params.dtype, params.out_size);
  const int64_t count =
      worker_count(product_of(params.rows, params.in_size, params.out_size), kMinWorkPerWorker, workers, panels);
  const int64_t rounded_up = (panels + count - 1) / count * count;
  return params.rows <= params.out_size && 8 * rounded_up <= 9 * panels ? count : 1;
}

}  // namespace

void run_packed_projection(const ProjectionParams& params, const PackedMatrix& weight, const Workers& workers) {
  const PackedBias bias(params.dtype, params.bias_ih, params.bias_hh, params.out_size);
  run_packed_projection(params, weight.data(), bias.data(), workers);
}

void run_packed_projection(const ProjectionParams& params, const void* weight, const void* bias,
                           const Workers& workers) {
  const CpuKernels& cpu = cpu_kernels();
  share_items(
      params.rows, product_of(params.rows, params.in_size, params.out_size),
      [&](int64_t) { return cpu.project_scratch_bytes(params); },
      [&](void* scratch, int64_t begin, int64_t end) { cpu.project(params, weight, bias, scratch, begin, end); },
      workers);
}

void run_projection(const ProjectionParams& params, const Workers& workers) {
  if (params.rows == 0 || params.out_size == 0) return;
  check_work(product_of(params.rows, params.in_size, params.out_size));
  const int64_t count = column_workers(params, workers);
  if (count > 1) {
    const int64_t panels = panel_count(params.dtype, params.out_size);
    const int64_t panel_columns = cpu_kernels().panel_columns(params.dtype);
    const Parts parts(panels, count);
    return workers.run(count, [&](int64_t i) {
      const int64_t end = std::min(parts.begin(i + 1) * panel_columns, params.out_size);
      run_projection(params.columns(parts.begin(i) * panel_columns, end), Workers());
    });
  }
  const PackedMatrix weight(params.dtype, params.weight, params.in_size, params.out_size, workers);
  run_packed_projection(params, weight, workers);
}

void run_product_sum(const ProductSumParams& params, const Workers& workers) {
  const CpuKernels& cpu = cpu_kernels();
  if (params.left_size == 0 || params.right_size == 0) return;
  if (params.outer == 0 || params.inner == 0) {
    const int64_t bytes = params.left_size * params.right_size * bytes_of(sum_dtype(params.dtype));
    if (!params.adds) std::memset(params.result, 0, bytes);
    return;
  }
  const int64_t work = product_of(params.outer, params.inner, params.left_size, params.right_size);
  check_work(work);
  share_items(
      params.left_size, work, [&](int64_t) { return cpu.sum_scratch_bytes(params); },
      [&](void* scratch, int64_t begin, int64_t end) { cpu.sum_products(params, scratch, begin, end); }, workers);
}

void run_token_sum(const TokenSumParams& params, const Workers& workers) {
  share_items((params.size + kTokenSumColumns - 1) / kTokenSumColumns,
              product_of(params.outer, params.inner, params.size), [](int64_t) -> int64_t { return 0; },
              [&](void*, int64_t begin, int64_t end) {
                cpu_kernels().sum_tokens(params, begin * kTokenSumColumns,
                                         std::min(end * kTokenSumColumns, params.size));
              },
              workers);
}

}  // namespace rnnfused
