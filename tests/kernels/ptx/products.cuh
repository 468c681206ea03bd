// The kernels of one dtype and of some depths, so that nvcc has little to compile. STORED and PRODUCT are macros.
#pragma once

#include "cuda/kernels.cuh"

namespace rnnfused {
namespace cuda {

// A product that exists in these depths alone: the planner then has no other choice.
template <class Product, int... depths>
struct Only : Product {
  static constexpr int kDepths[sizeof...(depths)] = {depths...};
};

}  // namespace cuda
}  // namespace rnnfused
