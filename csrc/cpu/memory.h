// Memory for the duration of a call. Fresh memory costs a page fault every 4 KB, which can exceed the work done in it;
// heap calls would slow down small calls; and a thread's stack may be small. So each thread keeps a few blocks from
// call to call, and a few little ones side by side.
//
// RNNFUSED_EXACT_MEMORY, for sanitizers: no block is kept, each has its exact size, and reads before writes find NaN.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <stdexcept>

#include "cpu/tuning.h"
#include "sizes.h"

namespace rnnfused {

// Rounds a number of bytes up to whole cache lines.
inline int64_t whole_lines(int64_t bytes) { return (bytes + kCacheLine - 1) / kCacheLine * kCacheLine; }

struct Block {
  char* memory = nullptr;
  int64_t bytes = 0;

  static Block make(int64_t bytes) {
    return {static_cast<char*>(::operator new[](bytes, std::align_val_t(kCacheLine))), bytes};
  }
  void release() const { ::operator delete[](memory, std::align_val_t(kCacheLine)); }
};

// Blocks that a thread may use again. The oldest are freed first.
class SpareBlocks {
 public:
  ~SpareBlocks() {
    while (count_ > 0) forget(0);
  }

  // A block of `bytes` to 2 * `bytes`, or a new one.
  Block take(int64_t bytes) {
    for (int i = count_ - 1; i >= 0; --i) {
      if (blocks_[i].bytes < bytes || blocks_[i].bytes > 2 * bytes) continue;
      return remove(i);
    }
    return Block::make(bytes);
  }

  void give(const Block& block) {
    if (block.bytes > kSpareBytes) return block.release();
    while (count_ == kSpareBlocks || bytes_ + block.bytes > kSpareBytes) forget(0);
    blocks_[count_++] = block;
    bytes_ += block.bytes;
  }

 private:
  void forget(int i) { remove(i).release(); }
  Block remove(int i) {
    const Block block = blocks_[i];
    for (; i + 1 < count_; ++i) blocks_[i] = blocks_[i + 1];
    --count_;
    bytes_ -= block.bytes;
    return block;
  }

  Block blocks_[kSpareBlocks];
  int count_ = 0;
  int64_t bytes_ = 0;
};

inline SpareBlocks& spare_blocks() {
  static thread_local SpareBlocks blocks;
  return blocks;
}

// A thread's little blocks, side by side in one large block.
class LittleBlocks {
 public:
  // Returns null if all are in use.
  char* take() {
    if (free_ == 0) return nullptr;
    if (!memory_) begin();
    const int i = __builtin_ctz(free_);
    free_ &= free_ - 1;
    return memory_ + i * kDistance;
  }

  // Only the thread that took a block may give it back.
  void give(const char* block) { free_ |= 1u << (block - memory_) / kDistance; }

 private:
  static constexpr int64_t kDistance = kLittleBlockBytes + kLittleBlockGap;

  // Frees the memory when its thread ends. It is a separate object because thread-local variables without a destructor
  // are accessed faster.
  struct Owner {
    LittleBlocks* of = nullptr;
    ~Owner() {
      if (of) of->end();
    }
  };

  void begin() {
    static thread_local Owner owner;
    memory_ = Block::make(kLittleBlocks * kDistance).memory;
    owner.of = this;
  }
  void end() {
    Block{memory_}.release();
    memory_ = nullptr;
  }

  char* memory_ = nullptr;
  unsigned free_ = (1u << kLittleBlocks) - 1;
};

inline thread_local LittleBlocks little_blocks;

// One block of memory; the thread that makes it must also destroy it.
class Memory {
 public:
  Memory() = default;
  explicit Memory(int64_t bytes) { allocate(bytes); }
  Memory(const Memory&) = delete;
  ~Memory() {
#ifdef RNNFUSED_EXACT_MEMORY
    block_.release();
#else
    if (block_.bytes > kLittleBlockBytes) {
      spare_blocks().give(block_);
    } else if (block_.memory) {
      little_blocks.give(block_.memory);
    }
#endif
  }

  // Call it once. Throws std::runtime_error if no machine has that much.
  void allocate(int64_t bytes) {
    if (bytes < 0 || bytes >= kTooLarge) {
      throw std::runtime_error("rnnfused: a call of these sizes needs more memory than there can be");
    }
#ifdef RNNFUSED_EXACT_MEMORY
    block_ = Block::make(bytes);
    std::memset(block_.memory, 0xff, bytes);
#else
    if (bytes <= kLittleBlockBytes) {
      block_ = {little_blocks.take(), 0};
      if (block_.memory) return;
      bytes = kLittleBlockBytes + kCacheLine;  // more than a little block, by which ~Memory() tells them apart
    }
    block_ = spare_blocks().take(bytes);
#endif
  }
  char* get() { return block_.memory; }
  const char* get() const { return block_.memory; }

 private:
  Block block_;  // 0 bytes: a little block
};

}  // namespace rnnfused
