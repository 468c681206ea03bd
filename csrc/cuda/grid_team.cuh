// A team that exchanges states through global memory.
//
// Each block writes its part of the new state into global memory and then counts the step in a flag of its own. A warp
// copies a strip of the columns into shared memory as soon as the blocks that own these columns have counted. The
// strips of a block's warps cover all columns, and its last strip also waits for blocks without units, so the block as a
// whole waits for its whole team. Two states suffice: a block writes h_{t+2} over h_t only after all blocks have counted
// step t+1, which each does after its warps have copied h_t. The launch is cooperative, so all blocks run at the same
// time.
#pragma once

#include "cuda/team.cuh"

namespace rnnfused {
namespace cuda {

// A grid team's global memory, initially zeros: a flag per block, then two states.
constexpr int64_t kFlagBytes = 128;  // a cache line: 32 flags
RNNFUSED_EVERYWHERE inline int64_t bytes_of_flags(const Plan& plan) {
  return (plan.blocks * int64_t(sizeof(uint32_t)) + kFlagBytes - 1) / kFlagBytes * kFlagBytes;
}

template <class Product>
RNNFUSED_EVERYWHERE int64_t global_bytes(const Plan& plan) {
  const int64_t states = 2 * state_words<Product>(plan) * int64_t(sizeof(typename Product::Word));
  return bytes_of_flags(plan) + (states + kFlagBytes - 1) / kFlagBytes * kFlagBytes;
}

__device__ __forceinline__ void count_in(uint32_t* flag, uint32_t steps) {
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(flag), "r"(steps) : "memory");
}

__device__ __forceinline__ uint32_t counted(const uint32_t* flag) {
  uint32_t steps;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(steps) : "l"(flag) : "memory");
  return steps;
}

// Past the L1 cache, which misses the stores of other multiprocessors, and past the registers.
__device__ __forceinline__ void copy_16_bytes(uint32_t to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
__device__ __forceinline__ void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

template <class Product>
class GridTeam : public BlockTeam<Product> {
 public:
  using typename BlockTeam<Product>::Member;
  using typename BlockTeam<Product>::Word;

  __device__ __forceinline__ explicit GridTeam(const Surroundings& around) : BlockTeam<Product>(around) {
    const Plan& plan = around.plan;
    const int warps = (plan.threads + 31) / 32, warp = threadIdx.x / 32;
    lanes_ = plan.threads - warp * 32 < 32 ? plan.threads - warp * 32 : 32;
    row_vectors_ = Product::row_words(plan) / kWideWords<Product>;
    const int each = (row_vectors_ + warps - 1) / warps;
    begin_ = warp * each < row_vectors_ ? warp * each : row_vectors_;
    width_ = row_vectors_ - begin_ < each ? row_vectors_ - begin_ : each;
    const int end = begin_ + width_;
    first_rank_ = Product::unit_at(plan, begin_ * kWideWords<Product>) / plan.units;
    end_rank_ = (Product::unit_at(plan, end * kWideWords<Product>) + plan.units - 1) / plan.units;
    if (end == row_vectors_ || end_rank_ > plan.blocks) end_rank_ = plan.blocks;
    if (width_ == 0) end_rank_ = 0;
  }

  __device__ __forceinline__ bool stopped() const { return stopped_; }

  template <class Phase, class Meanwhile>
  __device__ __forceinline__ void exchange(int next, int rows, int, int64_t step, const Phase& phase,
                                           const Meanwhile& meanwhile) {
    uint32_t* const flags = reinterpret_cast<uint32_t*>(this->around_.global);
    phase(this->me_);
    __syncthreads();
    ++steps_;
    if (threadIdx.x == 0) count_in(flags + this->me_.rank, steps_);
    meanwhile(this->me_);
    bool arrived = true;
    for (int rank = first_rank_ + threadIdx.x % 32; rank < end_rank_; rank += lanes_) {
      arrived &= this->wait(step, kWaitsForRank + rank,
                            [&] { return static_cast<int32_t>(counted(flags + rank) - steps_) >= 0; });
    }
    __syncwarp();  // every lane has then acquired what any of them has
    copy_strip(next, rows);
    wait_for_copies();
    stopped_ = __syncthreads_or(!arrived);
  }

  template <int kCount>
  __device__ __forceinline__ void publish(const Member& me, int next, int rows) const {
    this->template write<kCount>(me, global_state(next), rows);
  }

 private:
  // Copies the warp's columns of the first rows, all at once. Blocks start at different columns, so that they do not
  // all ask for one line of the L2 cache.
  __device__ __forceinline__ void copy_strip(int next, int rows) const {
    const uint4* from = reinterpret_cast<const uint4*>(global_state(next)) + begin_;
    const uint32_t to = shared_address(this->around_.memory) + begin_ * sizeof(uint4);
    const int turn = this->me_.rank * width_ / this->around_.plan.blocks;
    int row = 0, column = threadIdx.x % 32;
    for (;;) {
      for (; column >= width_ && row < rows; column -= width_) ++row;
      if (row >= rows) break;
      int turned = column + turn;
      if (turned >= width_) turned -= width_;
      const int i = row * row_vectors_ + turned;
      copy_16_bytes(to + i * sizeof(uint4), from + i);
      column += lanes_;
    }
  }

  __device__ __forceinline__ Word* global_state(int which) const {
    return reinterpret_cast<Word*>(this->around_.global + bytes_of_flags(this->around_.plan)) +
           which * state_words<Product>(this->around_.plan);
  }

  int lanes_;                  // of the thread's warp
  int row_vectors_;            // 16 bytes each, of a row
  int begin_, width_;          // the warp's strip of a row, in vectors
  int first_rank_, end_rank_;  // the blocks that it waits for
  uint32_t steps_ = 0;         // that this block has counted
  bool stopped_ = false;
};

}  // namespace cuda
}  // namespace rnnfused
