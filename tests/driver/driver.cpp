// Runs random calls of everything in csrc/cpu, without torch and Python, and prints a hash of each call's results:
// for processors under an emulator, and for the sanitizers.
//
//   driver CALLS SEED THREADS [fail]
//
// With "fail" each call is made again and again, with one allocation after another that fails.
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "attempts.h"
#include "buffer.h"
#include "cpu/dispatch.h"
#include "cpu/own_threads.h"
#include "head_case.h"
#include "layer_case.h"

using namespace rnnfused;

namespace {

template <class Case>
void run(Random& random, int64_t number, const Workers& workers) {
  Case call(random);
  const uint64_t hash = call.run(workers);
  std::printf("%" PRId64 " %s: %016" PRIx64 "\n", number, call.name().c_str(), hash);
}

}  // namespace

int main(int count, char** arguments) {
  fails_allocations = count == 5 && std::strcmp(arguments[4], "fail") == 0;
  if (count != 4 && !fails_allocations) {
    std::fprintf(stderr, "usage: driver CALLS SEED THREADS [fail]\n");
    return 2;
  }
  const int64_t calls = std::atoll(arguments[1]), seed = std::atoll(arguments[2]);
  const Workers workers = {std::atoll(arguments[3]), run_on_own_threads};
  std::fprintf(stderr, "kernels: %s\n", cpu_kernels().name);
  for (int64_t i = 0; i < calls; ++i) {
    Random random(seed * 1'000'003 + i);
    const int64_t kind = random.below(10);
    if (kind < 8) {
      run<LayerCase>(random, i, workers);
    } else if (kind == 8) {
      run<HeadCase>(random, i, workers);
    } else {
      run<GenerationCase>(random, i, workers);
    }
  }
}
