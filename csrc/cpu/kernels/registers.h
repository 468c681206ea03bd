// One vector register of the instruction set that this file is compiled for. GCC and Clang vector extensions provide
// most arithmetic.
#pragma once

#include <cstdint>

// The registers: their size in bytes, and how many there are. RNNFUSED_PLAIN_VECTORS sets a size for tests, without
// intrinsics.
#if defined(RNNFUSED_PLAIN_VECTORS)
#define RNNFUSED_VECTOR_BYTES RNNFUSED_PLAIN_VECTORS
#define RNNFUSED_REGISTERS 32
#elif defined(__AVX512F__)
#define RNNFUSED_AVX512
#define RNNFUSED_VECTOR_BYTES 64
#define RNNFUSED_REGISTERS 32
#elif defined(__AVX2__)
#define RNNFUSED_AVX2
#define RNNFUSED_VECTOR_BYTES 32
#define RNNFUSED_REGISTERS 16
#elif defined(__aarch64__)
#define RNNFUSED_NEON
#define RNNFUSED_VECTOR_BYTES 16
#define RNNFUSED_REGISTERS 32
#else
#define RNNFUSED_VECTOR_BYTES 16
#define RNNFUSED_REGISTERS 16
#endif

// Whether a multiply-add takes two products of bfloat16.
#if defined(RNNFUSED_AVX512) && defined(__AVX512BF16__)
#define RNNFUSED_BF16_DOT
#elif defined(RNNFUSED_NEON) && defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#define RNNFUSED_BF16_DOT
#endif

#define RNNFUSED_INLINE inline __attribute__((always_inline))

namespace rnnfused {
namespace RNNFUSED_ISA {

RNNFUSED_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// The type of the arithmetic on T: float32 or wider.
template <class T>
struct SumOf {
  using Type = float;
};
template <>
struct SumOf<double> {
  using Type = double;
};
template <class T>
using Sum = typename SumOf<T>::Type;

template <class T>
struct Simd;

template <>
struct Simd<float> {
  typedef float Vector __attribute__((vector_size(RNNFUSED_VECTOR_BYTES)));
  typedef int32_t Integers __attribute__((vector_size(RNNFUSED_VECTOR_BYTES)));
  typedef uint32_t Bits __attribute__((vector_size(RNNFUSED_VECTOR_BYTES)));
};

template <>
struct Simd<double> {
  typedef double Vector __attribute__((vector_size(RNNFUSED_VECTOR_BYTES)));
  typedef int64_t Integers __attribute__((vector_size(RNNFUSED_VECTOR_BYTES)));
  typedef uint64_t Bits __attribute__((vector_size(RNNFUSED_VECTOR_BYTES)));
};

// A register of values of T, in the type of their arithmetic.
template <class T>
using Vector = typename Simd<Sum<T>>::Vector;
template <class T>
using Integers = typename Simd<Sum<T>>::Integers;
template <class T>
using Bits = typename Simd<Sum<T>>::Bits;  // unsigned: shifts and sums of any
                                           // lanes are defined

// The number of values in a register.
template <class T>
constexpr int kLanes = RNNFUSED_VECTOR_BYTES / sizeof(Sum<T>);

template <class T>
RNNFUSED_INLINE Vector<T> load(const T* from) {
  Vector<T> v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}

template <class T>
RNNFUSED_INLINE void store(T* to, Vector<T> v) {
  __builtin_memcpy(to, &v, sizeof v);
}

template <class T>
RNNFUSED_INLINE Vector<T> splat(T x) {
  return x - Vector<T>{};
}

// The nearest values of T, ties to even; NaN stays NaN. store() expects rounded values.
template <class T>
RNNFUSED_INLINE Vector<T> rounded(Vector<T> v) {
  return v;
}

}  // namespace RNNFUSED_ISA
}  // namespace rnnfused
