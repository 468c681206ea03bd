// How the processor treats subnormal numbers, which each thread chooses for itself: torch.set_flush_denormal changes the
// thread that calls it, and a result must not depend on the thread that makes it.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace rnnfused {

#if defined(__x86_64__)
using FloatMode = unsigned;
inline FloatMode float_mode() { return _mm_getcsr(); }
inline void set_float_mode(FloatMode mode) { _mm_setcsr(mode); }
#elif defined(__aarch64__)
using FloatMode = uint64_t;
inline FloatMode float_mode() {
  FloatMode mode;
  __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
  return mode;
}
inline void set_float_mode(FloatMode mode) { __asm__ volatile("msr fpcr, %0" : : "r"(mode)); }
#else
using FloatMode = int;
inline FloatMode float_mode() { return 0; }
inline void set_float_mode(FloatMode) {}
#endif

// Gives the thread another mode for a while.
class FloatModeGuard {
 public:
  explicit FloatModeGuard(FloatMode mode) : before_(float_mode()) { set_float_mode(mode); }
  FloatModeGuard(const FloatModeGuard&) = delete;
  ~FloatModeGuard() { set_float_mode(before_); }

 private:
  const FloatMode before_;
};

}  // namespace rnnfused
