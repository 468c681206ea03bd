#include "cuda/kernels.cuh"

namespace rnnfused {
namespace cuda {

const CudaKernels kFloat64Kernels = make_kernels<double, SendsWords<Fma<double>>>();

}  // namespace cuda
}  // namespace rnnfused
