// One call on the CPU: memory for the packed weight and the states, and the batch split over threads for
// the whole loop, so that no step ever synchronises.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <new>

#include "dispatch.h"

namespace rnnfused {

constexpr int64_t kCacheLine = 64;

struct AlignedDelete {
  void operator()(char* memory) const { ::operator delete[](memory, std::align_val_t(kCacheLine)); }
};

// Starting threads costs 5 to 19 us; below this many multiply-adds a thread it is not worth it.
constexpr int64_t kMinWorkPerThread = 500'000;
// Packing moves memory rather than multiplies; it is worth sharing from this many elements.
constexpr int64_t kMinPackPerThread = 200'000;

inline int64_t num_chunks(int64_t work, int64_t min_work, int64_t max_chunks) {
  return std::max<int64_t>(1, std::min(work / min_work, max_chunks));
}

// `kernel` is CpuKernels::forward or ::backward; parallel_for(n, f) calls f(i) for i in [0, n).
template <class Call, class ParallelFor>
void launch(const Call& call, bool transposed,
            void (*kernel)(const Call&, const void*, void*, int64_t, int64_t), int64_t max_threads,
            const ParallelFor& parallel_for) {
  const CpuKernels& cpu = cpu_kernels();
  const int64_t weight_size = call.hidden_size * call.hidden_size;
  const int64_t rows = call.batch_size;
  const int64_t threads = num_chunks(call.num_steps * rows * weight_size, kMinWorkPerThread,
                                     std::min(max_threads, rows));
  const int64_t most_rows = (rows + threads - 1) / threads;
  const int64_t packed_bytes = cpu.packed_bytes(call);
  const int64_t scratch_bytes = cpu.scratch_bytes(call, most_rows);
  const std::unique_ptr<char[], AlignedDelete> memory(static_cast<char*>(::operator new[](
      packed_bytes + threads * scratch_bytes, std::align_val_t(kCacheLine))));
  char* packed = memory.get();
  char* scratch = packed + packed_bytes;

  const int64_t panels = cpu.num_panels(call);
  const int64_t packers = num_chunks(weight_size, kMinPackPerThread, std::min(max_threads, panels));
  parallel_for(packers, [&](int64_t i) {
    cpu.pack(call, transposed, packed, panels * i / packers, panels * (i + 1) / packers);
  });
  parallel_for(threads, [&](int64_t i) {
    kernel(call, packed, scratch + i * scratch_bytes, rows * i / threads, rows * (i + 1) / threads);
  });
}

}  // namespace rnnfused
