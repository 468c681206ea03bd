#include "cuda/kernels.cuh"

namespace rnnfused {
namespace cuda {

const CudaKernels kFloat32Kernels = make_kernels<float, Fma<float>>();

}  // namespace cuda
}  // namespace rnnfused
