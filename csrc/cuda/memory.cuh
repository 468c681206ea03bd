// The registers of a thread of the time loop, and the shared memory of a block.
#pragma once

#include <cstdint>

#include "cuda/plan.h"

#ifdef __CUDACC__
#define RNNFUSED_PHASE __host__ __device__ __forceinline__
#else
#define RNNFUSED_PHASE inline
#endif

namespace rnnfused {
namespace cuda {

// The value in a register. The compiler would else load a kernel's argument again in every step, and wait for it.
RNNFUSED_PHASE int kept(int value) {
#ifdef __CUDA_ARCH__
  return __shfl_sync(~0u, value, threadIdx.x % 32);  // opaque to it
#else
  return value;
#endif
}

// A word of the new state that a thread finishes in every step. All its places are computed once, before the loop.
struct Item {
  int row;              // of the tile; kNoRow where the thread has no such word
  int word;             // in a state
  int sum;              // of its first unit, among the sums of a slice
  uint32_t offsets[3];  // of its first unit in the tensors of the step, from the tile's first row on, in elements
};
constexpr int kNoRow = INT32_MAX;

// A block's shared memory: the state that a step reads, the state that it writes, and partial sums. Both states are
// one where the new state goes through global memory.
template <class Product>
struct Shared {
  using Word = typename Product::Word;
  using T = typename Product::T;
  Word* states;            // (states, tile_rows, row_words)
  T* sums;                 // (slices, tile_rows, sum_row)
  int between;             // words from a state to the other
  int between_sums;        // from a slice to the next
  int state_row, sum_row;  // of a row

  RNNFUSED_PHASE void place(char* memory, const Plan& plan) {
    const int words = static_cast<int>(state_words<Product>(plan));
    states = reinterpret_cast<Word*>(memory);
    sums = reinterpret_cast<T*>(memory + plan.states() * words * sizeof(Word));
    between = kept(plan.states() == 1 ? 0 : words);
    between_sums = kept(static_cast<int>(sums_stride<Product>(plan)));
    state_row = kept(Product::row_words(plan));
    sum_row = kept(Product::sum_row(plan));
  }

  RNNFUSED_PHASE Word* state(int which) const { return states + which * between; }
};

template <class Product>
struct Thread {
  int rank;   // of its block in the team
  int index;  // in its block
  int slice;  // the part of the previous state that it multiplies with
  int group;  // the units that it multiplies for
  Shared<Product> shared;
  typename Product::Weights weights;
  Item items[Product::kItems];
  int least_row;                                      // of the items
  int part;                                           // of the sums of its words, which it shares with its neighbours
  int num_slices, slice_stride;                       // of that part: sums to add, and elements from one to the next
  typename Product::Word inputs[Product::kItems][2];  // of the step
  typename Product::Word next_inputs[Product::kItems][2];  // on their way
  typename Product::Word results[Product::kItems];
};

}  // namespace cuda
}  // namespace rnnfused
