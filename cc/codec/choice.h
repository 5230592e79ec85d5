// Which scale a block gets: the formula of its scale type and arithmetic, and the choice between
// two candidates where the rule asks for one.
#pragma once

#include "cc/codec/scale.h"

namespace jaxfp4 {

// How blocks are scaled: what a whole call has in common.
struct ScaleFormula {
  ScaleType type;
  ScaleRule rule;
  Arithmetic arithmetic;
  PowerRule power;  // e8m0
  float largest;    // of the element type
};

constexpr bool IsFourOverSix(ScaleRule rule) {
  return rule == ScaleRule::kFourOverSix || rule == ScaleRule::kFourOverSixVariance;
}

template <class V>
JAXFP4_HD BlockScale<V> ScaleOfBlock(const ScaleFormula& formula, typename V::U amax, float G,
                                     float g) {
  if (formula.type == ScaleType::kE8M0) return ScalePower<V>(amax, formula.power);
  if (formula.type == ScaleType::kFloat32) return ScaleFloat<V>(amax, formula.largest);
  if (formula.arithmetic == Arithmetic::kModelOpt) return ScaleModelOpt<V>(amax, g);
  if (formula.arithmetic == Arithmetic::kCompressedTensors) {
    return ScaleCompressedTensors<V>(amax, G, g);
  }
  return ScaleTE<V>(amax, G, g, formula.rule == ScaleRule::kUp);
}

// The candidates of four over six: the block's maximum becomes 6, or 4.
template <class V>
JAXFP4_HD void CandidateScales(ScaleRule rule, typename V::U amax, float G, float g,
                               BlockScale<V>* six, BlockScale<V>* four) {
  const bool up = rule == ScaleRule::kFourOverSixVariance;
  const typename V::F b = TargetScale<V>(amax, G);
  *six = FromE4M3<V>(E4M3Scale<V>(b, up), g);
  *four = FromE4M3<V>(E4M3Scale<V>(b * typename V::F(1.5f), up), g);
}

// The squared error of rounding x under a candidate to nearest.
template <class V>
JAXFP4_HD typename V::F SquaredError(typename V::F x, const BlockScale<V>& s) {
  const typename V::F v = x * s.encode;
  const typename V::U bits = V::Bits(v);
  const typename V::F q = Value<E2M1, V>(RoundNearest<E2M1, V>(bits & ~kSignBit), bits);
  const typename V::F error = (q - v) * s.decode;
  return error * error;
}

// The expected squared error of rounding x stochastically: f (1 - f) (step * scale)^2.
template <class V>
JAXFP4_HD typename V::F Variance(typename V::F x, const BlockScale<V>& s) {
  using F = typename V::F;
  using U = typename V::U;
  const U a = Clip<E2M1, V>(V::Bits(x * s.encode) & ~kSignBit);
  const U step = StepExponent<E2M1, V>(a) - (static_cast<uint32_t>(E2M1::kMantissaBits) << 23);
  const F t = V::Float(a) * V::Float(U(254u << 23) - step);
  const F f = t - V::FromInt(V::ToInt(t));
  const F width = V::Float(step) * s.decode;
  return (f * (F(1.0f) - f)) * (width * width);
}

}  // namespace jaxfp4
