// The choice of a symbol from logits (generation.h).
#pragma once

#include <cstdint>

#include "generation.h"

namespace rnnfused {

// A uniform number in [0, 1), a multiple of 2^-53, for one step of a stream: Philox 4x32-10 (Salmon et al., "Parallel
// Random Numbers: As Easy as 1, 2, 3", 2011) with the key `seed` and the counter (step, stream), low words first. The
// number's high bits are the first word of the result, its low bits the second.
double uniform_of(uint64_t seed, uint64_t stream, uint64_t step);

// Chooses a row's symbols. It has memory of its own for a row's candidates, so each worker needs one.
class Chooser {
 public:
  // `candidates` has candidates_bytes() of memory; null where that is 0.
  Chooser(const Choice& choice, Dtype dtype, int64_t vocab_size, void* candidates);

  // Bytes for the candidates of one row, whole cache lines.
  static int64_t candidates_bytes(const Choice& choice, int64_t vocab_size);

  // The symbol of vocab_size logits in sum_dtype, which become weights; -1 where one is NaN or +inf, or all are -inf.
  int64_t choose(void* logits, uint64_t stream, uint64_t step) const;

 private:
  struct Candidate {
    double weight;
    int64_t id;
  };

  template <class Sum>
  int64_t draw(Sum* logits, int64_t largest, double uniform) const;
  template <class Sum>
  void leave_out(Sum* weights) const;

  const Choice choice_;
  const Dtype dtype_;
  const int64_t vocab_size_;
  Candidate* const candidates_;
};

}  // namespace rnnfused
