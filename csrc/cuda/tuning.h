// The constants that were chosen by measurement, for CUDA: value, unit, effect. Sizes that follow from an instruction
// stand in its product (fma_product.cuh, mma_product.cuh). The GPU on which a value was chosen is not recorded.
#pragma once

#include <cstdint>

namespace rnnfused {
namespace cuda {

// Blocks of the largest cluster, where the GPU allows more than the portable 8.
constexpr int kMaxCluster = 16;
// Blocks of the largest team that exchanges states through global memory.
constexpr int kMaxGridTeam = 128;
// Blocks that may share a multiprocessor.
constexpr int kMaxSharers = 8;
// Words of a new state that one thread finishes per step.
constexpr int kItemsPerThread = 4;
// Threads that share the sums of one word, at most: each halving costs a shuffle.
constexpr int kMaxParts = 8;
// Failed polls of a waiting thread between looks at the time and the alarm, about 20 us. A look takes about 2 us.
constexpr int kPollsPerLook = 32;
// Nanoseconds after which a store into another block of a cluster has surely landed; it takes less than 1,000.
constexpr uint64_t kNanosecondsOfFlight = 2000000;
// Seconds that a block waits for its team before it raises an alarm.
constexpr double kTimeLimit = 20;
// Plans that are kept from call to call; then all are dropped.
constexpr int kMaxPlans = 1024;

}  // namespace cuda
}  // namespace rnnfused
