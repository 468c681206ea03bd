#include "cuda/kernels.cuh"

namespace rnnfused {
namespace cuda {

const CudaKernels kFloat16Kernels = make_kernels<__half, Mma<__half>>();

}  // namespace cuda
}  // namespace rnnfused
