// Follows the lanes through the stages of kernels/fold.h, for the instruction set of the compiler's flags: no machine
// needs to have it.
#define RNNFUSED_ISA checked
#include "cpu/kernels/fold.h"

namespace rnnfused {
namespace checked {

// The sum of the lanes first, first + size, first + 2 size, .. of a register.
struct Partial {
  int of_register, first;
};

template <class T>
constexpr bool folds_each_register() {
  constexpr int n = kLanes<T>;
  Partial lanes[n][n] = {};
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < n; ++j) lanes[i][j] = {i, j};
  }
  for (int size = n; size > 1; size /= 2) {
    const Lanes<T> lower = lanes_of_stage<T>(size, 0), upper = lanes_of_stage<T>(size, 1);
    for (int i = 0; i < size / 2; ++i) {
      Partial result[n] = {};
      for (int to = 0; to < n; ++to) {
        const int a = lower.from[to], b = upper.from[to];
        const Partial left = lanes[a < n ? i : i + size / 2][a % n], right = lanes[b < n ? i : i + size / 2][b % n];
        if (left.of_register != right.of_register || right.first != left.first + size / 2) return false;
        result[to] = left;
      }
      for (int to = 0; to < n; ++to) lanes[i][to] = result[to];
    }
  }
  for (int i = 0; i < n; ++i) {
    if (lanes[0][lanes_of_registers<T>().from[i]].of_register != i) return false;
  }
  return true;
}

static_assert(folds_each_register<float>());
static_assert(folds_each_register<double>());

}  // namespace checked
}  // namespace rnnfused
