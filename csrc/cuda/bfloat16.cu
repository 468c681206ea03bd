#include "cuda/kernels.cuh"

namespace rnnfused {
namespace cuda {

const CudaKernels kBfloat16Kernels = make_kernels<__nv_bfloat16, Mma<__nv_bfloat16>>();

}  // namespace cuda
}  // namespace rnnfused
