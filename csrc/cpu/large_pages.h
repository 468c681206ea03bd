// Large pages for large results. What the C library maps anew costs a page fault every 4 KB, in all more than a
// twentieth of the loop that fills it; a page of 2 MB costs one.
#pragma once

#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace rnnfused {

// Advises the system to map this memory, which nobody has used yet, in large pages. What is smaller than glibc ever
// maps by itself (mallopt(3), M_MMAP_THRESHOLD) comes from memory that was in use before, and is left as it is.
inline void advise_large_pages([[maybe_unused]] void* data, [[maybe_unused]] int64_t bytes) {
#if defined(__linux__)
  constexpr int64_t kMapped = 32 * 1024 * 1024;
  constexpr uintptr_t kPage = 2 * 1024 * 1024;
  if (bytes < kMapped) return;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kPage - 1) / kPage * kPage;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + static_cast<uintptr_t>(bytes)) / kPage * kPage;
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // may refuse: then pages are small
#endif
}

}  // namespace rnnfused
