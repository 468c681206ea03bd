// The layout of a call on the GPU. A team of blocks runs a tile of batch rows through all steps. Each block owns a
// slice of the hidden units and keeps its part of W_hh in registers for the whole loop.
#pragma once

#include <cstdint>
#include <string>

#include "cuda/tuning.h"
#include "params.h"

namespace rnnfused {
namespace cuda {

// How the blocks of a team exchange the new state after every step.
enum class Exchange : int32_t {
  none,     // one block: its own shared memory
  cluster,  // a thread-block cluster: stores into each other's shared memory (Hopper and newer)
  grid,     // through global memory, in a cooperative launch: larger teams, and before Hopper
};

// How a block of a cluster sends its part of the new state.
enum class Send : int32_t {
  words,  // st.async of one word per thread and peer
  wide,   // st.async of 16 bytes, which the lanes of a warp gather first; faster where both can be
};

constexpr int kMaxPortableCluster = 8;  // blocks that every GPU with clusters allows

struct Plan {
  int blocks = 0;  // of a team; 0: the call does not fit
  Exchange exchange = Exchange::none;
  int units = 0;       // hidden units per block
  int depth = 0;       // values of the state that a thread, or a warp, multiplies with
  int slices = 0;      // parts of the state: ceil(hidden_size / depth)
  int groups = 0;      // parts of a block's units
  int threads = 0;     // per block
  int batch_tile = 0;  // rows per team
  int items = 0;       // words of a new state that a thread finishes, at most
  int parts = 1;       // neighbouring threads that share a word's sums, where there are more threads than words
  int row_factor = 0;
  Send send = Send::words;
  float estimated_us = 0;  // of a step, by cost.h

  // i / (words of a block's row), without a division: exact while i times the divisor is below 2^20.
  RNNFUSED_EVERYWHERE int row_of(int i) const { return i * row_factor >> 20; }

