// The operations of simd.h by NEON, of 64-bit ARM.
#pragma once

#include <arm_neon.h>

#include <cstdint>

#include "cpu/kernels/registers.h"
#include "cpu/kernels/tails.h"

namespace rnnfused {
namespace RNNFUSED_ISA {

RNNFUSED_INLINE Vector<float> fma(Vector<float> a, Vector<float> b, Vector<float> c) {
  return (Vector<float>)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
}
RNNFUSED_INLINE Vector<double> fma(Vector<double> a, Vector<double> b, Vector<double> c) {
  return (Vector<double>)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
}

// fmin and fmax return NaN if one of their operands is NaN.
RNNFUSED_INLINE Vector<float> at_most(Vector<float> x, float limit) {
  return (Vector<float>)vminq_f32((float32x4_t)x, vdupq_n_f32(limit));
}
RNNFUSED_INLINE Vector<double> at_most(Vector<double> x, double limit) {
  return (Vector<double>)vminq_f64((float64x2_t)x, vdupq_n_f64(limit));
}
RNNFUSED_INLINE Vector<float> at_least(Vector<float> x, float limit) {
  return (Vector<float>)vmaxq_f32((float32x4_t)x, vdupq_n_f32(limit));
}

// The instruction selects bytes: four consecutive ones for each value.
RNNFUSED_INLINE Vector<float> lookup(const float (&row)[16], Bits<float> index) {
  const uint8_t* const bytes = reinterpret_cast<const uint8_t*>(row);
  const uint8x16x2_t table = {vld1q_u8(bytes), vld1q_u8(bytes + 16)};
  const Bits<float> of_bytes = (index & 7) * 0x04040404 + 0x03020100;
  return (Vector<float>)vqtbl2q_u8(table, (uint8x16_t)of_bytes);
}

}  // namespace RNNFUSED_ISA
}  // namespace rnnfused
