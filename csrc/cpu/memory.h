// Memory for the time of a call. What the system gives afresh costs a page fault every 4 KB, more than much of the
// work that is done in it: so a thread keeps a few blocks from call to call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>
#include <stdexcept>

#include "sizes.h"

namespace rnnfused {

constexpr int64_t kCacheLine = 64;

// Blocks that a thread may use again; the oldest go first.
class SpareBlocks {
 public:
  struct Block {
    char* memory = nullptr;
    int64_t bytes = 0;
  };

  ~SpareBlocks() {
    while (count_ > 0) forget(0);
  }

  // A block of at least so many bytes, and not of many more.
  Block take(int64_t bytes) {
    for (int i = count_ - 1; i >= 0; --i) {
      if (blocks_[i].bytes < bytes || blocks_[i].bytes > 2 * bytes) continue;
      return remove(i);
    }
    return {static_cast<char*>(::operator new[](bytes, std::align_val_t(kCacheLine))), bytes};
  }

  void give(const Block& block) {
    if (block.bytes > kMostBytes) return release(block);
    while (count_ == kMostBlocks || bytes_ + block.bytes > kMostBytes) forget(0);
    blocks_[count_++] = block;
    bytes_ += block.bytes;
  }

 private:
  static constexpr int kMostBlocks = 8;
  static constexpr int64_t kMostBytes = 8 * 1024 * 1024;

  static void release(const Block& block) { ::operator delete[](block.memory, std::align_val_t(kCacheLine)); }
  void forget(int i) { release(remove(i)); }
  Block remove(int i) {
    const Block block = blocks_[i];
    for (; i + 1 < count_; ++i) blocks_[i] = blocks_[i + 1];
    --count_;
    bytes_ -= block.bytes;
    return block;
  }

  Block blocks_[kMostBlocks];
  int count_ = 0;
  int64_t bytes_ = 0;
};

inline SpareBlocks& spare_blocks() {
  static thread_local SpareBlocks blocks;
  return blocks;
}

// A little of it lies in the object itself, where the heap's time would show.
class Memory {
 public:
  Memory() = default;
  explicit Memory(int64_t bytes) { allocate(bytes); }
  Memory(const Memory&) = delete;
  ~Memory() {
    if (block_.memory) spare_blocks().give(block_);
  }

  // To be called once. Throws if there cannot be so much.
  void allocate(int64_t bytes) {
    if (bytes < 0 || bytes >= kTooLarge) {
      throw std::runtime_error("rnnfused: a call of these sizes needs more memory than there can be");
    }
    if (bytes > kLittle) block_ = spare_blocks().take(bytes);
  }
  char* get() { return block_.memory ? block_.memory : little_; }
  const char* get() const { return block_.memory ? block_.memory : little_; }

 private:
  static constexpr int64_t kLittle = 4096;

  alignas(kCacheLine) char little_[kLittle];
  SpareBlocks::Block block_;
};

}  // namespace rnnfused
