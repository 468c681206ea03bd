// A team that is a thread-block cluster.
//
// Each block has two mbarriers, one per state. A step sends the new state into every block, and the receiving block's
// mbarrier counts the bytes. A block continues when all bytes of the state have arrived. Two states
// suffice: a block writes h_{t+1} over h_{t-1} in a peer only after it has received the peer's part of h_t. The peer
// sends that after the __syncthreads that follows its last read of h_{t-1}.
//
// Send::bulk: a block first writes its own part into its own shared memory. The copy engine reads it from there, and a
// proxy fence orders the writes before it. The block overwrites that part two steps later, when all peers have received
// it: each sends its next part only after that.
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

// Sends 16 bytes.
template <class Word>
__device__ __forceinline__ void send_wide(uint32_t to, const Word (&values)[16 / sizeof(Word)], uint32_t barrier) {
  uint32_t bits[4];
  memcpy(bits, values, sizeof bits);
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(to),
               "r"(bits[0]), "r"(bits[1]), "r"(bits[2]), "r"(bits[3]), "r"(barrier)
               : "memory");
}

// Later asynchronous copies see the thread's stores to shared memory, and those that it has seen.
__device__ __forceinline__ void fence_for_copies() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

__device__ __forceinline__ void send_bulk(uint32_t to, uint32_t from, uint32_t bytes, uint32_t barrier) {
  asm volatile("cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
               "r"(from), "r"(bytes), "r"(barrier)
               : "memory");
}

template <class Product, Send kSend>
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
    if constexpr (kSend == Send::bulk) {
      fence_for_copies();  // the peers' copies come after the first contents of the states
      for (int rank = 0; rank < this->around_.plan.blocks; ++rank) {
        if (rank != this->me_.rank) arriving_ += part_words(rank);
      }
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
  __device__ __forceinline__ void exchange(int next, int rows, int64_t words, int64_t step, const Phase& phase,
                                           const Meanwhile& meanwhile) {
    uint64_t* barrier = &this->around_.barriers[next];
    if (threadIdx.x == 0) {
      const int64_t arriving = kSend == Send::bulk ? int64_t(rows) * arriving_ : words;
      expect_bytes(barrier, static_cast<uint32_t>(arriving * sizeof(Word)));
    }
    phase(this->me_);
    if constexpr (kSend == Send::bulk) {
      fence_for_copies();
      __syncthreads();
      send_rows(next, rows);
    }
    meanwhile(this->me_);
    const uint32_t parity = parities_ >> next & 1;
    if (!stopped_) arrived_ = this->wait(step, next, [&] { return has_ended(barrier, parity); });
    parities_ ^= 1 << next;
    __syncwarp();  // the lanes leave the waiting loop one by one
  }

  template <class WordOf>
  __device__ __forceinline__ void publish(const Member& me, int next, const WordOf& word_of) const {
    Word* const state = this->state(next);
    if constexpr (kSend == Send::bulk) {
      this->write(me, state, word_of);
    } else if constexpr (kSend == Send::wide) {
      publish_wide(me, next, word_of);
    } else {
      uint32_t to[Product::kItems];
      bool exists[Product::kItems];
#pragma unroll
      for (int n = 0; n < Product::kItems; ++n) {
        int word = 0;
        exists[n] = word_of(n, word);
        to[n] = shared_address(state + word);
      }
      for_each_rank(next, 0, 1, [&](int rank, uint32_t barrier) {
#pragma unroll
        for (int n = 0; n < Product::kItems; ++n) {
          if (exists[n]) send(address_in(to[n], rank), me.results[n], barrier);
        }
      });
    }
  }

 private:
  // Calls `use(rank, its barrier)` for every `stride`-th rank. Different blocks begin at different ranks.
  template <class Use>
  __device__ __forceinline__ void for_each_rank(int next, int first, int stride, const Use& use) const {
    const int blocks = this->around_.plan.blocks;
    const uint32_t barrier = shared_address(&this->around_.barriers[next]);
    for (int i = first; i < blocks; i += stride) {
      const int rank = (this->me_.rank + i) & (blocks - 1);
      use(rank, address_in(barrier, rank));
    }
  }

  // The lanes whose words make 16 bytes exchange them; then each sends all 16 to its share of the ranks.
  template <class WordOf>
  __device__ __forceinline__ void publish_wide(const Member& me, int next, const WordOf& word_of) const {
    constexpr int kWide = kWideWords<Product>;
    const int lane = me.index % kWide;
    // Orders every lane's reads of the sums before any send: a thread that receives the state overwrites the sums.
    __syncwarp();
#pragma unroll
    for (int n = 0; n < Product::kItems; ++n) {
      Word values[kWide];
#pragma unroll
      for (int i = 0; i < kWide; ++i) values[i] = __shfl_sync(~0u, me.results[n], i, kWide);
      int word = 0;
      if (!word_of(n, word)) continue;  // for all of these lanes or for none
      const uint32_t to = shared_address(this->state(next) + word - lane);
      for_each_rank(next, lane, kWide,
                    [&](int rank, uint32_t barrier) { send_wide(address_in(to, rank), values, barrier); });
    }
  }

  // Words from a rank's first to its last in a row, with the gaps between slices.
  __device__ __forceinline__ int part_words(int rank) const {
    const Plan& plan = this->around_.plan;
    const int first = rank * plan.units;
    const int end = first + plan.units < this->around_.hidden_size ? first + plan.units : this->around_.hidden_size;
    return Product::word(plan, 0, end - 1) + 1 - Product::word(plan, 0, first);
  }

  // Copies the block's part of each row to each peer, a copy per thread.
  __device__ __forceinline__ void send_rows(int next, int rows) const {
    const Plan& plan = this->around_.plan;
    const int rank = this->me_.rank, log2_blocks = 31 - __clz(plan.blocks);
    const uint32_t bytes = part_words(rank) * sizeof(Word);
    const uint32_t barrier = shared_address(&this->around_.barriers[next]);
    const uint32_t first = shared_address(this->state(next) + Product::word(plan, 0, rank * plan.units));
    const uint32_t row_bytes = Product::row_words(plan) * sizeof(Word);
    for (int i = threadIdx.x; i < rows << log2_blocks; i += plan.threads) {
      const int to = (rank + i) & (plan.blocks - 1);
      if (to == rank) continue;
      const uint32_t from = first + (i >> log2_blocks) * row_bytes;
      send_bulk(address_in(from, to), from, bytes, address_in(barrier, to));
    }
  }

  // Nothing tells a sender that its bytes have landed, so it waits a thousand times longer than they take.
  __device__ __forceinline__ static void let_bytes_land() {
    for (const uint64_t begin = nanoseconds(); nanoseconds() - begin < kNanosecondsOfFlight;) {
    }
  }

  uint32_t parities_ = 0;
  int arriving_ = 0;      // words of a row that all peers send, with Send::bulk
  bool arrived_ = true;   // the last state, as far as this thread knows
  bool stopped_ = false;  // the block's threads agree
};

}  // namespace cuda
}  // namespace rnnfused

#endif
