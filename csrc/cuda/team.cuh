// The threads of a team's blocks as the Team of scan.cuh: their barriers, and the exchange of new states between
// blocks. All memory ordering of the CUDA kernels is in this file.
//
// One block: __syncthreads alone.
//
// A cluster: each block has two mbarriers, one per state. A step writes the new state into every block with st.async,
// and the receiving block's mbarrier counts the bytes. A block continues when all bytes of the state have arrived.
// Two states suffice: a block writes h_{t+1} over h_{t-1} in a peer only after it has received the peer's part of
// h_t. The peer sends that after the __syncthreads that follows its last read of h_{t-1}.
//
// A grid: the blocks write the new state into global memory. Each increments a counter, waits until all have, and
// copies the state into its shared memory. Two states suffice: a block writes h_{t+2} over h_t only after all blocks
// have incremented the counter at t+1, which each does after copying h_t. The launch is cooperative, so all blocks run
// at the same time.
#pragma once

#include <cuda_runtime.h>

#include <type_traits>

#include "cuda/scan.cuh"
#include "cuda/tuning.h"

// From Hopper on, but not consumer Blackwell.
#if __CUDA_ARCH__ >= 900 && __CUDA_ARCH__ < 1200
#define RNNFUSED_HAS_CLUSTERS 1
#else
#define RNNFUSED_HAS_CLUSTERS 0
#endif

namespace rnnfused {
namespace cuda {

// A grid team's global memory, initially zeros: its counter on a cache line of its own, then two states.
constexpr int64_t kCounterBytes = 128;

template <class Product>
RNNFUSED_EVERYWHERE int64_t global_bytes(const Plan& plan) {
  const int64_t states = 2 * state_words<Product>(plan) * int64_t(sizeof(typename Product::Word));
  return kCounterBytes + (states + kCounterBytes - 1) / kCounterBytes * kCounterBytes;
}

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

__device__ __forceinline__ void count_in(uint32_t* counter) {
  asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory");
}

__device__ __forceinline__ uint32_t counted(const uint32_t* counter) {
  uint32_t value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(counter) : "memory");
  return value;
}

#if RNNFUSED_HAS_CLUSTERS

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

__device__ __forceinline__ void wait(uint64_t* barrier, uint32_t parity) {
  uint32_t done = 0;
  while (!done) {
    // acquire.cluster: the bytes were written by other blocks.
    asm volatile(
        "{\n.reg .pred p;\n"
        "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n}"
        : "=r"(done)
        : "r"(shared_address(barrier)), "r"(parity)
        : "memory");
  }
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

#endif

#define RNNFUSED_MMA(type, a, b, c)                                         \
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." type "." type       \
               ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" \
               : "+f"((c)[0]), "+f"((c)[1]), "+f"((c)[2]), "+f"((c)[3])     \
               : "r"((a)[0]), "r"((a)[1]), "r"((a)[2]), "r"((a)[3]), "r"((b)[0]), "r"((b)[1]))

template <class Product, Exchange kExchange>
class DeviceTeam {
 public:
  using Member = Thread<Product>;
  using Word = typename Product::Word;

  // `barriers`: two in shared memory, for a cluster. `global`: global_bytes(plan) bytes, for a grid.
  __device__ __forceinline__ DeviceTeam(const Plan& plan, char* memory, uint64_t* barriers, char* global)
      : memory_(memory), barriers_(barriers), global_(global) {
    me_.index = threadIdx.x;
    me_.rank = blockIdx.x % plan.blocks;
  }

  __device__ __forceinline__ char* memory(const Member&) const { return memory_; }

  __device__ __forceinline__ void begin() {
#if RNNFUSED_HAS_CLUSTERS
    if constexpr (kExchange == Exchange::cluster) {
      if (threadIdx.x == 0) {
        init_barrier(&barriers_[0]);
        init_barrier(&barriers_[1]);
      }
      cluster_sync();  // every barrier exists before any block sends
    }
#endif
  }

  __device__ __forceinline__ void end() {
#if RNNFUSED_HAS_CLUSTERS
    // A block must not exit while others may still send to it.
    if constexpr (kExchange == Exchange::cluster) cluster_sync();
#endif
  }

  template <class Phase>
  __device__ __forceinline__ void phase(const Phase& phase) {
    phase(me_);
    __syncthreads();
  }

