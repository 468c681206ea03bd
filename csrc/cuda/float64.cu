#include "cuda/kernels.cuh"

namespace rnnfused {
namespace cuda {

const CudaKernels kFloat64Kernels = make_kernels<double, Fma<double>>();

}  // namespace cuda
}  // namespace rnnfused
