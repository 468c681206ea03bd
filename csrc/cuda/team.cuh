// The threads of one cluster as a Team of scan.cuh: how they wait for each other, and how a new state reaches
// the other blocks. All memory ordering of the CUDA kernels is in this file.
//
// A cluster of one block needs __syncthreads alone. In a larger one every block has two mbarriers, one for
// each of the two states. A step writes the new state into every block with st.async, whose bytes the
// receiving block's mbarrier counts; a block goes on when all bytes of that state have arrived.
//
// Why two states suffice: a block writes h_{t+1} over h_{t-1} in a peer only after it has received the peer's
// part of h_t, which the peer sends after its __syncthreads behind the last read of h_{t-1}.
#pragma once

#include <cuda_runtime.h>

#include "cuda/scan.cuh"

namespace rnnfused {
namespace cuda {

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

#if __CUDA_ARCH__ >= 900

__device__ __forceinline__ void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::
                   : "memory");
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
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(
                   shared_address(barrier)),
               "r"(bytes)
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

__device__ __forceinline__ void send(uint32_t to, float value, uint32_t barrier) {
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];" ::"r"(to),
               "r"(__float_as_uint(value)), "r"(barrier)
               : "memory");
}

__device__ __forceinline__ void send(uint32_t to, double value, uint32_t barrier) {
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.b64 [%0], %1, [%2];" ::"r"(to),
               "l"(__double_as_longlong(value)), "r"(barrier)
               : "memory");
}

#endif

template <class T, int kDepth, bool kCluster>
class DeviceTeam {
 public:
  using Member = Thread<T, kDepth>;

  // `barriers` are two in shared memory, unused without a cluster.
  __device__ __forceinline__ DeviceTeam(const Plan& plan, T* memory, uint64_t* barriers)
      : cluster_(plan.cluster), memory_(memory), barriers_(barriers) {
    me_.index = threadIdx.x;
    me_.rank = blockIdx.x % plan.cluster;
  }

  __device__ __forceinline__ T* memory(const Member&) const { return memory_; }

  __device__ __forceinline__ void begin() {
#if __CUDA_ARCH__ >= 900
    if constexpr (kCluster) {
      if (threadIdx.x == 0) {
        init_barrier(&barriers_[0]);
        init_barrier(&barriers_[1]);
      }
      cluster_sync();  // nobody sends before every barrier is there
    }
#endif
  }

  __device__ __forceinline__ void end() {
#if __CUDA_ARCH__ >= 900
    if constexpr (kCluster) cluster_sync();  // nobody leaves while others may still send to it
#endif
  }

  template <class Phase>
  __device__ __forceinline__ void phase(const Phase& phase) {
    phase(me_);
    __syncthreads();
  }

  // A phase whose publish() calls bring `bytes` of the state `next` to every block.
  template <class Phase>
  __device__ __forceinline__ void exchange(int next, int64_t bytes, const Phase& phase) {
    if constexpr (!kCluster) {
      phase(me_);
      __syncthreads();
    } else {
#if __CUDA_ARCH__ >= 900
      if (threadIdx.x == 0) expect_bytes(&barriers_[next], static_cast<uint32_t>(bytes));
      phase(me_);
      wait(&barriers_[next], parities_ >> next & 1);
      parities_ ^= 1 << next;
#endif
    }
  }

  __device__ __forceinline__ void publish(const Member&, T* state, T value, int next) const {
    if constexpr (!kCluster) {
      *state = value;
    } else {
#if __CUDA_ARCH__ >= 900
      const uint32_t address = shared_address(state), barrier = shared_address(&barriers_[next]);
      for (int rank = 0; rank < cluster_; ++rank) {
        send(address_in(address, rank), value, address_in(barrier, rank));
      }
#endif
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
    *reinterpret_cast<float4*>(to) = make_float4(from[0], from[1], from[2], from[3]);
  }
  __device__ __forceinline__ static void store4(double* to, const double (&from)[4]) {
    reinterpret_cast<double2*>(to)[0] = make_double2(from[0], from[1]);
    reinterpret_cast<double2*>(to)[1] = make_double2(from[2], from[3]);
  }

 private:
  const int cluster_;
  T* const memory_;
  uint64_t* const barriers_;
  uint32_t parities_ = 0;
  Member me_;
};

}  // namespace cuda
}  // namespace rnnfused
