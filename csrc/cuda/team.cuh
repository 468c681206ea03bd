// The threads of a team's blocks as the Team of scan.cuh: their barriers, and the exchange of new states between
// blocks. All memory ordering of the CUDA kernels is in this file and in cluster_team.cuh and grid_team.cuh.
//
// One block: __syncthreads alone.
#pragma once

#include <cuda_runtime.h>

#include <type_traits>

#include "cuda/scan.cuh"
#include "cuda/watchdog.cuh"

// From Hopper on, but not consumer Blackwell.
#if __CUDA_ARCH__ >= 900 && __CUDA_ARCH__ < 1200
#define RNNFUSED_HAS_CLUSTERS 1
#else
#define RNNFUSED_HAS_CLUSTERS 0
#endif

namespace rnnfused {
namespace cuda {

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// The address in a register. The compiler would else ask for the start of shared memory in every step.
__device__ __forceinline__ uint32_t kept_address(const void* pointer) {
  uint32_t address;
  asm volatile("mov.u32 %0, %1;" : "=r"(address) : "r"(shared_address(pointer)));
  return address;
}

// The number of the thread in its block, which else is asked for in every step too.
__device__ __forceinline__ int kept_thread() {
  int index;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(index));
  return index;
}

#define RNNFUSED_MMA(type, a, b, c)                                         \
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." type "." type       \
               ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" \
               : "+f"((c)[0]), "+f"((c)[1]), "+f"((c)[2]), "+f"((c)[3])     \
               : "r"((a)[0]), "r"((a)[1]), "r"((a)[2]), "r"((a)[3]), "r"((b)[0]), "r"((b)[1]))

// What kernel and team have in common.
struct Surroundings {
  const Plan& plan;
  const Watchdog& watchdog;
  int64_t team;        // its number in the launch
  char* memory;        // shared, shared_bytes(plan)
  uint64_t* barriers;  // two in shared memory, for a cluster
  char* global;        // global_bytes(plan), for a grid
};

// A team of one block, and what all teams do within a block.
template <class Product>
class BlockTeam {
 public:
  using Member = Thread<Product>;
  using Word = typename Product::Word;

  __device__ __forceinline__ explicit BlockTeam(const Surroundings& around) : around_(around) {
    me_.index = kept_thread();
    me_.rank = blockIdx.x % around.plan.blocks;
  }

  __device__ __forceinline__ char* memory(const Member&) const { return around_.memory; }
  __device__ __forceinline__ void begin() {}
  __device__ __forceinline__ void end() {}
  __device__ __forceinline__ bool stopped() const { return false; }

  template <class Phase>
  __device__ __forceinline__ void phase(const Phase& phase) {
    phase(me_);
    __syncthreads();
  }

  template <class Phase>
  __device__ __forceinline__ void phase_after_exchange(const Phase& phase) {
    this->phase(phase);
  }

  // Runs a phase whose publish() sends `words` words of the state `next`, its first `rows` rows, to every block.
  // `meanwhile` runs while they are in flight.
  template <class Phase, class Meanwhile>
  __device__ __forceinline__ void exchange(int, int, int, int64_t, const Phase& phase, const Meanwhile& meanwhile) {
    phase(me_);
    meanwhile(me_);
    __syncthreads();
  }

  // Adds the values of the threads that share a word, in each of them.
  template <class T, int kValues>
  __device__ __forceinline__ void add_parts(const Member&, int parts, T (&values)[kValues]) const {
#pragma unroll
    for (int distance = 1; distance < kMaxParts; distance *= 2) {
      if (distance >= parts) break;
#pragma unroll
      for (int v = 0; v < kValues; ++v) values[v] += __shfl_xor_sync(~0u, values[v], distance);
    }
  }

  // Sends the thread's results, words of the first `rows` rows of the state `next`, to every block.
  template <int kCount>
  __device__ __forceinline__ void publish(const Member& me, int next, int rows) const {
    write<kCount>(me, state(next), rows);
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

 protected:
  __device__ __forceinline__ Word* state(int which) const { return me_.shared.state(which); }

  template <int kCount>
  __device__ __forceinline__ static void write(const Member& me, Word* to, int rows) {
    if (me.part != 0) return;
#pragma unroll
    for (int n = 0; n < kCount; ++n) {
      if (me.items[n].row < rows) to[me.items[n].word] = me.results[n];
    }
  }

  // Polls in the loop's `step`; false if the team is to stop.
  template <class Poll>
  __device__ __forceinline__ bool wait(int64_t step, uint32_t barrier, const Poll& poll) const {
    return spin(around_.watchdog, around_.plan, me_.rank, {step, around_.team, barrier}, poll);
  }

  const Surroundings& around_;
  Member me_;
};

}  // namespace cuda
}  // namespace rnnfused
