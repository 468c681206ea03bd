// A team that is a thread-block cluster.
//
// Each block has two mbarriers, one per state. A step writes the new state into every block with st.async, and the
// receiving block's mbarrier counts the bytes. A block continues when all bytes of the state have arrived. Two states
// suffice: a block writes h_{t+1} over h_{t-1} in a peer only after it has received the peer's part of h_t. The peer
// sends that after the __syncthreads that follows its last read of h_{t-1}.
//
// A thread that waits in vain goes on to the next barrier of its block, where all its threads agree to stop.
#pragma once

#include "cuda/team.cuh"

#if RNNFUSED_HAS_CLUSTERS

namespace rnnfused {
namespace cuda {

__device__ __forceinline__ void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

__device__ __forceinline__ uint32_t address_in(uint32_t address, int rank) {
  uint32_t remote;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(address), "r"(rank));
  return remote;
}

__device__ __forceinline__ void init_barrier(uint64_t* barrier) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(barrier)) : "memory");
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void expect_bytes(uint64_t* barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
}

// Whether the barrier's phase of this parity has ended; it may wait for a while.
__device__ __forceinline__ bool has_ended(uint64_t* barrier, uint32_t parity) {
  uint32_t done;
  // acquire.cluster: the bytes were written by other blocks.
  asm volatile(
      "{\n.reg .pred p;\n"
      "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n"
      "selp.u32 %0, 1, 0, p;\n}"
      : "=r"(done)
      : "r"(shared_address(barrier)), "r"(parity)
      : "memory");
  return done;
}

template <class Word>
__device__ __forceinline__ void send(uint32_t to, Word value, uint32_t barrier) {
  if constexpr (sizeof(Word) == 4) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];" ::"r"(to), "r"(bits),
                 "r"(barrier)
                 : "memory");
  } else {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.b64 [%0], %1, [%2];" ::"r"(to), "l"(bits),
                 "r"(barrier)
                 : "memory");
  }
}

template <class Product>
class ClusterTeam : public BlockTeam<Product> {
 public:
  using typename BlockTeam<Product>::Member;
  using typename BlockTeam<Product>::Word;
  using BlockTeam<Product>::BlockTeam;

  __device__ __forceinline__ bool stopped() const { return stopped_; }

  __device__ __forceinline__ void begin() {
    if (threadIdx.x == 0) {
      init_barrier(&this->around_.barriers[0]);
      init_barrier(&this->around_.barriers[1]);
    }
    cluster_sync();  // every barrier exists before any block sends
  }

  __device__ __forceinline__ void end() {
    // A block must not exit while others may still send to it. After an alarm, bytes may be on their way.
    if (!arrived_) let_bytes_land();
    __syncwarp();
    cluster_sync();
  }

  template <class Phase>
  __device__ __forceinline__ void phase_after_exchange(const Phase& phase) {
    phase(this->me_);
    stopped_ = __syncthreads_or(!arrived_);
  }

  template <class Phase, class Meanwhile>
  __device__ __forceinline__ void exchange(int next, int, int64_t words, int64_t step, const Phase& phase,
                                           const Meanwhile& meanwhile) {
    uint64_t* barrier = &this->around_.barriers[next];
    if (threadIdx.x == 0) {
      expect_bytes(barrier, static_cast<uint32_t>(words * sizeof(Word)));
    }
    phase(this->me_);
    meanwhile(this->me_);
    const uint32_t parity = parities_ >> next & 1;
    if (!stopped_) arrived_ = this->wait(step, next, [&] { return has_ended(barrier, parity); });
    parities_ ^= 1 << next;
    __syncwarp();  // the lanes leave the waiting loop one by one
  }

  __device__ __forceinline__ void publish(const Member& me, int next, int word, Word value) const {
    const int blocks = this->around_.plan.blocks;
    const uint32_t address = shared_address(this->state(next) + word);
    const uint32_t barrier = shared_address(&this->around_.barriers[next]);
    for (int i = 0; i < blocks; ++i) {
      const int rank = (me.rank + i) & (blocks - 1);  // different blocks send to different ones at a time
      send(address_in(address, rank), value, address_in(barrier, rank));
    }
  }

 private:
  // Nothing tells a sender that its bytes have landed, so it waits a thousand times longer than they take.
  __device__ __forceinline__ static void let_bytes_land() {
    for (const uint64_t begin = nanoseconds(); nanoseconds() - begin < kNanosecondsOfFlight;) {
    }
  }

  uint32_t parities_ = 0;
  bool arrived_ = true;   // the last state, as far as this thread knows
  bool stopped_ = false;  // the block's threads agree
};

}  // namespace cuda
}  // namespace rnnfused

#endif
