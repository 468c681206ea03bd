// The registers of a thread of the time loop, and the shared memory of a block.
#pragma once

#include "cuda/plan.h"

#ifdef __CUDACC__
#define RNNFUSED_PHASE __host__ __device__ __forceinline__
#else
#define RNNFUSED_PHASE inline
#endif

namespace rnnfused {
namespace cuda {

template <class Product>
struct Thread {
  int rank;   // of its block in the team
  int index;  // in its block
  int slice;  // the part of the previous state that it multiplies with
  int group;  // the units that it multiplies for
  typename Product::Weights weights;
  typename Product::Stored inputs[Product::kItems][Product::kValues][2];
  typename Product::Word results[Product::kItems];  // of the step
};

// A block's shared memory: the state that a step reads, the state that it writes, and partial sums. Both states are
// one where the new state goes through global memory.
template <class Product>
struct Shared {
  using Word = typename Product::Word;
  using T = typename Product::T;
  char* const memory;
  const Plan& plan;
  const int64_t words;

  RNNFUSED_PHASE Shared(char* memory, const Plan& plan)
      : memory(memory), plan(plan), words(state_words<Product>(plan)) {}

  // (tile_rows, row_words)
  RNNFUSED_PHASE Word* state(int which) const {
    return reinterpret_cast<Word*>(memory) + (plan.states() == 1 ? 0 : which) * words;
  }
  // (slices, tile_rows, sum_row)
  RNNFUSED_PHASE T* sums() const { return reinterpret_cast<T*>(memory + plan.states() * words * sizeof(Word)); }
};

}  // namespace cuda
}  // namespace rnnfused
