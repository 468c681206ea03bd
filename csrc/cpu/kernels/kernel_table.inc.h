// Fills a CpuKernels table with the kernels of this folder, for the instruction set of the including file and in the
// namespace that it names in RNNFUSED_ISA. Code in this folder defines nothing outside that namespace and uses no
// templates of the standard library: of several copies the linker could keep the one for AVX-512
// (tests/kernels/test_instruction_sets.py).
#include "cpu/kernel_table.h"
#include "cpu/kernels/backward.h"
#include "cpu/kernels/cross_entropy.h"
#include "cpu/kernels/forward.h"
#include "cpu/kernels/generate.h"
#include "cpu/kernels/pack.h"
#include "cpu/kernels/product_sum.h"
#include "cpu/kernels/project.h"
#include "cpu/kernels/scan.h"
#include "cpu/kernels/tanh.h"
#include "cpu/kernels/token_sum.h"
#include "cpu/tuning.h"

namespace rnnfused {
namespace RNNFUSED_ISA {

template <class Function>
RNNFUSED_INLINE auto for_dtype(Dtype dtype, const Function& function) {
  return dtype == Dtype::float32   ? function(float())
         : dtype == Dtype::float64 ? function(double())
         : dtype == Dtype::float16 ? function(Float16())
                                   : function(Bfloat16());
}

static int64_t packed_bytes(Dtype dtype, int64_t depth, int64_t columns) {
  return for_dtype(dtype, [&](auto zero) -> int64_t { return packed_bytes<decltype(zero)>(depth, columns); });
}

static int64_t panel_columns(Dtype dtype) {
  return for_dtype(dtype, [&](auto zero) -> int64_t { return kPanelColumns<decltype(zero)>; });
}

static void pack(Dtype dtype, const ConstMatrix& matrix, int64_t depth, int64_t columns, void* packed, int64_t begin,
                 int64_t end) {
  for_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    pack_panels<T>(matrix, depth, columns, static_cast<Operand<T>*>(packed), begin, end);
  });
}

static int64_t forward_scratch_bytes(const ForwardParams& params, int64_t rows, int64_t members) {
  return for_dtype(params.dtype, [&](auto zero) -> int64_t {
    using T = decltype(zero);
    const int64_t inputs = product_of(members, input_elements<T>(params, rows));
    return product_of(scratch_elements<T>(params.hidden_size, rows) + inputs, sizeof(Operand<T>));
  });
}

static int64_t backward_scratch_bytes(const BackwardParams& params, int64_t rows) {
  return for_dtype(params.dtype, [&](auto zero) -> int64_t {
    using T = decltype(zero);
    return product_of(scratch_elements<T>(params.hidden_size, rows), sizeof(Operand<T>));
  });
}

// The loop makes the projections of token ids, which need no product. It does not make those of few rows, which share
// too little of each read of W_ih, unless the work is small; nor where W_ih would evict W_hh from L2; nor of rows
// that every step would convert again.
static bool projects(const ForwardParams& params) {
  if (params.ids.data) return true;
  if (params.input_size == 0) return false;
  return for_dtype(params.dtype, [&](auto zero) {
    using T = decltype(zero);
    const int64_t work = product_of(params.num_steps, params.batch_size, params.input_size, params.hidden_size);
    return !kConverts<T> && (params.batch_size >= kMinFusedRows || work <= kMaxFusedWork) &&
           (fits_l2<T>(params.hidden_size + params.input_size, params.hidden_size) ||
            !fits_l2<T>(params.hidden_size, params.hidden_size));
  });
}

static void forward(const ForwardParams& params, const PackedWeights& weights, void* scratch, int64_t begin,
                    int64_t end, const Member& member) {
  for_dtype(params.dtype, [&](auto zero) {
    using T = decltype(zero);
    forward_rows<T>(params, weights, static_cast<Operand<T>*>(scratch), begin, end, member);
  });
}

static void backward(const BackwardParams& params, const PackedWeights& weights, void* scratch, int64_t begin,
                     int64_t end, const Member& member) {
  for_dtype(params.dtype, [&](auto zero) {
    using T = decltype(zero);
    backward_rows<T>(params, weights, static_cast<Operand<T>*>(scratch), begin, end, member);
  });
}

template <class Params>
static int64_t scratch_bytes(const Params& params) {
  return for_dtype(params.dtype, [&](auto zero) -> int64_t {
    using T = decltype(zero);
    return product_of(scratch_elements<T>(params), sizeof(Operand<T>));
  });
}

