// Vector tanh. It is odd by construction: computed on |x|, then the sign is restored. NaN passes through, infinities
// give exactly +-1, zeros keep their sign.
#pragma once

#include "cpu/kernels/exp.h"
#include "cpu/kernels/simd.h"
#include "cpu/kernels/tanh_table.h"

namespace rnnfused {
namespace RNNFUSED_ISA {

#if defined(__AVX512F__)

// float32: a polynomial in a - m for each piece of the range of a = |x|. Registers hold one coefficient of all pieces.
RNNFUSED_INLINE Vector<float> tanh(Vector<float> x) {
  using V = Vector<float>;
  using U = Bits<float>;
  const U sign = (U)x & (U)splat(-0.0f);
  const V a = at_most((V)((U)x ^ sign), 9.1f);  // from 9.02 on the result rounds to 1
  // A piece is a quarter of an octave; the first reaches 1/16. The instruction takes the number modulo 32.
  const U piece = (U)_mm512_maskz_max_ps(0xffff, (__m512)a, _mm512_set1_ps(0.06f)) >> 21;
  const auto column = [&](int row) __attribute__((always_inline)) {
    return (V)_mm512_permutex2var_ps(_mm512_load_ps(kTanhTable[row]), (__m512i)piece,
                                     _mm512_load_ps(kTanhTable[row] + 16));
  };
  const V r = a - column(0);
  V sum = column(6) * r + column(5);
  sum = sum * r + column(4);
  sum = sum * r + column(3);
  sum = sum * r + column(2);
  sum = sum * r + column(1);
  return (V)((U)sum | sign);
}

#else

// float32: below 0.55 an odd minimax polynomial, above it 1 - 2 / (exp(2|x|) + 1).
RNNFUSED_INLINE Vector<float> tanh(Vector<float> x) {
  using V = Vector<float>;
  using U = Bits<float>;
  const U sign = (U)x & (U)splat(-0.0f);
  const V a = (V)((U)x ^ sign);

  const V s = a * a;
  V odd = s * -0.0062742042f + 0.021071656f;
  odd = odd * s - 0.053852305f;
  odd = odd * s + 0.13332586f;
  odd = odd * s - 0.33333316f;
  const V small = a * s * odd + a;

  V y = at_most(a, 10.0f);  // from 9.02 on the result rounds to 1
  y = y + y;
  const Reduced<float> reduced = reduce(y);
  const V expm1 = expm1_of_reduced(reduced.r), scale = reduced.scale;
  const V large = 1.0f - 2.0f / (expm1 * scale + (scale + 1.0f));

  return (V)((U)(a < 0.55f ? small : large) | sign);
}

#endif

// float64: expm1(2|x|) / (expm1(2|x|) + 2).
RNNFUSED_INLINE Vector<double> tanh(Vector<double> x) {
  using V = Vector<double>;
  using U = Bits<double>;
  const U sign = (U)x & (U)splat(-0.0);
  const V a = (V)((U)x ^ sign);

  V y = a > 20.0 ? splat(20.0) : a;  // from 19.07 on the result rounds to 1
  y = y + y;
  const Reduced<double> reduced = reduce(y);
  const V expm1 = expm1_of_reduced(reduced.r) * reduced.scale + (reduced.scale - 1.0);
  const V result = expm1 / (expm1 + 2.0);

  return (V)((U)result | sign);
}

}  // namespace RNNFUSED_ISA
}  // namespace rnnfused
