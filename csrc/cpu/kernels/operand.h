// The operands of the tiles and one multiply-add.
//
//   float32, float64   unchanged
//   bfloat16           two products per multiply-add where the processor has that, else converted to float32
//   float16            converted to float32
#pragma once

#include "cpu/kernels/bfloat16.h"
#include "cpu/kernels/float16.h"
#include "cpu/kernels/simd.h"

namespace rnnfused {
namespace RNNFUSED_ISA {

template <class T>
struct OperandOf {
  using Type = T;
};
template <>
struct OperandOf<Float16> {
  using Type = float;
};
#if !defined(RNNFUSED_BF16_DOT)
template <>
struct OperandOf<Bfloat16> {
  using Type = float;
};
#endif
template <class T>
using Operand = typename OperandOf<T>::Type;

// Whether rows are converted before they are multiplied.
template <class T>
constexpr bool kConverts = sizeof(T) != sizeof(Operand<T>);

RNNFUSED_INLINE void convert(float from, float& to) { to = from; }
RNNFUSED_INLINE void convert(double from, double& to) { to = from; }
RNNFUSED_INLINE void convert(Bfloat16 from, Bfloat16& to) { to = from; }
RNNFUSED_INLINE void convert(Bfloat16 from, float& to) {
  const uint32_t bits = uint32_t{from.bits} << 16;
  __builtin_memcpy(&to, &bits, sizeof to);
}
RNNFUSED_INLINE void convert(Float16 from, float& to) { to = load_first(&from, 1)[0]; }

// Products per multiply-add, of adjacent values of a row and of a column.
template <class T>
constexpr int kProducts = sizeof(Sum<T>) / sizeof(Operand<T>);

// The depth, padded to whole multiply-adds.
template <class T>
RNNFUSED_INLINE int64_t padded_depth(int64_t depth) {
  return (depth + kProducts<T> - 1) / kProducts<T> * kProducts<T>;
}

// Stores one register of packed columns, of the rows that one multiply-add takes; row(i) is the i-th.
template <class T, class Row>
RNNFUSED_INLINE void store_packed(Operand<T>* to, const Row& row) {
  if constexpr (kProducts<T> == 1) {
    store(to, row(0));
  } else {
    const Words pairs = ((Words)row(0) >> 16) | ((Words)row(1) & 0xffff0000);
    __builtin_memcpy(to, &pairs, sizeof pairs);
  }
}
template <class T>
RNNFUSED_INLINE Vector<T> load_packed(const Operand<T>* from) {
  Vector<T> v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}

// sum += row * columns
template <class T>
RNNFUSED_INLINE void multiply_add(Vector<T>& sum, Vector<T> columns, const Operand<T>* row) {
  sum = fma(columns, splat(*row), sum);
}

// The first n values of a row, at most one register of operands; zeros follow.
template <class T>
RNNFUSED_INLINE Vector<T> load_operands(const T* from, int64_t n) {
  return n == kLanes<T> ? load(from) : load_first(from, n);
}

// Row k of the packed columns that start at `from`.
template <class T>
RNNFUSED_INLINE Vector<T> unpacked(const Operand<T>* from, int) {
  return load(from);
}

#if defined(RNNFUSED_BF16_DOT)

#if defined(RNNFUSED_AVX512)
template <>
RNNFUSED_INLINE void multiply_add<Bfloat16>(Vector<float>& sum, Vector<float> columns, const Bfloat16* row) {
  int32_t pair;
  __builtin_memcpy(&pair, row, sizeof pair);
  sum = (Vector<float>)_mm512_dpbf16_ps((__m512)sum, (__m512bh)columns, (__m512bh)_mm512_set1_epi32(pair));
}
template <>
RNNFUSED_INLINE Vector<float> load_operands(const Bfloat16* from, int64_t n) {
  return (Vector<float>)_mm512_maskz_loadu_epi16(static_cast<__mmask32>((uint64_t{1} << n) - 1), from);
}
#else
// The row's pair is one element of a register, as the state of a float32 multiply-add is.
template <>
RNNFUSED_INLINE void multiply_add<Bfloat16>(Vector<float>& sum, Vector<float> columns, const Bfloat16* row) {
  float pair;
  __builtin_memcpy(&pair, row, sizeof pair);
  const float32x2_t element = {pair, 0.0f};
  sum = (Vector<float>)vbfdotq_lane_f32((float32x4_t)sum, (bfloat16x8_t)columns, vreinterpret_bf16_f32(element), 0);
}
template <>
RNNFUSED_INLINE Vector<float> load_operands(const Bfloat16* from, int64_t n) {
  Vector<float> v = {};
  if (n == kLanes<Bfloat16> * 2) {
    __builtin_memcpy(&v, from, sizeof v);
  } else {
    __builtin_memcpy(&v, from, n * sizeof *from);
  }
  return v;
}
#endif

template <>
RNNFUSED_INLINE Vector<float> unpacked<Bfloat16>(const Bfloat16* from, int k) {
  const Words pairs = (Words)load_packed<Bfloat16>(from);
  return (Vector<float>)(k % 2 ? pairs & 0xffff0000 : pairs << 16);
}

#endif

}  // namespace RNNFUSED_ISA
}  // namespace rnnfused