static void project(const ProjectionParams& params, const void* packed_weight, const void* packed_bias, void* scratch,
                    int64_t begin, int64_t end) {
  for_dtype(params.dtype, [&](auto zero) {
    using T = decltype(zero);
    const auto run = params.keeps_sums ? &project_rows<T, Sum<T>> : &project_rows<T, T>;
    run(params, static_cast<const Operand<T>*>(packed_weight), static_cast<const Sum<T>*>(packed_bias),
        static_cast<Operand<T>*>(scratch), begin, end);
  });
}

static void sum_products(const ProductSumParams& params, void* scratch, int64_t begin, int64_t end) {
  for_dtype(params.dtype, [&](auto zero) {
    using T = decltype(zero);
    sum_products<T>(params, static_cast<Operand<T>*>(scratch), begin, end);
  });
}

static void sum_tokens(const TokenSumParams& params, int64_t begin, int64_t end) {
  for_dtype(params.dtype, [&](auto zero) {
    using T = decltype(zero);
    params.is_transposed ? sum_tokens_transposed<T>(params, begin, end) : sum_tokens<T>(params, begin, end);
  });
}

static void cross_entropy(const CrossEntropyRowsParams& params, int64_t begin, int64_t end) {
  for_dtype(params.dtype, [&](auto zero) { cross_entropy_rows<decltype(zero)>(params, begin, end); });
}

static void to_sums(Dtype dtype, const void* values, void* sums, int64_t n, bool adds) {
  for_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    const auto run = adds ? &add_row<T, Sum<T>> : &copy_row<T, Sum<T>>;
    run(static_cast<const T*>(values), static_cast<Sum<T>*>(sums), n);
  });
}

static void from_sums(Dtype dtype, const void* sums, void* values, int64_t n) {
  for_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    copy_row(static_cast<const Sum<T>*>(sums), static_cast<T*>(values), n);
  });
}

static int64_t multiply_add(int64_t rounds, float* result) {
  constexpr int kSums = kMaxTileVectors < 24 ? 12 : 24;
  Vector<float> sums[kSums];
#pragma GCC unroll 24
  for (int i = 0; i < kSums; ++i) sums[i] = splat(1.0f + i);
  const Vector<float> factor = splat(0.999f), addend = splat(0.001f);
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 24
    for (int i = 0; i < kSums; ++i) sums[i] = fma(sums[i], factor, addend);
  }
#pragma GCC unroll 24
  for (int i = 1; i < kSums; ++i) sums[0] += sums[i];
  *result = sums[0][0];
  return rounds * kSums * kLanes<float>;
}

static void tanh_array(Dtype dtype, const void* in, void* out, int64_t n) {
  for_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* from = static_cast<const T*>(in);
    T* to = static_cast<T*>(out);
    int64_t i = 0;
    for (; i + kLanes<T> <= n; i += kLanes<T>) store(to + i, rounded<T>(tanh(load(from + i))));
    if (i < n) store_first(to + i, rounded<T>(tanh(load_first(from + i, n - i))), n - i);
  });
}

static int64_t generate_scratch_bytes(const GeneratorSizes& sizes, int64_t rows) {
  return for_dtype(sizes.dtype, [&](auto zero) { return generate_scratch_bytes<decltype(zero)>(sizes, rows); });
}

static void generate(const GenerateParams& params, void* scratch, int64_t begin, int64_t end, ChooseSymbol choose,
                     void* context) {
  for_dtype(params.weights.sizes.dtype, [&](auto zero) {
    using T = decltype(zero);
    const auto run = params.nonlinearity == Nonlinearity::tanh ? &generate_blocks<Nonlinearity::tanh, T>
                                                               : &generate_blocks<Nonlinearity::relu, T>;
    run(params, static_cast<char*>(scratch), begin, end, choose, context);
  });
}

static int64_t largest(Dtype dtype, const void* logits, int64_t n) {
  return dtype == Dtype::float64 ? largest_of(static_cast<const double*>(logits), n)
                                 : largest_of(static_cast<const float*>(logits), n);
}

static void weigh(Dtype dtype, void* logits, int64_t n, double largest, double factor) {
  if (dtype == Dtype::float64) return weigh<double>(static_cast<double*>(logits), n, largest, factor);
  weigh<float>(static_cast<float*>(logits), n, static_cast<float>(largest), static_cast<float>(factor));
}

static const CpuKernels kKernels = {
    RNNFUSED_ISA_NAME,
    packed_bytes,
    panel_columns,
    pack,
    forward_scratch_bytes,
    backward_scratch_bytes,
    projects,
    forward,
    backward,
    scratch_bytes<ProjectionParams>,
    project,
    scratch_bytes<ProductSumParams>,
    sum_products,
    sum_tokens,
    cross_entropy,
    to_sums,
    from_sums,
    multiply_add,
    tanh_array,
    generate_scratch_bytes,
    generate,
    largest,
    weigh,
};

}  // namespace RNNFUSED_ISA
}  // namespace rnnfused
