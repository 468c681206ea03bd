// A team that is a thread-block cluster.
//
// Each block has two mbarriers, one per state. A step sends the new state into every block, and the receiving block's
// mbarrier counts the bytes. A block continues when all bytes of the state have arrived. Two states
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

__device__ __forceinline__ void expect_bytes(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

// Whether the barrier's phase of this parity has ended; it may wait for a while. The bytes were written by other blocks,
// so the acquire is of the cluster. It is of shared memory alone where PTX can say so: one of all memory would empty the
// L1 cache in every step.
__device__ __forceinline__ bool has_ended(uint32_t barrier, uint32_t parity) {
  uint32_t done;
#if __CUDACC_VER_MAJOR__ * 100 + __CUDACC_VER_MINOR__ >= 1208
  asm volatile(
      "{\n.reg .pred p;\n"
      "mbarrier.try_wait.parity.relaxed.cluster.shared::cta.b64 p, [%1], %2;\n"
      "selp.u32 %0, 1, 0, p;\n}\n"
      "fence.acquire.sync_restrict::shared::cluster.cluster;"
      : "=r"(done)
      : "r"(barrier), "r"(parity)
      : "memory");
#else
  asm volatile(
      "{\n.reg .pred p;\n"
      "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n"
      "selp.u32 %0, 1, 0, p;\n}"
      : "=r"(done)
      : "r"(barrier), "r"(parity)
      : "memory");
#endif
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

template <class Word>
__device__ __forceinline__ void send_16_bytes(uint32_t to, const Word (&values)[16 / sizeof(Word)], uint32_t barrier) {
  uint32_t bits[4];
  memcpy(bits, values, sizeof bits);
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(to),
               "r"(bits[0]), "r"(bits[1]), "r"(bits[2]), "r"(bits[3]), "r"(barrier)
               : "memory");
}

template <class Product, Send kSend>
class ClusterTeam : public BlockTeam<Product> {
 public:
  using typename BlockTeam<Product>::Member;
  using typename BlockTeam<Product>::Word;

  __device__ __forceinline__ explicit ClusterTeam(const Surroundings& around)
      : BlockTeam<Product>(around),
        blocks_(kept(around.plan.blocks)),
        parts_(kept(around.plan.parts)),
        barriers_(kept_address(around.barriers)),
        states_(kept_address(around.memory)),
        state_bytes_(static_cast<uint32_t>(state_words<Product>(around.plan) * sizeof(Word))) {}

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
  __device__ __forceinline__ void exchange(int next, int, int words, int64_t step, const Phase& phase,
                                           const Meanwhile& meanwhile) {
    const uint32_t barrier = barriers_ + next * sizeof(uint64_t);
    if (this->me_.index == 0) expect_bytes(barrier, words * sizeof(Word));
    phase(this->me_);
    meanwhile(this->me_);
    const uint32_t parity = parities_ >> next & 1;
    if (!stopped_) arrived_ = this->wait(step, next, [&] { return has_ended(barrier, parity); });
    parities_ ^= 1 << next;
    __syncwarp();  // the lanes leave the waiting loop one by one
  }

  template <int kCount>
  __device__ __forceinline__ void publish(const Member& me, int next, int rows) const {
    const uint32_t state = states_ + next * state_bytes_, barrier = barriers_ + next * sizeof(uint64_t);
    // Orders every lane's reads of the sums before any send: a thread that receives the state overwrites the sums.
    __syncwarp();
    if constexpr (kSend == Send::wide) {
      send_wide<kCount>(me, state, barrier, rows);
    } else {
      send_words<kCount>(me, state, barrier, rows);
    }
  }

 private:
  // Calls `use(rank)` for this thread's part of the ranks; its neighbours take the other parts. Blocks begin at different
  // ranks.
  template <int kLeastSharers, class Use>
  __device__ __forceinline__ void for_each_rank(int sharers, const Use& use) const {
    const int first = this->me_.index & (sharers - 1);
#pragma unroll
    for (int n = 0; n < kMaxCluster / kLeastSharers; ++n) {
      if (n * sharers >= blocks_) break;
      const int i = first + n * sharers;
      if (i < blocks_) use((this->me_.rank + i) & (blocks_ - 1));
    }
  }

  template <int kCount>
  __device__ __forceinline__ void send_words(const Member& me, uint32_t state, uint32_t barrier, int rows) const {
    for_each_rank<1>(parts_, [&](int rank) {
      const uint32_t to_barrier = address_in(barrier, rank);
#pragma unroll
      for (int n = 0; n < kCount; ++n) {
        if (me.items[n].row >= rows) continue;
        send(address_in(state + me.items[n].word * sizeof(Word), rank), me.results[n], to_barrier);
      }
    });
  }

  // The lanes whose words make 16 bytes exchange them; then each sends all 16 to its share of the ranks.
  template <int kCount>
  __device__ __forceinline__ void send_wide(const Member& me, uint32_t state, uint32_t barrier, int rows) const {
    constexpr int kWide = kWideWords<Product>;
    const int sharers = kWide * parts_, first_lane = me.index & 31 & ~(sharers - 1);
    Word values[kCount][kWide];
#pragma unroll
    for (int n = 0; n < kCount; ++n) {
#pragma unroll
      for (int i = 0; i < kWide; ++i) values[n][i] = __shfl_sync(~0u, me.results[n], first_lane + i * parts_);
    }
    for_each_rank<kWide>(sharers, [&](int rank) {
      const uint32_t to_barrier = address_in(barrier, rank);
#pragma unroll
      for (int n = 0; n < kCount; ++n) {
        if (me.items[n].row >= rows) continue;  // of all of these lanes or of none
        send_16_bytes(address_in(state + (me.items[n].word & ~(kWide - 1)) * sizeof(Word), rank), values[n],
                      to_barrier);
      }
    });
  }

  // Nothing tells a sender that its bytes have landed, so it waits a thousand times longer than they take.
  __device__ __forceinline__ static void let_bytes_land() {
    for (const uint64_t begin = nanoseconds(); nanoseconds() - begin < kNanosecondsOfFlight;) {
    }
  }

  const int blocks_, parts_;
  // In the block's shared memory: both barriers, and both states.
  const uint32_t barriers_, states_, state_bytes_;
  uint32_t parities_ = 0;
  bool arrived_ = true;   // the last state, as far as this thread knows
  bool stopped_ = false;  // the block's threads agree
};

}  // namespace cuda
}  // namespace rnnfused

#endif
