// Block scales: from the largest magnitude of a block (its bits: NaN is largest, then infinity) to
// the stored code, the factor that brings elements to the element type's range, and the factors
// that undo it.
#pragma once

#include "cc/codec/decode.h"
#include "cc/codec/round.h"
#include "cc/problem.h"

namespace jaxfp4 {

// v = x * encode, or x / encode where the arithmetic divides; x' = (q * decode) * decode2.
template <class V>
struct BlockScale {
  typename V::U stored;  // the code, or the float32's bits
  typename V::F encode;
  typename V::F decode;
  typename V::F decode2;
};

constexpr bool Divides(ScaleType type, Arithmetic arithmetic) {
  return type == ScaleType::kFloat32 ||
         (type == ScaleType::kE4M3 && arithmetic != Arithmetic::kTE);
}

// min(x, limit), where a NaN stays one.
template <class V>
JAXFP4_HD typename V::F AtMost(typename V::F x, float limit) {
  return V::Select(V::Less(typename V::F(limit), x), typename V::F(limit), x);
}

// ---- e4m3

// x >= 0, at most 448, or NaN.
template <class V>
JAXFP4_HD typename V::U E4M3Nearest(typename V::F x) {
  const typename V::U bits = V::Bits(x);
  return Code<E4M3, V>(RoundNearest<E4M3, V>(bits), bits);
}

// The smallest e4m3 that is not below x.
template <class V>
JAXFP4_HD typename V::U E4M3Up(typename V::F x) {
  const typename V::U code = E4M3Nearest<V>(x);
  return V::Select(V::Less(Decode<E4M3, V>(code), x), code + 1u, code);
}

template <class V>
JAXFP4_HD typename V::U E4M3Scale(typename V::F b, bool up) {
  const typename V::F clipped = AtMost<V>(b, 448.0f);
  return up ? E4M3Up<V>(clipped) : E4M3Nearest<V>(clipped);
}

// The encoding factor of a stored scale, as training kernels compute it: a rounded reciprocal.
template <class V>
JAXFP4_HD BlockScale<V> FromE4M3(typename V::U stored, float g) {
  using F = typename V::F;
  const F scale = Decode<E4M3, V>(stored);
  const F reciprocal = AtMost<V>(F(1.0f) / (scale * F(g)), 3.402823466e+38f);
  return {stored, reciprocal, scale, F(g)};
}

// b, of which the scale is a rounding: amax * (G / 6), in the one order that fixes its bits.
template <class V>
JAXFP4_HD typename V::F TargetScale(typename V::U amax, float G) {
  const typename V::F sixth = typename V::F(G) * typename V::F(1.0f / 6.0f);
  return V::Float(amax) * sixth;
}

template <class V>
JAXFP4_HD BlockScale<V> ScaleTE(typename V::U amax, float G, float g, bool up) {
  return FromE4M3<V>(E4M3Scale<V>(TargetScale<V>(amax, G), up), g);
}

template <class V>
JAXFP4_HD BlockScale<V> ScaleModelOpt(typename V::U amax, float g) {
  using F = typename V::F;
  using U = typename V::U;
  const F a = V::Float(amax);
  const F b = AtMost<V>(a / (F(6.0f) * F(g)), 448.0f);
  const F smallest = V::Float(U(PowerBits(-9)));
  const U code = E4M3Nearest<V>(V::Select(V::Less(b, smallest), smallest, b));
  const U stored = V::Select(V::Equal(a, F(0.0f)), U(0x38), code);  // 1.0
  const F scale = Decode<E4M3, V>(stored);
  return {stored, scale * F(g), scale, F(g)};
}

template <class V>
JAXFP4_HD BlockScale<V> ScaleCompressedTensors(typename V::U amax, float G, float g) {
  using F = typename V::F;
  using U = typename V::U;
  const F b = F(G) * (V::Float(amax) / F(6.0f));
  const U code = E4M3Nearest<V>(AtMost<V>(b, 448.0f));
  const U stored = V::Select(V::Equal(code, U(0)), U(0x20), code);  // 0.125
  const F scale = Decode<E4M3, V>(stored);
  return {stored, scale / F(G), scale, F(g)};
}

// ---- e8m0

// byte = e + bump - emax, where adding round_up to the bits of m * 2^e carries exactly when m is so
// large that the rule bumps.
struct PowerRule {
  uint32_t round_up;
  uint32_t max_exponent;
};

template <class E>
constexpr PowerRule PowerRuleOf(ScaleRule rule) {
  constexpr uint32_t kOne = 1u << 23;
  constexpr uint32_t kHalfStep = 1u << (22 - E::kMantissaBits);
  const uint32_t round_up = rule == ScaleRule::kEven    ? kHalfStep
                            : rule == ScaleRule::kRceil ? kOne - (E::kMax & kMantissa) - 1
                            : rule == ScaleRule::kCeil  ? kOne - 1
                                                        : 0;
  return {round_up, static_cast<uint32_t>(E::kMaxExponent)};
}

// The two factors of 2^(byte - 127), a subnormal for byte 0; NaN for byte 255.
template <class V>
JAXFP4_HD void DecodeE8M0(typename V::U byte, typename V::F* decode, typename V::F* decode2) {
  using U = typename V::U;
  const U half = byte >> 1;
  *decode = V::Float(V::Select(V::Equal(byte, U(255)), U(kQuietNaN), (half + 64u) << 23));
  *decode2 = V::Float((byte - half + 63u) << 23);
}

// The encoding factor is 2^(127 - byte) but for byte 254, where that is a subnormal: there it is
// 2^-126 and the block's elements must be halved first.
template <class V>
JAXFP4_HD BlockScale<V> ScalePower(typename V::U amax, PowerRule rule) {
  using U = typename V::U;
  const U exponent = V::Max((amax + rule.round_up) >> 23, U(rule.max_exponent));
  const U finite = V::Select(V::Less(amax, U(1u << 23)), U(0), exponent - rule.max_exponent);
  const U special = V::Select(V::Equal(amax, U(kInfinity)), U(254), U(255));
  BlockScale<V> s;
  s.stored = V::Select(V::Less(amax, U(kInfinity)), finite, special);
  const U factor = U(254) - V::Min(s.stored, U(253));
  s.encode = V::Float(V::Select(V::Equal(s.stored, U(255)), U(kQuietNaN), factor << 23));
  DecodeE8M0<V>(s.stored, &s.decode, &s.decode2);
  return s;
}

// ---- float32: amax over finite elements; `largest` is the element type's

template <class V>
JAXFP4_HD BlockScale<V> ScaleFloat(typename V::U amax, float largest) {
  using F = typename V::F;
  const F quotient = V::Float(amax) / F(largest);
  const F scale = V::Select(V::Equal(quotient, F(0.0f)), F(1.0f), quotient);
  return {V::Bits(scale), scale, scale, F(1.0f)};
}

}  // namespace jaxfp4
