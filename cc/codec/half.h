// bfloat16 and float16 as the low 16 bits of a lane.
#pragma once

#include "cc/codec/round.h"

namespace jaxfp4 {

template <class V>
JAXFP4_HD typename V::F FromBF16(typename V::U half) {
  return V::Float(half << 16);
}

// To nearest even; a NaN stays one, quiet.
template <class V>
JAXFP4_HD typename V::U ToBF16(typename V::F x) {
  using U = typename V::U;
  const U bits = V::Bits(x);
  const U magnitude = bits & ~kSignBit;
  const U rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return V::Select(V::Less(U(kInfinity), magnitude), (bits >> 16) | 0x40u, rounded);
}

template <class V>
JAXFP4_HD typename V::F FromF16(typename V::U half) {
  using U = typename V::U;
  const U magnitude = half & 0x7fffu;
  const U normal = (magnitude << 13) + (112u << 23);
  const U subnormal = V::Bits(V::FromInt(magnitude) * V::Float(U(PowerBits(-24))));
  const U special = (magnitude << 13) | kInfinity | V::Select(V::Less(U(0x7c00u), magnitude),
                                                              U(1u << 22), U(0));
  const U finite = V::Select(V::Less(magnitude, U(0x400u)), subnormal, normal);
  const U value = V::Select(V::Less(magnitude, U(0x7c00u)), finite, special);
  return V::Float(value | ((half & 0x8000u) << 16));
}

// float16 rounded like an element type. What rounds beyond the largest value is clipped at 2^16,
// whose code is that of infinity.
struct F16 {
  static constexpr int kBits = 16;
  static constexpr int kMantissaBits = 10;
  static constexpr int kMinExponent = -14;
  static constexpr uint32_t kMax = 0x47800000u;
  static constexpr uint32_t kNaNCode = 0x7e00u;
};

template <class V>
JAXFP4_HD typename V::U ToF16(typename V::F x) {
  const typename V::U bits = V::Bits(x);
  return Code<F16, V>(RoundNearest<F16, V>(bits & ~kSignBit), bits);
}

}  // namespace jaxfp4
