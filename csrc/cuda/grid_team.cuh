// A team that exchanges states through global memory.
//
// The blocks write the new state into global memory. Each increments a counter, waits until all have, and copies the
// state into its shared memory. Two states suffice: a block writes h_{t+2} over h_t only after all blocks have
// incremented the counter at t+1, which each does after copying h_t. The launch is cooperative, so all blocks run at
// the same time.
#pragma once

#include "cuda/team.cuh"
#include "cuda/tuning.h"

namespace rnnfused {
namespace cuda {

// A grid team's global memory, initially zeros: its counter on a cache line of its own, then two states.
constexpr int64_t kCounterBytes = 128;

template <class Product>
RNNFUSED_EVERYWHERE int64_t global_bytes(const Plan& plan) {
  const int64_t states = 2 * state_words<Product>(plan) * int64_t(sizeof(typename Product::Word));
  return kCounterBytes + (states + kCounterBytes - 1) / kCounterBytes * kCounterBytes;
}

__device__ __forceinline__ void count_in(uint32_t* counter) {
  asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory");
}

__device__ __forceinline__ uint32_t counted(const uint32_t* counter) {
  uint32_t value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(counter) : "memory");
  return value;
}

template <class Product>
class GridTeam : public BlockTeam<Product> {
 public:
  using typename BlockTeam<Product>::Member;
  using typename BlockTeam<Product>::Word;
  using BlockTeam<Product>::BlockTeam;

  __device__ __forceinline__ bool stopped() const { return stopped_; }

  template <class Phase, class Meanwhile>
  __device__ __forceinline__ void exchange(int next, int rows, int64_t, int64_t step, const Phase& phase,
                                           const Meanwhile& meanwhile) {
    const Plan& plan = this->around_.plan;
    phase(this->me_);
    __syncthreads();
    expected_ += plan.blocks;
    uint32_t* counter = reinterpret_cast<uint32_t*>(this->around_.global);
    if (threadIdx.x == 0) count_in(counter);
    meanwhile(this->me_);
    bool arrived = true;
    if (threadIdx.x == 0) {
      arrived =
          this->wait(step, kWaitsForGrid, [&] { return static_cast<int32_t>(counted(counter) - expected_) >= 0; });
    }
    __syncthreads();
    const int bytes = rows * Product::row_words(plan) * static_cast<int>(sizeof(Word));
    copy_from_global(global_state(next), bytes / static_cast<int>(sizeof(uint4)), plan.threads);
    stopped_ = __syncthreads_or(!arrived);
  }

  template <class WordOf>
  __device__ __forceinline__ void publish(const Member& me, int next, const WordOf& word_of) const {
    this->write(me, global_state(next), word_of);
  }

 private:
  // Bypasses the L1 cache, which misses the stores of other multiprocessors, with several loads in flight.
  __device__ __forceinline__ void copy_from_global(const void* from, int count, int threads) const {
    const uint4* source = static_cast<const uint4*>(from);
    uint4* to = reinterpret_cast<uint4*>(this->around_.memory);
    for (int i = threadIdx.x; i < count; i += kLoadsInFlight * threads) {
      uint4 values[kLoadsInFlight];
#pragma unroll
      for (int n = 0; n < kLoadsInFlight; ++n) {
        if (i + n * threads < count) values[n] = __ldcg(source + i + n * threads);
      }
#pragma unroll
      for (int n = 0; n < kLoadsInFlight; ++n) {
        if (i + n * threads < count) to[i + n * threads] = values[n];
      }
    }
  }

  __device__ __forceinline__ Word* global_state(int which) const {
    return reinterpret_cast<Word*>(this->around_.global + kCounterBytes) +
           which * state_words<Product>(this->around_.plan);
  }

  uint32_t expected_ = 0;
  bool stopped_ = false;
};

}  // namespace cuda
}  // namespace rnnfused
