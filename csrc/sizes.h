// Arithmetic on sizes that cannot overflow, for every device and instruction set.
#pragma once

#include <cstdint>

namespace rnnfused {

#define RNNFUSED_SIZE inline constexpr __attribute__((always_inline))

// The largest size: more bytes than the address space, more multiply-adds than a year allows. A few of these can be
// added and rounded up without overflow.
constexpr int64_t kTooLarge = int64_t{1} << 60;

// The product of sizes, at most kTooLarge.
RNNFUSED_SIZE int64_t product_of(int64_t a, int64_t b) {
  int64_t result = 0;
  return __builtin_mul_overflow(a, b, &result) || result > kTooLarge ? kTooLarge : result;
}
template <class... Sizes>
RNNFUSED_SIZE int64_t product_of(int64_t a, int64_t b, Sizes... others) {
  return product_of(a, product_of(b, others...));
}

// Splits `count` items into `parts` parts; the first parts may have one item more.
class Parts {
 public:
  RNNFUSED_SIZE Parts(int64_t count, int64_t parts)
      : each_(parts > 1 ? count / parts : count), larger_(parts > 1 ? count % parts : 0) {}

  // The first item of part i; part i - 1 ends there.
  RNNFUSED_SIZE int64_t begin(int64_t i) const { return each_ * i + (i < larger_ ? i : larger_); }

 private:
  int64_t each_, larger_;
};

}  // namespace rnnfused
