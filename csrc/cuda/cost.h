// What a step of a plan is expected to cost, in cycles of a multiprocessor, and what the other way costs: a matrix
// product and a pointwise kernel per step. The planner compares plans with it. No figure here was measured with these
// kernels; each line names its source, and gpu-check prints the estimates beside measured times.
#pragma once

#include <cstdint>

#include "cuda/plan.h"

namespace rnnfused {
namespace cuda {

// Rates of one multiprocessor, per cycle.
struct Rates {
  double multiply_adds;         // float32
  double multiply_adds_double;  // float64
  double tensor_products;       // multiply-adds of the tensor cores, 16-bit types with float32 sums
  double l2_bytes;              // from the L2 cache, when all multiprocessors read
};

// CUDA C++ Programming Guide, "Arithmetic Instructions" (first two); NVIDIA's whitepapers of GH100, GA100, AD102 and
// GB202 (tensor cores); L2: 5.5 TB/s on GH100, 4.0 on GA100 (Chips and Cheese), divided by multiprocessors and clock.
inline Rates rates_of(int major, int minor) {
  if (major == 8 && minor == 0) return {64, 32, 1024, 26};
  if (major == 8) return {128, 2, 512, 16};
  if (major == 9) return {128, 64, 2048, 24};
  if (major == 10) return {128, 64, 2048, 24};
  return {128, 2, 512, 16};
}

namespace costs {

// mma.sync reaches this part of Hopper's tensor cores (arXiv 2402.13499); assumed elsewhere too.
constexpr double kTensorShare = 0.6;
// Cycles from an instruction to the next that needs its result: a multiply-add; an mma.m16n8k16, of which two sums
// alternate (arXiv 2402.13499); a load of shared memory.
constexpr double kMultiplyAddLatency = 4, kTensorLatency = 33, kSharedLatency = 30;
// Cycles of a __syncthreads of 8 warps (arXiv 2402.13499).
constexpr double kBarrier = 30;
// Values that shared memory delivers per cycle (CUDA C++ Programming Guide: 32 banks).
constexpr double kSharedValues = 32;
// Cycles around a pass over one row, or over 8 rows of tensor products: SASS of scan_kernel, about 20 instructions.
constexpr double kPerPass = 20;
// Cycles of the epilogue with tanhf, and of each further word of a thread: SASS of scan_kernel, 40 dependent
// instructions of 5 cycles, and 40 to issue.
constexpr double kEpilogue = 200, kPerWord = 40;
// Distributed shared memory: cycles one way, and bytes per cycle that a block receives (arXiv 2501.12084).
constexpr double kClusterLatency = 200, kClusterBytes = 16;
// Cycles one way through L2 (0.16 us per flag, Hazy Research). A release waits for the stores: another such way.
constexpr double kL2Latency = 280;
// Microseconds of a step by torch's kernels in a CUDA graph: two launches of 1.3 (Hazy Research), two short kernels.
constexpr double kStepByKernels = 3.6;
// The part of its peak that a matrix product of a step reaches: cuBLAS at some hundred rows; assumed.
constexpr double kProductShare = 0.6;

}  // namespace costs

template <class Product>
constexpr bool uses_tensor_cores = Product::kLanes == 32;

template <class Product>
double products_per_cycle(const Rates& rates) {
  if (uses_tensor_cores<Product>) return rates.tensor_products;
  return sizeof(typename Product::T) == 8 ? rates.multiply_adds_double : rates.multiply_adds;
}

// A block's product of a tile's state and its part of the weight, where `resident` blocks share a multiprocessor. The
// passes over the rows follow one another.
template <class Product>
double multiply_cycles(const Rates& rates, const Plan& plan, int64_t resident) {
  const double products = double(Product::kRows) * plan.slices * plan.depth * plan.groups * Product::kUnits;
  const double rate = products_per_cycle<Product>(rates) * (uses_tensor_cores<Product> ? costs::kTensorShare : 1);
  const double latency =
      costs::kSharedLatency + (uses_tensor_cores<Product> ? plan.depth / 16 * costs::kTensorLatency / 2
                                                          : plan.depth * costs::kMultiplyAddLatency);
  const double busy = products / rate * static_cast<double>(resident);
  const double pass = busy > latency ? busy : latency;
  return tile_rows<Product>(plan) / Product::kRows * (costs::kPerPass + pass) + costs::kBarrier;
}

// The sums of the slices, and the nonlinearity.
template <class Product>
double finish_cycles(const Plan& plan) {
  const double units = double(plan.batch_tile) * plan.units;
  const double words = (units / Product::kValues + plan.threads - 1) / plan.threads;
  return costs::kSharedLatency + units * plan.slices * sizeof(typename Product::T) / 4 / costs::kSharedValues +
         costs::kEpilogue + words * costs::kPerWord;
}

// Until a block has the new state of its tile.
template <class Product>
double exchange_cycles(const Rates& rates, const Plan& plan, int64_t hidden_size) {
  const double bytes = double(plan.batch_tile) * hidden_size / Product::kValues * sizeof(typename Product::Word);
  switch (plan.exchange) {
    case Exchange::none: break;
    case Exchange::cluster: return costs::kClusterLatency + bytes / costs::kClusterBytes;
    case Exchange::grid:  // the release, the flag, the copy
      return 3 * costs::kL2Latency + bytes / rates.l2_bytes + 2 * costs::kBarrier;
  }
  return costs::kBarrier;
}

// A step of the whole batch, where `teams` teams run at the same time.
template <class Product>
double estimated_step_us(const Device& device, const Plan& plan, int64_t hidden_size, int64_t batch_size,
                         int64_t teams) {
  const Rates rates = rates_of(device.major, device.minor);
  const int64_t tiles = (batch_size + plan.batch_tile - 1) / plan.batch_tile;
  const int64_t running = tiles < teams ? tiles : teams;
  const int64_t resident = (running * plan.blocks + device.multiprocessors - 1) / device.multiprocessors;
  const double cycles = multiply_cycles<Product>(rates, plan, resident) + finish_cycles<Product>(plan) +
                        exchange_cycles<Product>(rates, plan, hidden_size);
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
