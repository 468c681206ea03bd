// Vector exponential and logarithm, and the polynomials that tanh shares with them.
#pragma once

#include "cpu/kernels/simd.h"

namespace rnnfused {
namespace RNNFUSED_ISA {

// x = n ln(2) + r + rest with |r| <= ln(2) / 2, and 2^n. The rest is what r lacks, as it is rounded.
template <class T>
struct Reduced {
  Vector<T> r, scale, rest;
};

// For |x| <= 88; without the rest.
RNNFUSED_INLINE Reduced<float> reduce(Vector<float> x) {
  using V = Vector<float>;
  // Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the low mantissa bits.
  const V shift = splat(12582912.0f);
  const V shifted = fma(x, splat(1.442695041f), shift), n = shifted - shift;
  const V r = fma(n, splat(-1.428606765e-6f), fma(n, splat(-0.693145752f), x));
  return {r, (V)(((Bits<float>)shifted << 23) + (127U << 23)), V{}};
}

// For |x| <= 700.
RNNFUSED_INLINE Reduced<double> reduce(Vector<double> x) {
  using V = Vector<double>;
  const V shift = splat(6755399441055744.0);  // 1.5 * 2^52
  const V shifted = fma(x, splat(1.4426950408889634), shift), n = shifted - shift;
  const V near = fma(n, splat(-6.93147180369123816490e-01), x), low = n * -1.90821492927058770002e-10;
  const V r = near + low;
  return {r, (V)(((Bits<double>)shifted << 52) + (1023ULL << 52)), (near - r) + low};
}

// exp(r) - 1 for |r| <= ln(2) / 2, in pairs of terms (Estrin): shorter chains of dependent operations.
RNNFUSED_INLINE Vector<float> expm1_of_reduced(Vector<float> r) {
  using V = Vector<float>;
  const V r2 = r * r;
  V expm1 = fma(r2, splat(0.0013882521f), fma(r, splat(0.00836655f), splat(0.0416672f)));
  expm1 = fma(expm1, r2, fma(r, splat(0.16666543f), splat(0.49999997f)));
  return fma(expm1, r2, r);
}

// exp(r) - 1 - r in double, by the Taylor series up to r^13 / 13!.
RNNFUSED_INLINE Vector<double> curve_of_reduced(Vector<double> r) {
  const Vector<double> r2 = r * r;
  const auto pair = [&](double high, double low)
                        __attribute__((always_inline)) { return fma(splat(1.0 / high), r, splat(1.0 / low)); };
  Vector<double> sum = pair(6227020800, 479001600);
  sum = fma(sum, r2, pair(39916800, 3628800));
  sum = fma(sum, r2, pair(362880, 40320));
  sum = fma(sum, r2, pair(5040, 720));
  sum = fma(sum, r2, pair(120, 24));
  return fma(sum, r2, pair(6, 2)) * r2;
}
RNNFUSED_INLINE Vector<double> expm1_of_reduced(Vector<double> r) { return curve_of_reduced(r) + r; }

// Below this, exp() returns 0: its result would be near or below the least normal number.
template <class T>
constexpr T kLeastExponent = sizeof(T) == 4 ? -87 : -708;

// exp(x) for x <= 0, as a softmax needs it. NaN stays NaN.
template <class T>
RNNFUSED_INLINE Vector<T> exp(Vector<T> x) {
  constexpr Sum<T> least = kLeastExponent<Sum<T>>;
  const Reduced<Sum<T>> reduced = reduce(x < least ? splat(least) : x);
  const Vector<T> result = fma(expm1_of_reduced(reduced.r), reduced.scale, reduced.scale);
  return x < least ? Vector<T>{} : result;
}

// The natural logarithm of a positive normal number. NaN stays NaN.
//
// x = 2^n m with m in [3/4, 3/2), and log(m) = 2 atanh(s) = 2 (s + s^3 / 3 + s^5 / 5 + ..) with s = (m - 1) / (m + 1),
// |s| <= 1/5.
template <class T>
RNNFUSED_INLINE Vector<T> log(Vector<T> x) {
  using V = Vector<T>;
  using U = Bits<T>;
  constexpr int kMantissa = sizeof(Sum<T>) == 4 ? 23 : 52;
  constexpr auto kThreeQuarters = sizeof(Sum<T>) == 4 ? 0x3f400000 : 0x3fe8000000000000;
  // Signed: numbers below 3/4 have a negative n.
  const Integers<T> n = ((Integers<T>)x - kThreeQuarters) >> kMantissa;
  const V m = (V)((U)x - ((U)n << kMantissa));
  const V s = (m - Sum<T>(1)) / (m + Sum<T>(1)), s2 = s * s;
  V series{};
#pragma GCC unroll 11
  for (int k = sizeof(Sum<T>) == 4 ? 5 : 11; k > 0; --k) series = (series + Sum<T>(1) / (2 * k + 1)) * s2;
  const V exponent = __builtin_convertvector(n, V);
  constexpr Sum<T> kHigh = sizeof(Sum<T>) == 4 ? 0.693145752f : 6.93147180369123816490e-01;
  constexpr Sum<T> kLow = sizeof(Sum<T>) == 4 ? 1.428606765e-6f : 1.90821492927058770002e-10;
  const V twice = s + s;
  const V result = fma(exponent, splat(kHigh), fma(twice, series, fma(exponent, splat(kLow), twice)));
  return x == x ? result : x;
}

}  // namespace RNNFUSED_ISA
}  // namespace rnnfused