  // States in a block's shared memory. In a cluster, other blocks write the next one while this block reads the last.
  RNNFUSED_EVERYWHERE int states() const { return exchange == Exchange::grid ? 1 : 2; }
};

// The layout in words, such as "cluster of 8, 64 units a block, tile of 4 rows, depth 32, 256 threads".
inline std::string describe(const Plan& plan) {
  const std::string sent = plan.send == Send::words ? " sending words" : "";  // by another kernel
  const std::string team = plan.exchange == Exchange::cluster ? "cluster of " + std::to_string(plan.blocks) + sent
                           : plan.exchange == Exchange::grid  ? "grid of " + std::to_string(plan.blocks)
                                                              : "one block";
  return team + ", " + std::to_string(plan.units) + " units a block, tile of " + std::to_string(plan.batch_tile) +
         (plan.batch_tile == 1 ? " row, depth " : " rows, depth ") + std::to_string(plan.depth) + ", " +
         std::to_string(plan.threads) + " threads" + (plan.send == Send::wide ? ", wide sends" : "");
}

struct Device {
  int multiprocessors;
  int64_t shared_bytes;  // per block, at most
  int major, minor;      // compute capability
  double gigahertz;
};

// `Product` is Fma<T> (fma_product.cuh) or Mma<Stored> (mma_product.cuh). It defines the units and state values of
// each thread, and the layout of states and partial sums in shared memory.
template <class Product>
RNNFUSED_EVERYWHERE int tile_rows(const Plan& plan) {
  return (plan.batch_tile + Product::kRows - 1) / Product::kRows * Product::kRows;
}

template <class Product>
RNNFUSED_EVERYWHERE int64_t state_words(const Plan& plan) {
  return int64_t(tile_rows<Product>(plan)) * Product::row_words(plan);
}

// Elements from a slice's sums to the next one's. Threads that share a word read one slice each, from different banks.
template <class Product>
RNNFUSED_EVERYWHERE int64_t sums_stride(const Plan& plan) {
  constexpr int kBanks = 128 / static_cast<int>(sizeof(typename Product::T));  // elements in all banks
  const int64_t elements = int64_t(tile_rows<Product>(plan)) * Product::sum_row(plan);
  if (plan.parts == 1) return elements;
  const int64_t wanted = kBanks / plan.parts;
  return elements + ((wanted - elements) % kBanks + kBanks) % kBanks;
}

template <class Product>
inline int64_t shared_bytes(const Plan& plan) {
  return plan.states() * state_words<Product>(plan) * sizeof(typename Product::Word) +
         plan.slices * sums_stride<Product>(plan) * sizeof(typename Product::T);
}

// Words of the copies and stores of 16 bytes.
template <class Product>
constexpr int kWideWords = 16 / static_cast<int>(sizeof(typename Product::Word));

// Whether a cluster may send in this way: each block's part of a row must consist of whole 16 bytes.
template <class Product>
bool can_send(const Plan& plan, int64_t hidden_size, Send send) {
  if (send == Send::words) return true;
  constexpr int kUnitsOf16Bytes = kWideWords<Product> * Product::kValues;
  const bool whole = plan.units % kUnitsOf16Bytes == 0 && hidden_size % kUnitsOf16Bytes == 0;
  // The lanes that gather 16 bytes must own neighbours in one row.
  return plan.exchange == Exchange::cluster && whole && plan.threads % kWideWords<Product> == 0;
}

// The rows whose words the threads of a block finish in a step.
template <class Product>
int64_t most_rows(const Plan& plan) {
  return int64_t(Product::max_items(plan.depth)) * plan.threads / (plan.units / Product::kValues);
}

// Gives a plan its rows.
template <class Product>
void set_rows(Plan& plan, int rows) {
  const int words = rows * (plan.units / Product::kValues);
  plan.batch_tile = rows;
  plan.items = (words + plan.threads - 1) / plan.threads;
  plan.parts = 1;
  const auto fits = [&](int parts) {
    return words * parts <= plan.threads && parts <= plan.slices && parts <= kMaxParts &&
           plan.threads % (kWideWords<Product> * parts) == 0;
  };
  while (rows > 0 && fits(2 * plan.parts)) plan.parts *= 2;
}

// The layout for a team of `blocks` blocks; batch_tile is 0 if the weight does not fit. A team gets the rows that let
// `teams` teams run the whole batch at once, or fewer if those do not fit.
template <class Product>
Plan make_plan(int64_t hidden_size, int64_t batch_size, int blocks, Exchange exchange, int64_t teams,
               int64_t shared_limit) {
  Plan plan;
  for (const int depth : Product::kDepths) {
    plan.blocks = blocks;
    plan.exchange = exchange;
    plan.depth = depth;
    plan.units = static_cast<int>((hidden_size + blocks - 1) / blocks);
    plan.units = (plan.units + Product::kValues - 1) / Product::kValues * Product::kValues;
    plan.slices = static_cast<int>((hidden_size + depth - 1) / depth);
    plan.groups = (plan.units + Product::kUnits - 1) / Product::kUnits;
    plan.threads = plan.slices * plan.groups * Product::kLanes;
    plan.batch_tile = 0;
    // No block waits for a block of a cluster that owns no units: its peers would run ahead of it, and it would wait
    // for bytes that came too early.
    if (exchange == Exchange::cluster && int64_t(blocks - 1) * plan.units >= hidden_size) continue;
    const int words = plan.units / Product::kValues;
    plan.row_factor = ((1 << 20) + words - 1) / words;
    if (plan.threads > Product::max_threads(depth)) continue;
    const int64_t wanted = (batch_size + teams - 1) / teams, most = most_rows<Product>(plan);
    plan.batch_tile = static_cast<int>(wanted < 1 ? 1 : wanted < most ? wanted : most);
    set_rows<Product>(plan, plan.batch_tile);
    while (plan.batch_tile > 0 && shared_bytes<Product>(plan) > shared_limit) {
      set_rows<Product>(plan, plan.batch_tile - 1);
    }
    plan.send = can_send<Product>(plan, hidden_size, Send::wide) ? Send::wide : Send::words;
    if (plan.batch_tile > 0) break;
  }
  return plan;
}

}  // namespace cuda
}  // namespace rnnfused
