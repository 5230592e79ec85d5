// The numerics once more, slowly: elements by search over all codes in double, scales by frexp and
// plain float32 arithmetic, one block at a time. Shares nothing with cc/codec.
// Everything here runs under ScopedFlushToZero.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "cc/problem.h"

namespace jaxfp4::oracle {

struct Type {
  int bits, mantissa, min_exponent, max_exponent;
  int max_code;  // of the largest finite magnitude
  int nan_code;
};

inline Type TypeOf(Element element) {
  switch (element) {
    case Element::kE2M1: return {4, 1, 0, 2, 7, 0};
    case Element::kE2M3: return {6, 3, 0, 2, 31, 0};
    case Element::kE3M2: return {6, 2, -2, 4, 31, 0};
    case Element::kE4M3: return {8, 3, -6, 8, 126, 0x7f};
    case Element::kE5M2: return {8, 2, -14, 15, 123, 0x7f};
  }
  return {};
}

inline double Magnitude(const Type& t, int code) {
  const int field = code >> t.mantissa, fraction = code & ((1 << t.mantissa) - 1);
  return field == 0 ? std::ldexp(fraction, t.min_exponent - t.mantissa)
                    : std::ldexp((1 << t.mantissa) + fraction,
                                 t.min_exponent + field - 1 - t.mantissa);
}

// Any code, specials included.
inline float Value(const Type& t, int code) {
  const int magnitude = code & ((1 << (t.bits - 1)) - 1);
  double value = Magnitude(t, magnitude);
  if (magnitude > t.max_code) {
    value = t.mantissa == 2 && magnitude == t.max_code + 1
                ? std::numeric_limits<double>::infinity()
                : std::numeric_limits<double>::quiet_NaN();
  }
  return static_cast<float>(magnitude != code ? -value : value);
}

inline int NearestMagnitude(const Type& t, double a) {
  int best = 0;
  for (int code = 1; code <= t.max_code; ++code) {
    const double closer = std::fabs(Magnitude(t, code) - a) - std::fabs(Magnitude(t, best) - a);
    if (closer < 0 || (closer == 0 && code % 2 == 0)) best = code;
  }
  return best;
}

inline int StochasticMagnitude(const Type& t, double a, Rounding rounding, uint32_t r) {
  a = std::fmin(a, Magnitude(t, t.max_code));
  int e = t.min_exponent;
  while (e < t.max_exponent && a >= std::ldexp(1.0, e + 1)) ++e;
  const double step = std::ldexp(1.0, e - t.mantissa);
  const double whole = std::floor(a / step), fraction = a / step - whole;
  const bool up = rounding == Rounding::kStochastic8 ? r < std::floor(fraction * 256)
                                                     : r < std::floor(fraction * 16777216);
  return NearestMagnitude(t, (whole + up) * step);
}

inline int Encode(const Type& t, float v, Rounding rounding = Rounding::kNearest, uint32_t r = 0) {
  if (std::isnan(v)) return t.nan_code;
  const double largest = Magnitude(t, t.max_code);
  const double a = std::fmin(std::fabs(static_cast<double>(v)), largest);
  const int code = rounding == Rounding::kNearest ? NearestMagnitude(t, a)
                                                  : StochasticMagnitude(t, a, rounding, r);
  return code | (std::signbit(v) ? 1 << (t.bits - 1) : 0);
}

inline uint32_t Mix(uint32_t x) {
  x ^= x >> 16;
  x *= 0x7feb352d;
  x ^= x >> 15;
  x *= 0x846ca68b;
  x ^= x >> 16;
  return x;
}

inline uint32_t Random(Rounding rounding, uint32_t s0, uint32_t s1, uint32_t c) {
  if (rounding == Rounding::kStochastic8) {
    return (Mix(Mix(s0 + (c >> 2) * 0x9E3779B9) ^ s1) >> (8 * (c & 3))) & 255;
  }
  return Mix(Mix(s0 + c * 0x9E3779B9) ^ s1) >> 8;
}

// ---- scales

struct Scale {
  uint32_t stored = 0;     // code, or float32 bits
  double power = 0;        // e8m0: 2^(byte - 127), NaN for byte 255
  float value = 0;         // e4m3 and float32
  float factor = 0;        // v = x * factor or x / factor (not for e8m0)
  bool divide = false;
};

inline uint32_t BitsOf(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}
inline float FloatOf(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

inline float Cap(float b) { return b > 448.0f ? 448.0f : b; }

inline int E4M3Up(float x) {
  const Type t = TypeOf(Element::kE4M3);
  if (std::isnan(x)) return 0x7f;
  int code = 0;
  while (Magnitude(t, code) < static_cast<double>(x)) ++code;
  return code;
}

inline Scale FromTE(int code, float g) {
  Scale s;
  s.stored = static_cast<uint32_t>(code);
  s.value = Value(TypeOf(Element::kE4M3), code);
  const float r = 1.0f / (s.value * g);
  s.factor = r > std::numeric_limits<float>::max() ? std::numeric_limits<float>::max() : r;
  return s;
}

inline Scale E4M3Scale(Arithmetic arithmetic, bool up, float amax, float G, float g, float ratio) {
  const Type t = TypeOf(Element::kE4M3);
  Scale s;
  if (arithmetic == Arithmetic::kTE) {
    const float sixth = G * (1.0f / 6.0f);
    const float b = Cap(amax * sixth * ratio);
    return FromTE(up ? E4M3Up(b) : Encode(t, b), g);
  }
  s.divide = true;
  if (arithmetic == Arithmetic::kModelOpt) {
    const float six_g = 6.0f * g;
    float b = Cap(amax / six_g);
    if (b < 0.001953125f) b = 0.001953125f;
    s.stored = static_cast<uint32_t>(amax == 0 ? 0x38 : Encode(t, b));
    s.value = Value(t, static_cast<int>(s.stored));
    s.factor = s.value * g;
  } else {
    const float sixth = amax / 6.0f;
    s.stored = static_cast<uint32_t>(Encode(t, Cap(G * sixth)));
    if (s.stored == 0) s.stored = 0x20;
    s.value = Value(t, static_cast<int>(s.stored));
    s.factor = s.value / G;
  }
  return s;
}

inline Scale PowerScale(const Type& t, ScaleRule rule, float amax) {
  Scale s;
  if (std::isnan(amax)) {
    s.stored = 255;
    s.power = std::numeric_limits<double>::quiet_NaN();
    return s;
  }
  int byte = 0;
  if (std::isinf(amax)) {
    byte = 254;
  } else if (amax != 0) {
    int e;
    const double m = 2 * std::frexp(static_cast<double>(amax), &e);
    const double top = Magnitude(t, t.max_code) / std::ldexp(1.0, t.max_exponent);
    const bool bump = rule == ScaleRule::kEven    ? m >= 2 - std::ldexp(1.0, -(t.mantissa + 1))
                      : rule == ScaleRule::kRceil ? m > top
                      : rule == ScaleRule::kCeil  ? m > 1
                                                  : false;
    byte = e - 1 + 127 + bump - t.max_exponent;
    byte = byte < 0 ? 0 : byte > 254 ? 254 : byte;
  }
  s.stored = static_cast<uint32_t>(byte);
  s.power = std::ldexp(1.0, byte - 127);
  return s;
}

inline Scale FloatScale(const Type& t, float amax) {
  Scale s;
  s.value = amax / static_cast<float>(Magnitude(t, t.max_code));
  if (s.value == 0) s.value = 1;
  s.stored = BitsOf(s.value);
  s.factor = s.value;
  s.divide = true;
  return s;
}

// ---- a tile: `rows` x `cols` elements that share a scale

struct Outer {
  float G, g;
};

inline float Scaled(const Scale& s, ScaleType type, float x) {
  if (type == ScaleType::kE8M0) return static_cast<float>(static_cast<double>(x) / s.power);
  return s.divide ? x / s.factor : x * s.factor;
}

inline float SumByHalves(std::vector<float> v) {
  for (size_t n = v.size() / 2; n > 0; n /= 2) {
    for (size_t j = 0; j < n; ++j) v[j] = v[j] + v[j + n];
  }
  return v[0];
}

inline float TileError(const QuantizeProblem& p, const std::vector<std::vector<float>>& x,
                       const Scale& s) {
  const Type t = TypeOf(Element::kE2M1);
  float total = 0;
  for (size_t row = 0; row < x.size(); ++row) {
    std::vector<float> terms;
    for (const float element : x[row]) {
      const float v = Scaled(s, ScaleType::kE4M3, element);
      if (p.rule == ScaleRule::kFourOverSix) {
        const float difference = Value(t, Encode(t, v)) - v;
        const float error = difference * s.value;
        terms.push_back(error * error);
      } else {
        const float a = std::fabs(v) < 6.0f ? std::fabs(v) : 6.0f;
        const float step = a < 2 ? 0.5f : a < 4 ? 1.0f : 2.0f;
        const float f = a / step - std::floor(a / step);
        const float w = step * s.value;
        const float spread = f * (1.0f - f), square = w * w;
        terms.push_back(spread * square);
      }
    }
    const float sum = SumByHalves(terms);
    total = row == 0 ? sum : total + sum;
  }
  return total;
}

inline Scale TileScale(const QuantizeProblem& p, const std::vector<std::vector<float>>& x,
                       const Outer& outer) {
  const Type t = TypeOf(p.format.element);
  const bool finite_only = p.format.scale_type == ScaleType::kFloat32;
  uint32_t largest = 0;
  for (const auto& row : x) {
    for (const float element : row) {
      const uint32_t bits = BitsOf(element) & 0x7fffffff;
      if (finite_only && bits >= 0x7f800000) continue;
      if (bits > largest) largest = bits;
    }
  }
  const float amax = FloatOf(largest);
  if (p.format.scale_type == ScaleType::kE8M0) return PowerScale(t, p.rule, amax);
  if (p.format.scale_type == ScaleType::kFloat32) return FloatScale(t, amax);
  const bool both =
      p.rule == ScaleRule::kFourOverSix || p.rule == ScaleRule::kFourOverSixVariance;
  const bool up = p.rule == ScaleRule::kUp || p.rule == ScaleRule::kFourOverSixVariance;
  const Scale six = E4M3Scale(p.arithmetic, up, amax, outer.G, outer.g, 1.0f);
  if (!both) return six;
  const Scale four = E4M3Scale(p.arithmetic, up, amax, outer.G, outer.g, 1.5f);
  return TileError(p, x, four) < TileError(p, x, six) ? four : six;
}

// The decoded value of a code under a scale.
inline float Decoded(const Type& t, ScaleType type, const Scale& s, float g, int code) {
  const float q = Value(t, code);
  if (type == ScaleType::kE8M0) {
    const double value = static_cast<double>(q) * s.power;
    return static_cast<float>(value);
  }
  const float scaled = q * s.value;
  return type == ScaleType::kE4M3 ? scaled * g : scaled;
}

// ---- float16 and bfloat16

inline float Narrowed(Dtype dtype, float x) {
  if (dtype == Dtype::kF32 || std::isnan(x) || std::isinf(x)) return x;
  const int mantissa = dtype == Dtype::kBF16 ? 7 : 10;
  const int min_exponent = dtype == Dtype::kBF16 ? -126 : -14;
  const double limit = dtype == Dtype::kBF16 ? std::ldexp(255.5, 120) : 65520.0;
  const double a = std::fabs(static_cast<double>(x));
  if (a >= limit) return std::copysign(std::numeric_limits<float>::infinity(), x);
  int e = 0;
  std::frexp(a, &e);
  const int exponent = e - 1 < min_exponent || a == 0 ? min_exponent : e - 1;
  const double step = std::ldexp(1.0, exponent - mantissa);
  return std::copysign(static_cast<float>(std::nearbyint(a / step) * step), x);
}

inline uint16_t NarrowedBits(Dtype dtype, float x) {
  const float narrow = Narrowed(dtype, x);
  if (dtype == Dtype::kBF16) return static_cast<uint16_t>(BitsOf(narrow) >> 16);
  const uint16_t sign = std::signbit(narrow) ? 0x8000 : 0;
  if (std::isnan(narrow)) return static_cast<uint16_t>(sign | 0x7e00);
  if (std::isinf(narrow)) return static_cast<uint16_t>(sign | 0x7c00);
  const double a = std::fabs(static_cast<double>(narrow));
  int e = 0;
  std::frexp(a, &e);
  if (a == 0 || e - 1 < -14) return static_cast<uint16_t>(sign | static_cast<int>(a * 16777216));
  const int fraction = static_cast<int>(std::ldexp(a, 11 - e)) - 1024;
  return static_cast<uint16_t>(sign | ((e - 1 + 15) << 10) | fraction);
}

}  // namespace jaxfp4::oracle
