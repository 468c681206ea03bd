// Runs random calls of everything in csrc/cpu, without torch and Python, and prints a hash of each call's results:
// for processors under an emulator, and for the sanitizers.
//
//   driver CALLS SEED THREADS [fail | norms]
//
// With "fail" each call is made again and again, with one allocation after another that fails. With "norms" it prints the
// norms of the results of layers in bfloat16 instead: their bits differ where a processor rounds products in pairs.
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

bool prints_norms = false;

void print_norms(int64_t number, LayerCase& call, const Workers& workers) {
  if (!call.is_bfloat16()) return;
  call.run(workers);
  std::printf("%" PRId64 " %s:", number, call.name().c_str());
  for (const Norms& norms : call.bfloat16_norms()) std::printf(" %.9g %.9g", norms.magnitudes, norms.sum);
  std::printf("\n");
}
template <class Case>
void print_norms(int64_t, Case&, const Workers&) {}

template <class Case>
void run(Random& random, int64_t number, const Workers& workers) {
  Case call(random);
  if (prints_norms) return print_norms(number, call, workers);
  const uint64_t hash = call.run(workers);
  std::printf("%" PRId64 " %s: %016" PRIx64 "\n", number, call.name().c_str(), hash);
}

}  // namespace

int main(int count, char** arguments) {
  fails_allocations = count == 5 && std::strcmp(arguments[4], "fail") == 0;
  prints_norms = count == 5 && std::strcmp(arguments[4], "norms") == 0;
  if (count != 4 && !fails_allocations && !prints_norms) {
    std::fprintf(stderr, "usage: driver CALLS SEED THREADS [fail | norms]\n");
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
