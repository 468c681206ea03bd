// One call on the CPU: memory for the packed weight and the threads' scratch, and the work split over threads
// once, so that no step ever synchronises. parallel_for(n, f) calls f(i) for i in [0, n).
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
using Memory = std::unique_ptr<char[], AlignedDelete>;

inline Memory new_memory(int64_t bytes) {
  return Memory(static_cast<char*>(::operator new[](bytes, std::align_val_t(kCacheLine))));
}

// Starting threads costs 5 to 19 us; below this many multiply-adds a thread it is not worth it.
constexpr int64_t kMinWorkPerThread = 500'000;
// Packing moves memory rather than multiplies; it is worth sharing from this many elements.
constexpr int64_t kMinPackPerThread = 200'000;

inline int64_t num_chunks(int64_t work, int64_t min_work, int64_t max_chunks) {
  return std::max<int64_t>(1, std::min(work / min_work, max_chunks));
}

inline int64_t round_up(int64_t bytes) { return (bytes + kCacheLine - 1) / kCacheLine * kCacheLine; }

// Packs a (depth, columns) matrix, then calls run(packed, scratch, begin, end) for each thread's share of
// `items`, with scratch_bytes(the largest share) of its own.
template <class ScratchBytes, class Run, class ParallelFor>
void run_packed(Dtype dtype, const ConstMatrix& matrix, int64_t depth, int64_t columns, int64_t items,
                int64_t work, int64_t max_threads, const ScratchBytes& scratch_bytes, const Run& run,
                const ParallelFor& parallel_for) {
  const CpuKernels& cpu = cpu_kernels();
  const int64_t threads = num_chunks(work, kMinWorkPerThread, std::min(max_threads, items));
  const int64_t packed_bytes = round_up(cpu.packed_bytes(dtype, depth, columns));
  const int64_t bytes = round_up(scratch_bytes((items + threads - 1) / threads));
  const Memory memory = new_memory(packed_bytes + threads * bytes);
  char* packed = memory.get();
  char* scratch = packed + packed_bytes;

  const int64_t panels = cpu.num_panels(dtype, columns);
  const int64_t packers = num_chunks(depth * columns, kMinPackPerThread, std::min(max_threads, panels));
  parallel_for(packers, [&](int64_t i) {
    cpu.pack(dtype, matrix, depth, columns, packed, panels * i / packers, panels * (i + 1) / packers);
  });
  parallel_for(threads, [&](int64_t i) {
    run(packed, scratch + i * bytes, items * i / threads, items * (i + 1) / threads);
  });
}

// `kernel` is CpuKernels::forward, which takes W^T, or ::backward.
template <class Call, class ParallelFor>
void launch_loop(const Call& call, bool transposed,
                 void (*kernel)(const Call&, const void*, void*, int64_t, int64_t), int64_t max_threads,
                 const ParallelFor& parallel_for) {
  const int64_t size = call.hidden_size;
  ConstMatrix weight = call.weight_hh;
  if (transposed) std::swap(weight.row_stride, weight.column_stride);
  run_packed(
      call.dtype, weight, size, size, call.batch_size, call.num_steps * call.batch_size * size * size,
      max_threads, [&](int64_t rows) { return cpu_kernels().loop_scratch_bytes(call, rows); },
      [&](const void* packed, void* scratch, int64_t begin, int64_t end) {
        kernel(call, packed, scratch, begin, end);
      },
      parallel_for);
}

template <class ParallelFor>
void launch(const Projection& call, int64_t max_threads, const ParallelFor& parallel_for) {
  const CpuKernels& cpu = cpu_kernels();
  run_packed(
      call.dtype, call.weight, call.in_size, call.out_size, call.rows,
      call.rows * call.in_size * call.out_size, max_threads,
      [&](int64_t) { return cpu.project_scratch_bytes(call); },
      [&](const void* packed, void* scratch, int64_t begin, int64_t end) {
        cpu.project(call, packed, scratch, begin, end);
      },
      parallel_for);
}

template <class ParallelFor>
void launch(const ProductSum& call, int64_t max_threads, const ParallelFor& parallel_for) {
  const CpuKernels& cpu = cpu_kernels();
  const int64_t work = call.outer * call.inner * call.left_size * call.right_size;
  const int64_t threads = num_chunks(work, kMinWorkPerThread, std::min(max_threads, call.left_size));
  const int64_t bytes = round_up(cpu.sum_scratch_bytes(call));
  const Memory scratch = new_memory(threads * bytes);
  parallel_for(threads, [&](int64_t i) {
    cpu.sum_products(call, scratch.get() + i * bytes, call.left_size * i / threads,
                     call.left_size * (i + 1) / threads);
  });
}

}  // namespace rnnfused
