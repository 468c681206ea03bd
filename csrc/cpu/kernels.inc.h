// Fills a CpuKernels table from the sources of this folder, for the instruction set that the including
// file is compiled for and under the namespace that it names in RNNFUSED_ISA. Nothing here may use the
// standard library's templates: a copy compiled for AVX-512 could be the one that the linker keeps.
#include "backward.h"
#include "forward.h"
#include "kernels.h"
#include "pack.h"
#include "scan.h"
#include "tanh.h"

namespace rnnfused {
namespace RNNFUSED_ISA {

template <class Function>
RNNFUSED_INLINE auto for_dtype(Dtype dtype, const Function& function) {
  return dtype == Dtype::float32 ? function(float()) : function(double());
}

static int64_t packed_bytes(const Recurrence& call) {
  return for_dtype(call.dtype, [&](auto zero) -> int64_t {
    return packed_elements<decltype(zero)>(call.hidden_size) * sizeof zero;
  });
}

static int64_t scratch_bytes(const Recurrence& call, int64_t rows) {
  return for_dtype(call.dtype, [&](auto zero) -> int64_t {
    return scratch_elements<decltype(zero)>(call.hidden_size, rows) * sizeof zero;
  });
}

static int64_t num_panels(const Recurrence& call) {
  return for_dtype(call.dtype, [&](auto zero) {
    return count_panels<decltype(zero)>(call.hidden_size);
  });
}

static void pack(const Recurrence& call, bool transposed, void* packed, int64_t begin, int64_t end) {
  for_dtype(call.dtype, [&](auto zero) {
    pack_panels(call, transposed, static_cast<decltype(zero)*>(packed), begin, end);
  });
}

static void forward(const Forward& call, const void* packed, void* scratch, int64_t begin, int64_t end) {
  for_dtype(call.dtype, [&](auto zero) {
    using T = decltype(zero);
    forward_rows(call, static_cast<const T*>(packed), static_cast<T*>(scratch), begin, end);
  });
}

static void backward(const Backward& call, const void* packed, void* scratch, int64_t begin,
                     int64_t end) {
  for_dtype(call.dtype, [&](auto zero) {
    using T = decltype(zero);
    backward_rows(call, static_cast<const T*>(packed), static_cast<T*>(scratch), begin, end);
  });
}

static void tanh_array(Dtype dtype, const void* in, void* out, int64_t n) {
  for_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* from = static_cast<const T*>(in);
    T* to = static_cast<T*>(out);
    int64_t i = 0;
    for (; i + kLanes<T> <= n; i += kLanes<T>) store(to + i, tanh(load(from + i)));
    if (i < n) store_first(to + i, tanh(load_first(from + i, n - i)), n - i);
  });
}

static const CpuKernels kKernels = {
    RNNFUSED_ISA_NAME, packed_bytes, scratch_bytes, num_panels, pack, forward, backward, tanh_array,
};

}  // namespace RNNFUSED_ISA
}  // namespace rnnfused
