// Vector exponential and logarithm, and the polynomials that tanh shares with them.
#pragma once

#include "cpu/kernels/simd.h"

namespace rnnfused {
namespace RNNFUSED_ISA {

// x = n ln(2) + r with |r| <= ln(2) / 2, and 2^n.
template <class T>
struct Reduced {
  Vector<T> r, scale;
};

// For |x| <= 88.
RNNFUSED_INLINE Reduced<float> reduce(Vector<float> x) {
  // Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the low mantissa bits.
  const Vector<float> shifted = x * 1.442695041f + 12582912.0f;
  const Vector<float> n = shifted - 12582912.0f;
  return {x - n * 0.693145752f - n * 1.428606765e-6f,
          (Vector<float>)(((Bits<float>)shifted << 23) + (127U << 23))};
}

// For |x| <= 700.
RNNFUSED_INLINE Reduced<double> reduce(Vector<double> x) {
  const Vector<double> shifted = x * 1.4426950408889634 + 6755399441055744.0;  // 1.5 * 2^52
  const Vector<double> n = shifted - 6755399441055744.0;
  return {x - n * 6.93147180369123816490e-01 - n * 1.90821492927058770002e-10,
          (Vector<double>)(((Bits<double>)shifted << 52) + (1023ULL << 52))};
}

// exp(r) - 1 for |r| <= ln(2) / 2, in pairs of terms (Estrin): shorter chains of dependent operations.
RNNFUSED_INLINE Vector<float> expm1_of_reduced(Vector<float> r) {
  const Vector<float> r2 = r * r;
  Vector<float> expm1 = r2 * 0.0013882521f + (r * 0.00836655f + 0.0416672f);
  expm1 = expm1 * r2 + (r * 0.16666543f + 0.49999997f);
  return expm1 * r2 + r;
}

// The same by the Taylor series.
RNNFUSED_INLINE Vector<double> expm1_of_reduced(Vector<double> r) {
  Vector<double> tail = splat(1.0 / 6227020800);  // 1/13!
  tail = tail * r + 1.0 / 479001600;
  tail = tail * r + 1.0 / 39916800;
  tail = tail * r + 1.0 / 3628800;
  tail = tail * r + 1.0 / 362880;
  tail = tail * r + 1.0 / 40320;
  tail = tail * r + 1.0 / 5040;
  tail = tail * r + 1.0 / 720;
  tail = tail * r + 1.0 / 120;
  tail = tail * r + 1.0 / 24;
  tail = tail * r + 1.0 / 6;
  tail = tail * r + 0.5;
  return tail * r * r + r;
}

// Below this, exp() returns 0: its result would be near or below the least normal number.
template <class T>
constexpr T kLeastExponent = sizeof(T) == 4 ? -87 : -708;

// exp(x) for x <= 0, as a softmax needs it. NaN stays NaN.
template <class T>
RNNFUSED_INLINE Vector<T> exp(Vector<T> x) {
  constexpr Sum<T> least = kLeastExponent<Sum<T>>;
  const Reduced<Sum<T>> reduced = reduce(x < least ? splat(least) : x);
  const Vector<T> result = expm1_of_reduced(reduced.r) * reduced.scale + reduced.scale;
  return x < least ? Vector<T>{} : result;
}

// The natural logarithm of a positive normal number. NaN stays NaN.
//
// x = 2^n m with m in [3/4, 3/2), and log(m) = 2 atanh(s) = 2 (s + s^3 / 3 + s^5 / 5 + ..) with s = (m - Sum<T>(1)) / (m + Sum<T>(1)),
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
  const V result = exponent * kHigh + (s * series * Sum<T>(2) + exponent * kLow + s * Sum<T>(2));
  return x == x ? result : x;
}

}  // namespace RNNFUSED_ISA
}  // namespace rnnfused
