#include "cpu/choose.h"

#include <algorithm>
#include <array>

#include "cpu/dispatch.h"
#include "cpu/memory.h"
#include "sizes.h"

namespace rnnfused {
namespace {

using Words = std::array<uint32_t, 4>;

Words philox(Words counter, uint32_t key_0, uint32_t key_1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * counter[0], b = uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<uint32_t>(b >> 32) ^ counter[1] ^ key_0, static_cast<uint32_t>(b),
               static_cast<uint32_t>(a >> 32) ^ counter[3] ^ key_1, static_cast<uint32_t>(a)};
    key_0 += 0x9E3779B9;
    key_1 += 0xBB67AE85;
  }
  return counter;
}

}  // namespace

double uniform_of(uint64_t seed, uint64_t stream, uint64_t step) {
  const auto low = [](uint64_t x) { return static_cast<uint32_t>(x); };
  const auto high = [](uint64_t x) { return static_cast<uint32_t>(x >> 32); };
  const Words words = philox({low(step), high(step), low(stream), high(stream)}, low(seed), high(seed));
  return static_cast<double>((uint64_t{words[0]} << 32 | words[1]) >> 11) * 0x1p-53;
}

int64_t Chooser::candidates_bytes(const Choice& choice, int64_t vocab_size) {
  const bool leaves_out = choice.temperature > 0 && (choice.top_p < 1 || choice.top_k > 0);
  if (!leaves_out) return 0;
  return whole_lines(product_of(vocab_size, sizeof(Candidate)));
}

Chooser::Chooser(const Choice& choice, Dtype dtype, int64_t vocab_size, void* candidates)
    : choice_(choice),
      dtype_(sum_dtype(dtype)),
      vocab_size_(vocab_size),
      candidates_(static_cast<Candidate*>(candidates)) {}

int64_t Chooser::choose(void* logits, uint64_t stream, uint64_t step) const {
  const int64_t largest = cpu_kernels().largest(dtype_, logits, vocab_size_);
  if (largest < 0 || choice_.temperature == 0) return largest;
  const double uniform = uniform_of(choice_.seed, stream, step);
  return dtype_ == Dtype::float64 ? draw(static_cast<double*>(logits), largest, uniform)
                                  : draw(static_cast<float*>(logits), largest, uniform);
}

template <class Sum>
int64_t Chooser::draw(Sum* logits, int64_t largest, double uniform) const {
  // A smaller temperature would overflow to 0 / 0; at this one, all but equal logits have the weight 0.
  const double temperature = std::max(choice_.temperature, sizeof(Sum) == 4 ? 1e-30 : 1e-300);
  cpu_kernels().weigh(dtype_, logits, vocab_size_, logits[largest], 1 / temperature);
  if (candidates_) leave_out(logits);
  double total = 0;
  for (int64_t i = 0; i < vocab_size_; ++i) total += logits[i];
  const double target = uniform * total;  // below the total: the loop ends at a symbol with a weight
  double sum = 0;
  for (int64_t i = 0; i < vocab_size_; ++i) {
    sum += logits[i];
    if (sum > target) return i;
  }
  return largest;
}

// Sets the weights of symbols that top_k and top_p leave out to 0.
template <class Sum>
void Chooser::leave_out(Sum* weights) const {
  Candidate* const begin = candidates_;
  Candidate* end = begin;
  for (int64_t i = 0; i < vocab_size_; ++i) {
    if (weights[i] > 0) *end++ = {static_cast<double>(weights[i]), i};
  }
  const auto is_likelier = [](const Candidate& a, const Candidate& b) {
    return a.weight > b.weight || (a.weight == b.weight && a.id < b.id);
  };
  if (choice_.top_k > 0 && choice_.top_k < end - begin) {
    std::nth_element(begin, begin + choice_.top_k, end, is_likelier);
    end = begin + choice_.top_k;
  }
  Candidate* kept = end;  // the likeliest are [kept, end)
  if (choice_.top_p < 1) {
    // A nucleus is mostly small: a heap finds it faster than a sort of all candidates.
    const auto is_less_likely = [&](const Candidate& a, const Candidate& b) { return is_likelier(b, a); };
    double total = 0, sum = 0;
    for (const Candidate* candidate = begin; candidate < end; ++candidate) total += candidate->weight;
    std::make_heap(begin, end, is_less_likely);
    while (kept > begin && (kept == end || sum < choice_.top_p * total)) {
      std::pop_heap(begin, kept, is_less_likely);
      sum += (--kept)->weight;
    }
  } else {
    kept = begin;
  }
  std::fill(weights, weights + vocab_size_, Sum(0));
  for (const Candidate* candidate = kept; candidate < end; ++candidate) {
    weights[candidate->id] = static_cast<Sum>(candidate->weight);
  }
}

}  // namespace rnnfused
