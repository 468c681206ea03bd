// What a step of a plan is expected to cost, in cycles of a multiprocessor, and what the other way costs: a matrix
// product and a pointwise kernel per step. The planner compares plans with it. gpu-check's sweep prints the estimates
// beside measured times.
#pragma once

#include <cmath>
#include <cstdint>

#include "cuda/plan.h"

namespace rnnfused {
namespace cuda {

// Rates of one multiprocessor, per cycle.
struct Rates {
  double multiply_adds;         // float32
  double multiply_adds_double;  // float64
  double tensor_products;       // multiply-adds of the tensor cores, 16-bit types with float32 sums
  double mma_products;          // the same by mma.sync, which reaches half of them on Hopper (arXiv 2402.13499)
};

// CUDA C++ Programming Guide, "Arithmetic Instructions" (first two); NVIDIA's whitepapers of GH100, GA100, AD102 and
// GB202 (tensor cores).
inline Rates rates_of(int major, int minor) {
  if (major == 8 && minor == 0) return {64, 32, 1024, 1024};
  if (major == 9 || major == 10) return {128, 64, 2048, 1024};
  return {128, 2, 512, 512};
}

namespace costs {

// Fitted to a sweep of plans at the shapes of the benchmark on an H100, in cycles: what a step of each kind of team
// takes beside the product, and what each further block of the team adds.
constexpr double kOneBlock = 540, kCluster = 1040, kPerClusterBlock = 19, kGrid = 3450, kPerGridBlock = 25;
// Around a pass over 8 rows of tensor products; for each value that a thread finishes; bytes per cycle through L2.
constexpr double kPerPass = 258, kPerValue = 115, kGridBytes = 10.7;
// Bytes per cycle that a block of a cluster receives. The fit shows no cost up to 20 KB a step; arXiv 2501.12084 has 16.
constexpr double kClusterBytes = 32;
// Cycles from an instruction to the next that needs its result: a multiply-add; an mma.m16n8k16, of which two sums
// alternate (arXiv 2402.13499); a load of shared memory. And the multiply-adds of an mma.m16n8k16.
constexpr double kMultiplyAddLatency = 4, kTensorLatency = 33, kSharedLatency = 30, kTensorProducts = 2048;
// Microseconds of a step by torch's kernels in a CUDA graph.
constexpr double kStepByKernels = 3.6;
// The part of its peak that a matrix product of a step reaches: cuBLAS at some hundred rows; assumed.
constexpr double kProductShare = 0.6;
// Estimates are seldom wrong by more.
constexpr double kMargin = 2;

}  // namespace costs

template <class Product>
constexpr bool uses_tensor_cores = Product::kLanes == 32;

template <class Product>
double products_per_cycle(const Rates& rates) {
  if (uses_tensor_cores<Product>) return rates.tensor_products;
  return sizeof(typename Product::T) == 8 ? rates.multiply_adds_double : rates.multiply_adds;
}

// A block's product of a tile's state and its part of the weight, where `resident` blocks share a multiprocessor. The
// passes over the rows follow one another; in each, the warps of a scheduler take turns.
template <class Product>
double multiply_cycles(const Rates& rates, const Plan& plan, int64_t resident) {
  const double warps = static_cast<double>((plan.threads + 31) / 32 * resident);
  const double turns = std::ceil(warps / 4);
  double busy, latency, around;
  if (uses_tensor_cores<Product>) {
    const double tiles = plan.depth / 16;
    busy = turns * tiles * 2 * costs::kTensorProducts / (rates.mma_products / 4);
    latency = tiles * costs::kTensorLatency / 2;
    around = costs::kPerPass;
  } else {
    busy = turns * plan.depth * Product::kUnits * (128 / products_per_cycle<Product>(rates));
    latency = plan.depth * costs::kMultiplyAddLatency + costs::kSharedLatency;
    around = 0;
  }
  return tile_rows<Product>(plan) / Product::kRows * (around + (busy > latency ? busy : latency));
}

// The rest of a step: the sums of the slices, the nonlinearity, and the way of the new state to the team.
template <class Product>
double exchange_cycles(const Plan& plan, int64_t hidden_size) {
  const double finish = double(plan.items) * Product::kValues * costs::kPerValue;
  const double bytes = double(plan.batch_tile) * hidden_size / Product::kValues * sizeof(typename Product::Word);
  switch (plan.exchange) {
    case Exchange::none: break;
    case Exchange::cluster:
      return finish + costs::kCluster + plan.blocks * costs::kPerClusterBlock + bytes / costs::kClusterBytes;
    case Exchange::grid: return finish + costs::kGrid + plan.blocks * costs::kPerGridBlock + bytes / costs::kGridBytes;
  }
  return finish + costs::kOneBlock;
}

// A step of the whole batch, where `teams` teams run at the same time.
template <class Product>
double estimated_step_us(const Device& device, const Plan& plan, int64_t hidden_size, int64_t batch_size,
                         int64_t teams) {
  const Rates rates = rates_of(device.major, device.minor);
  const int64_t tiles = (batch_size + plan.batch_tile - 1) / plan.batch_tile;
  const int64_t running = tiles < teams ? tiles : teams;
  const int64_t resident = (running * plan.blocks + device.multiprocessors - 1) / device.multiprocessors;
  const double cycles = multiply_cycles<Product>(rates, plan, resident) + exchange_cycles<Product>(plan, hidden_size);
  return cycles * static_cast<double>((tiles + teams - 1) / teams) / device.gigahertz * 1e-3;
}

// The same by a matrix product and a pointwise kernel per step, in a CUDA graph.
template <class Product>
double step_us_by_kernels(const Device& device, int64_t hidden_size, int64_t batch_size) {
  const double products = double(batch_size) * hidden_size * hidden_size;
  const double rate = products_per_cycle<Product>(rates_of(device.major, device.minor)) * costs::kProductShare *
                      device.multiprocessors * device.gigahertz * 1e3;
  return costs::kStepByKernels + products / rate;
}

}  // namespace cuda
}  // namespace rnnfused