  // Runs a phase whose publish() calls send `words` words of the state `next`, its first `rows` rows, to every block.
  // `meanwhile` runs while they are in flight.
  template <class Phase, class Meanwhile>
  __device__ __forceinline__ void exchange(const Plan& plan, int next, int rows, int64_t words, const Phase& phase,
                                           const Meanwhile& meanwhile) {
    if constexpr (kExchange == Exchange::none) {
      phase(me_);
      meanwhile(me_);
      __syncthreads();
    } else if constexpr (kExchange == Exchange::cluster) {
#if RNNFUSED_HAS_CLUSTERS
      if (threadIdx.x == 0) {
        expect_bytes(&barriers_[next], static_cast<uint32_t>(words * sizeof(Word)));
      }
      phase(me_);
      meanwhile(me_);
      wait(&barriers_[next], parities_ >> next & 1);
      parities_ ^= 1 << next;
      __syncwarp();  // the lanes leave the waiting loop one by one
#endif
    } else {
      phase(me_);
      __syncthreads();
      expected_ += plan.blocks;
      uint32_t* counter = reinterpret_cast<uint32_t*>(global_);
      if (threadIdx.x == 0) count_in(counter);
      meanwhile(me_);
      if (threadIdx.x == 0) {
        while (static_cast<int32_t>(counted(counter) - expected_) < 0) {
        }
      }
      __syncthreads();
      const int bytes = rows * Product::row_words(plan) * static_cast<int>(sizeof(Word));
      copy_from_global(global_state(plan, next), bytes / static_cast<int>(sizeof(uint4)), plan.threads);
      __syncthreads();
    }
  }

  // Sends a word of the state `next` to every block.
  __device__ __forceinline__ void publish(const Member& me, const Plan& plan, int next, int word, Word value) const {
    if constexpr (kExchange == Exchange::none) {
      Shared<Product>(memory_, plan).state(next)[word] = value;
    } else if constexpr (kExchange == Exchange::cluster) {
#if RNNFUSED_HAS_CLUSTERS
      const uint32_t address = shared_address(Shared<Product>(memory_, plan).state(next) + word);
      const uint32_t barrier = shared_address(&barriers_[next]);
      for (int i = 0; i < plan.blocks; ++i) {
        const int rank = (me.rank + i) & (plan.blocks - 1);  // different blocks send to different ones at a time
        send(address_in(address, rank), value, address_in(barrier, rank));
      }
#endif
    } else {
      global_state(plan, next)[word] = value;
    }
  }

  __device__ __forceinline__ static void load4(const float* from, float (&to)[4]) {
    const float4 v = *reinterpret_cast<const float4*>(from);
    to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
  }
  __device__ __forceinline__ static void load4(const double* from, double (&to)[4]) {
    const double2 a = reinterpret_cast<const double2*>(from)[0];
    const double2 b = reinterpret_cast<const double2*>(from)[1];
    to[0] = a.x, to[1] = a.y, to[2] = b.x, to[3] = b.y;
  }
  __device__ __forceinline__ static void store4(float* to, const float (&from)[4]) {
    // In PTX, because the compiler would make four stores with bank conflicts.
    asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(to)), "f"(from[0]), "f"(from[1]),
                 "f"(from[2]), "f"(from[3])
                 : "memory");
  }
  __device__ __forceinline__ static void store4(double* to, const double (&from)[4]) {
    reinterpret_cast<double2*>(to)[0] = make_double2(from[0], from[1]);
    reinterpret_cast<double2*>(to)[1] = make_double2(from[2], from[3]);
  }

  // acc += A B for a warp and two A's with the same B; mma_product.cuh shows the values of each lane.
  template <class Stored, class LoadB>
  __device__ __forceinline__ static void mma(const Member& me, const uint32_t (&a)[2][4], const LoadB& load_b,
                                             float (&acc)[2][4]) {
    uint32_t b[2];
    load_b(me.index % 32, b);
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      if constexpr (std::is_same<Stored, __half>::value) {
        RNNFUSED_MMA("f16", a[m], b, acc[m]);
      } else {
        RNNFUSED_MMA("bf16", a[m], b, acc[m]);
      }
    }
  }

 private:
  // Bypasses the L1 cache, which misses the stores of other multiprocessors, with several loads in flight.
  __device__ __forceinline__ void copy_from_global(const void* from, int count, int threads) const {
    const uint4* source = static_cast<const uint4*>(from);
    uint4* to = reinterpret_cast<uint4*>(memory_);
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

  __device__ __forceinline__ Word* global_state(const Plan& plan, int which) const {
    return reinterpret_cast<Word*>(global_ + kCounterBytes) + which * state_words<Product>(plan);
  }

  char* const memory_;
  uint64_t* const barriers_;
  char* const global_;
  uint32_t parities_ = 0;
  uint32_t expected_ = 0;
  Member me_;
};

}  // namespace cuda
}  // namespace rnnfused
