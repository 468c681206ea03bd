// Memory for the time of a call. What the system gives afresh costs a page fault every 4 KB, more than much of the
// work that is done in it; the heap's own time would show in a small call; and a thread's stack may be small. So a
// thread keeps a few blocks from call to call, and a few little ones together.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>
#include <stdexcept>

#include "cpu/tuning.h"
#include "sizes.h"

namespace rnnfused {

struct Block {
  char* memory = nullptr;
  int64_t bytes = 0;

  static Block make(int64_t bytes) {
    return {static_cast<char*>(::operator new[](bytes, std::align_val_t(kCacheLine))), bytes};
  }
  void release() const { ::operator delete[](memory, std::align_val_t(kCacheLine)); }
};

// Blocks that a thread may use again; the oldest go first.
class SpareBlocks {
 public:
  ~SpareBlocks() {
    while (count_ > 0) forget(0);
  }

  // A block of at least so many bytes, and not of many more.
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

// Little blocks of one thread, side by side in one large one.
class LittleBlocks {
 public:
  // Null if all are in use.
  char* take() {
    if (free_ == 0) return nullptr;
    if (!memory_) begin();
    const int i = __builtin_ctz(free_);
    free_ &= free_ - 1;
    return memory_ + i * kDistance;
  }

  // One of these, by the thread that took it.
  void give(const char* block) { free_ |= 1u << (block - memory_) / kDistance; }

 private:
  static constexpr int64_t kDistance = kLittleBlockBytes + kLittleBlockGap;

  // Frees the memory when its thread ends. Apart from the blocks: these are found faster if nothing has to be done for
  // them then.
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

// To be made and to end in one thread.
class Memory {
 public:
  Memory() = default;
  explicit Memory(int64_t bytes) { allocate(bytes); }
  Memory(const Memory&) = delete;
  ~Memory() {
    if (block_.bytes > kLittleBlockBytes) {
      spare_blocks().give(block_);
    } else if (block_.memory) {
      little_blocks.give(block_.memory);
    }
  }

  // To be called once. Throws if there cannot be so much.
  void allocate(int64_t bytes) {
    if (bytes < 0 || bytes >= kTooLarge) {
      throw std::runtime_error("rnnfused: a call of these sizes needs more memory than there can be");
    }
    if (bytes <= kLittleBlockBytes) {
      block_ = {little_blocks.take(), 0};
      if (block_.memory) return;
      bytes = kLittleBlockBytes + kCacheLine;
    }
    block_ = spare_blocks().take(bytes);
  }
  char* get() { return block_.memory; }
  const char* get() const { return block_.memory; }

 private:
  Block block_;  // of no bytes: a little one
};

}  // namespace rnnfused
