// Sizes that cannot overflow: of memory, of work, of parts. Nothing but arithmetic, for every device and instruction
// set.
#pragma once

#include <cstdint>

namespace rnnfused {

#define RNNFUSED_SIZE inline constexpr __attribute__((always_inline))

// More bytes than there are addresses, and more multiply-adds than a year has time for. Several of these add up and
// round up without overflow.
constexpr int64_t kTooLarge = int64_t{1} << 60;

// A product of sizes; kTooLarge if it is larger.
RNNFUSED_SIZE int64_t product_of(int64_t a, int64_t b) {
  int64_t result = 0;
  return __builtin_mul_overflow(a, b, &result) || result > kTooLarge ? kTooLarge : result;
}
template <class... Sizes>
RNNFUSED_SIZE int64_t product_of(int64_t a, int64_t b, Sizes... others) {
  return product_of(a, product_of(b, others...));
}

// Splits `count` items into `parts` parts. The first parts may be larger by one.
class Parts {
 public:
  RNNFUSED_SIZE Parts(int64_t count, int64_t parts)
      : each_(parts > 1 ? count / parts : count), larger_(parts > 1 ? count % parts : 0) {}

  // Where part i begins, and the one before it ends.
  RNNFUSED_SIZE int64_t begin(int64_t i) const { return each_ * i + (i < larger_ ? i : larger_); }

 private:
  int64_t each_, larger_;
};

}  // namespace rnnfused
