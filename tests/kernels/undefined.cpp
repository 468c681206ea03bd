// Runs the kernels' arithmetic on lanes with any bits, compiled with UndefinedBehaviorSanitizer for one instruction
// set. A program rather than a module, because Python would have to preload the sanitizer's runtime.
#include <cstdio>
#include <cstring>
#include <initializer_list>

#define RNNFUSED_ISA checked
#include "cpu/kernels/bfloat16.h"
#include "cpu/kernels/float16.h"
#include "cpu/kernels/tanh.h"

using namespace rnnfused::checked;

template <class T, class Bits>
void look_at(Bits bits) {
  T values[kLanes<T>], results[kLanes<T>];
  for (T& value : values) std::memcpy(&value, &bits, sizeof value);
  store(results, rounded<T>(rnnfused::checked::tanh(load(values))));
  __asm__ volatile("" : : "r"(results) : "memory");  // otherwise the compiler removes unused results, with their checks
}

int main() {
  // Signs, exponents and mantissas of every kind: NaN, infinities, subnormal numbers. The low bits of a NaN reach the
  // arithmetic on exponents.
  for (uint64_t high = 0; high < 1 << 12; ++high) {
    for (const uint64_t low : {uint64_t{0}, uint64_t{1}, uint64_t{0xff}, uint64_t{0x7ff}, ~uint64_t{0}}) {
      look_at<double>(high << 52 | (low & ((uint64_t{1} << 52) - 1)));
      look_at<float>(static_cast<uint32_t>(high << 20 | (low & 0xfffff)));
      look_at<Bfloat16>(static_cast<uint16_t>(high << 4 | (low & 0xf)));
      look_at<Float16>(static_cast<uint16_t>(high << 4 | (low & 0xf)));
    }
  }
  std::puts("all defined");
}
