// Vector tanh: one algorithm, so that every instruction set with fused multiply-adds returns the same bits. It is odd by
// construction: computed on |x|, then the sign is restored. NaN passes through, infinities give exactly +-1, zeros keep
// their sign.
#pragma once

#include "cpu/kernels/exp.h"
#include "cpu/kernels/simd.h"
#include "cpu/kernels/tanh_table.h"

namespace rnnfused {
namespace RNNFUSED_ISA {

// A lookup takes many instructions without a permutation of registers: one copy of the code suffices there.
#if defined(RNNFUSED_AVX512) || defined(RNNFUSED_AVX2) || defined(RNNFUSED_NEON)
#define RNNFUSED_TANH RNNFUSED_INLINE
#else
#define RNNFUSED_TANH static __attribute__((noinline))
#endif

// float32: a polynomial for each of eight pieces of the range of a = |x|. A register holds one coefficient of all
// pieces. In the first piece the polynomial is odd, so that its leading term is exact.
RNNFUSED_TANH Vector<float> tanh(Vector<float> x) {
  using V = Vector<float>;
  using U = Bits<float>;
  const U sign = (U)x & (U)splat(-0.0f);
  const V a = at_most((V)((U)x ^ sign), kTanhLast);
  const U piece = ((U)at_least(at_most(a, kTanhMost), kTanhLeast) - kTanhBase) >> kTanhHalf;
  const auto is_first = a < kTanhFirst;
  const V w = a - lookup(kTanhTable[0], piece);
  const V base = is_first ? a : lookup(kTanhTable[1], piece);
  const V v = is_first ? w * w : w, v2 = v * v;
  // In pairs of terms (Estrin): a shorter chain of dependent operations.
  const auto pair = [&](int n) __attribute__((always_inline)) {
    return fma(lookup(kTanhTable[n + 1], piece), v, lookup(kTanhTable[n], piece));
  };
  V sum = fma(lookup(kTanhTable[8], piece), v2, pair(6));
  sum = fma(sum, v2, pair(4));
  sum = fma(sum, v2, pair(2));
  return (V)((U)fused(sum, w, base) | sign);
}

// float64: expm1(2a) / (expm1(2a) + 2), both as a rounded value and the rest of it.
RNNFUSED_INLINE Vector<double> tanh(Vector<double> x) {
  using V = Vector<double>;
  using U = Bits<double>;
  const U sign = (U)x & (U)splat(-0.0);
  const V a = (V)((U)x ^ sign);

  const V limited = at_most(a, 18.7);  // beyond it, a sum of 2 below would be rounded
  const Reduced<double> reduced = reduce(limited + limited);
  // A sum of a larger and a smaller value, and its exact rest (Dekker 1971).
  const V curve = curve_of_reduced(reduced.r);
  const V part = reduced.r + curve, part_rest = ((reduced.r - part) + curve) + reduced.rest;
  const V less_one = reduced.scale - 1.0, scaled = reduced.scale * part;
  const V above = less_one + scaled, above_rest = fma(reduced.scale, part_rest, (less_one - above) + scaled);
  const V below = above + 2.0, below_rest = ((2.0 - below) + above) + above_rest;
  const V inverse = 1.0 / below, quotient = above * inverse;
  const V remainder = fused(-quotient, below, above) + fma(-quotient, below_rest, above_rest);

  const V result = a > 19.0615 ? splat(1.0) : fma(remainder, inverse, quotient);

  return (V)((U)result | sign);
}

}  // namespace RNNFUSED_ISA
}  // namespace rnnfused
