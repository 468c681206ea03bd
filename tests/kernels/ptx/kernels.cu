// Instantiates the kernels of one dtype: -DSTORED=float -DPRODUCT=Fma -DDEPTHS=8,16.
#include "products.cuh"

namespace rnnfused {
namespace cuda {

extern const CudaKernels kKernels;
const CudaKernels kKernels = make_kernels<STORED, Only<PRODUCT<STORED>, DEPTHS>>();

}  // namespace cuda
}  // namespace rnnfused
