#include "failures.h"

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>

#ifndef __has_feature
#define __has_feature(name) 0
#endif

namespace {

constexpr int64_t kOff = -1, kFailed = -2;
std::atomic<int64_t> left{kOff};  // allocations before the one that fails

}  // namespace

#if !__has_feature(thread_sanitizer)  // Clang's has these operators itself, and no allocation fails
namespace {

void* allocate(size_t bytes, size_t alignment) {
  int64_t seen = left.load();
  while (seen >= 0 && !left.compare_exchange_weak(seen, seen == 0 ? kFailed : seen - 1)) {
  }
  if (seen == 0) throw std::bad_alloc();
  void* memory = nullptr;
  if (posix_memalign(&memory, alignment, bytes) != 0) throw std::bad_alloc();
  return memory;
}

}  // namespace

void* operator new(size_t bytes) { return allocate(bytes, alignof(std::max_align_t)); }
void* operator new[](size_t bytes) { return allocate(bytes, alignof(std::max_align_t)); }
void* operator new(size_t bytes, std::align_val_t alignment) { return allocate(bytes, static_cast<size_t>(alignment)); }
void* operator new[](size_t bytes, std::align_val_t alignment) {
  return allocate(bytes, static_cast<size_t>(alignment));
}
void* operator new(size_t bytes, const std::nothrow_t&) noexcept { return std::malloc(bytes); }
void* operator new[](size_t bytes, const std::nothrow_t&) noexcept { return std::malloc(bytes); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t, std::align_val_t) noexcept { std::free(memory); }
#endif

namespace rnnfused {

FailingAllocation::FailingAllocation(int64_t n) { left = n; }
FailingAllocation::~FailingAllocation() { left = kOff; }
bool FailingAllocation::has_failed() const { return left.load() == kFailed; }

}  // namespace rnnfused
