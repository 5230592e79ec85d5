// Rounding to an element type, and its codes.
//
// A rounded magnitude is `multiple` steps of 2^(e - mantissa bits), where e is the exponent of the
// unrounded one (at least the smallest normal's). When rounding carries into the next binade the
// multiple is simply one too many for this one, and both the code and the value still come out
// right.
#pragma once

#include "cc/codec/element.h"

namespace jaxfp4 {

template <class V>
struct Rounded {
  typename V::U multiple;
  typename V::U exponent;  // the biased exponent, in place (bits 23..30)
};

// Magnitude bits clipped to the largest value; NaN too.
template <class E, class V>
JAXFP4_HD typename V::U Clip(typename V::U magnitude) {
  return V::Min(magnitude, typename V::U(E::kMax));
}

template <class E, class V>
JAXFP4_HD typename V::U StepExponent(typename V::U clipped) {
  return V::Max(clipped & kInfinity, typename V::U(PowerBits(E::kMinExponent)));
}

// To nearest, ties to even: adding 2^(e + 23 - mantissa bits) leaves no room for smaller bits.
template <class E, class V>
JAXFP4_HD Rounded<V> RoundNearest(typename V::U magnitude) {
  const typename V::U a = Clip<E, V>(magnitude);
  const typename V::U exponent = StepExponent<E, V>(a);
  const typename V::U magic = exponent + (static_cast<uint32_t>(23 - E::kMantissaBits) << 23);
  return {V::Bits(V::Float(a) + V::Float(magic)) - magic, exponent};
}

// P(up) = floor(256 fraction) / 256, for r uniform in 0..255.
template <class E, class V>
JAXFP4_HD Rounded<V> RoundStochastic8(typename V::U magnitude, typename V::U r) {
  using U = typename V::U;
  const U a = Clip<E, V>(magnitude);
  const U exponent = StepExponent<E, V>(a);
  const U inv_step = U(static_cast<uint32_t>(254 + 8 + E::kMantissaBits) << 23) - exponent;
  const U n = V::ToInt(V::Float(a) * V::Float(inv_step));
  return {(n + 255u - r) >> 8, exponent};
}

// P(up) = floor(2^24 fraction) / 2^24, for r uniform in 0..2^24-1.
template <class E, class V>
JAXFP4_HD Rounded<V> RoundStochastic24(typename V::U magnitude, typename V::U r) {
  using U = typename V::U;
  const U a = Clip<E, V>(magnitude);
  const U exponent = StepExponent<E, V>(a);
  const U inv_step = U(static_cast<uint32_t>(254 + E::kMantissaBits) << 23) - exponent;
  const typename V::F t = V::Float(a) * V::Float(inv_step);
  const U down = V::ToInt(t);
  const U threshold = V::ToInt((t - V::FromInt(down)) * 16777216.0f);
  return {V::Select(V::Less(r, threshold), down + 1u, down), exponent};
}

// The code of a rounded magnitude with the sign of x (as bits); NaN becomes kNaNCode.
template <class E, class V>
JAXFP4_HD typename V::U Code(const Rounded<V>& q, typename V::U x) {
  using U = typename V::U;
  constexpr uint32_t kSign = 1u << (E::kBits - 1);
  const U field = (q.exponent - PowerBits(E::kMinExponent)) >> (23 - E::kMantissaBits);
  const U code = q.multiple + field;
  const U with_sign = V::SelectBits(U(kSign), x >> (32 - E::kBits), code);
  return V::Select(V::Less(U(kInfinity), x & ~kSignBit), U(E::kNaNCode), with_sign);
}

// The value of the same code.
template <class E, class V>
JAXFP4_HD typename V::F Value(const Rounded<V>& q, typename V::U x) {
  using U = typename V::U;
  const U step = q.exponent - (static_cast<uint32_t>(E::kMantissaBits) << 23);
  const U value = V::Bits(V::FromInt(q.multiple) * V::Float(step));
  const U nan = U(E::kNaNCode == 0 ? 0 : kQuietNaN);
  return V::Float(V::Select(V::Less(U(kInfinity), x & ~kSignBit), nan,
                            V::SelectBits(U(kSignBit), x, value)));
}

// E2M1 codes of x to nearest even, for x without NaN: each of the three binades rounds by itself,
// and the binade that x lies in gives the smallest code.
template <class V>
JAXFP4_HD typename V::U E2M1CodeNearest(typename V::F x) {
  using U = typename V::U;
  using F = typename V::F;
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: sums round to integers in their low bits
  const U bits = V::Bits(x);
  const F a = V::Float(bits & ~kSignBit);
  const U halves = V::Bits(V::MulAdd(a, F(2.0f), F(kMagic)));
  const U ones = V::Bits(a + F(kMagic + 2));
  const U twos = V::Bits(V::MulAdd(a, F(0.5f), F(kMagic + 4)));
  const U largest = V::Bits(F(kMagic + 7));
  const U code = V::Min(V::Min(halves, ones), V::Min(twos, largest));
  return V::SelectBits(U(7), code, bits >> 28);
}

}  // namespace jaxfp4
