// Sixteen lanes as four NEON registers. Included by simd.h only.
#pragma once

#include <arm_neon.h>

#include "cc/codec/element.h"

namespace jaxfp4::JAXFP4_TARGET {

// Four registers; named ones, since compilers keep arrays in memory.
template <class Q>
struct Quad {
  Q q0, q1, q2, q3;
};

// op of each register of the operands.
template <class To, class Op, class... From>
JAXFP4_INLINE To Each(const Op& op, const From&... x) {
  return {op(x.q0...), op(x.q1...), op(x.q2...), op(x.q3...)};
}

struct Lanes {
  using M = Quad<uint32x4_t>;
  struct F : Quad<float32x4_t> {
    using Q = float32x4_t;
    F() = default;
    JAXFP4_INLINE F(Q a, Q b, Q c, Q d) : Quad<Q>{a, b, c, d} {}
    JAXFP4_INLINE F(float x) : F(vdupq_n_f32(x), vdupq_n_f32(x), vdupq_n_f32(x), vdupq_n_f32(x)) {}
    friend JAXFP4_INLINE F operator+(F a, F b) { return Each<F>([](auto x, auto y) {
      return x + y; }, a, b);
    }
    friend JAXFP4_INLINE F operator-(F a, F b) { return Each<F>([](auto x, auto y) {
      return x - y; }, a, b);
    }
    friend JAXFP4_INLINE F operator*(F a, F b) { return Each<F>([](auto x, auto y) {
      return x * y; }, a, b);
    }
    friend JAXFP4_INLINE F operator/(F a, F b) { return Each<F>([](auto x, auto y) {
      return x / y; }, a, b);
    }
  };
  struct U : Quad<uint32x4_t> {
    using Q = uint32x4_t;
    U() = default;
    JAXFP4_INLINE U(Q a, Q b, Q c, Q d) : Quad<Q>{a, b, c, d} {}
    JAXFP4_INLINE U(uint32_t x)
        : U(vdupq_n_u32(x), vdupq_n_u32(x), vdupq_n_u32(x), vdupq_n_u32(x)) {}
    friend JAXFP4_INLINE U operator+(U a, U b) { return Each<U>([](auto x, auto y) {
      return x + y; }, a, b);
    }
    friend JAXFP4_INLINE U operator-(U a, U b) { return Each<U>([](auto x, auto y) {
      return x - y; }, a, b);
    }
    friend JAXFP4_INLINE U operator*(U a, U b) { return Each<U>([](auto x, auto y) {
      return x * y; }, a, b);
    }
    friend JAXFP4_INLINE U operator&(U a, U b) { return Each<U>([](auto x, auto y) {
      return x & y; }, a, b);
    }
    friend JAXFP4_INLINE U operator|(U a, U b) { return Each<U>([](auto x, auto y) {
      return x | y; }, a, b);
    }
    friend JAXFP4_INLINE U operator^(U a, U b) { return Each<U>([](auto x, auto y) {
      return x ^ y; }, a, b);
    }
    friend JAXFP4_INLINE U operator<<(U a, unsigned n) {
      return {a.q0 << n, a.q1 << n, a.q2 << n, a.q3 << n};
    }
    friend JAXFP4_INLINE U operator>>(U a, unsigned n) {
      return {a.q0 >> n, a.q1 >> n, a.q2 >> n, a.q3 >> n};
    }
    friend JAXFP4_INLINE U operator>>(U a, U n) {
      return {a.q0 >> n.q0, a.q1 >> n.q1, a.q2 >> n.q2, a.q3 >> n.q3};
    }
  };

  static JAXFP4_INLINE U Bits(F x) { return Each<U>([](auto q) {
    return vreinterpretq_u32_f32(q); }, x);
  }
  static JAXFP4_INLINE F Float(U x) { return Each<F>([](auto q) {
    return vreinterpretq_f32_u32(q); }, x);
  }
  static JAXFP4_INLINE F FromInt(U x) {
    return Each<F>([](uint32x4_t q) { return vcvtq_f32_s32(vreinterpretq_s32_u32(q)); }, x);
  }
  static JAXFP4_INLINE U ToInt(F x) {
    return Each<U>([](float32x4_t q) { return vreinterpretq_u32_s32(vcvtq_s32_f32(q)); }, x);
  }
  static JAXFP4_INLINE U Min(U a, U b) { return Each<U>([](auto x, auto y) {
    return vminq_u32(x, y); }, a, b);
  }
  static JAXFP4_INLINE U Max(U a, U b) { return Each<U>([](auto x, auto y) {
    return vmaxq_u32(x, y); }, a, b);
  }
  static JAXFP4_INLINE M Less(U a, U b) { return Each<M>([](auto x, auto y) {
    return vcltq_u32(x, y); }, a, b);
  }
  static JAXFP4_INLINE M Less(F a, F b) { return Each<M>([](auto x, auto y) {
    return vcltq_f32(x, y); }, a, b);
  }
  static JAXFP4_INLINE M Equal(U a, U b) { return Each<M>([](auto x, auto y) {
    return vceqq_u32(x, y); }, a, b);
  }
  static JAXFP4_INLINE M Equal(F a, F b) { return Each<M>([](auto x, auto y) {
    return vceqq_f32(x, y); }, a, b);
  }
  static JAXFP4_INLINE U Select(M m, U a, U b) { return Each<U>([](auto c, auto x, auto y) {
    return vbslq_u32(c, x, y); }, m, a, b);
  }
  static JAXFP4_INLINE F Select(M m, F a, F b) { return Each<F>([](auto c, auto x, auto y) {
    return vbslq_f32(c, x, y); }, m, a, b);
  }
  static JAXFP4_INLINE U SelectBits(U mask, U a, U b) { return Each<U>([](auto c, auto x, auto y) {
    return vbslq_u32(c, x, y); }, mask, a, b);
  }
  static JAXFP4_INLINE F MulAdd(F a, F b, F c) { return Each<F>([](auto z, auto x, auto y) {
    return vfmaq_f32(z, x, y); }, c, a, b);
  }
  static JAXFP4_INLINE bool Any(M m) {
    return vmaxvq_u32(vorrq_u32(vorrq_u32(m.q0, m.q1), vorrq_u32(m.q2, m.q3))) != 0;
  }
};

JAXFP4_INLINE Lanes::U Held(Lanes::U x) { return x; }

// ---- memory

JAXFP4_INLINE Lanes::F LoadF32(const float* p) {
  return {vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)};
}
JAXFP4_INLINE void StoreF32(Lanes::F x, float* p) {
  vst1q_f32(p, x.q0);
  vst1q_f32(p + 4, x.q1);
  vst1q_f32(p + 8, x.q2);
  vst1q_f32(p + 12, x.q3);
}
JAXFP4_INLINE Lanes::U LoadU32(const uint32_t* p) {
  return {vld1q_u32(p), vld1q_u32(p + 4), vld1q_u32(p + 8), vld1q_u32(p + 12)};
}
JAXFP4_INLINE void StoreU32(Lanes::U x, uint32_t* p) {
  vst1q_u32(p, x.q0);
  vst1q_u32(p + 4, x.q1);
  vst1q_u32(p + 8, x.q2);
  vst1q_u32(p + 12, x.q3);
}

// The lanes' low halves, or from them.
JAXFP4_INLINE Lanes::U Widened(uint16x8_t lo, uint16x8_t hi) {
  return {vmovl_u16(vget_low_u16(lo)), vmovl_high_u16(lo),
          vmovl_u16(vget_low_u16(hi)), vmovl_high_u16(hi)};
}
JAXFP4_INLINE uint16x8_t Narrowed(uint32x4_t lo, uint32x4_t hi) {
  return vuzp1q_u16(vreinterpretq_u16_u32(lo), vreinterpretq_u16_u32(hi));
}
JAXFP4_INLINE Lanes::U LoadU16(const uint16_t* p) {
  return Widened(vld1q_u16(p), vld1q_u16(p + 8));
}
JAXFP4_INLINE void StoreU16(Lanes::U x, uint16_t* p) {
  vst1q_u16(p, Narrowed(x.q0, x.q1));
  vst1q_u16(p + 8, Narrowed(x.q2, x.q3));
}

JAXFP4_INLINE uint16x8_t UpperHalves(float32x4_t lo, float32x4_t hi) {
  return vuzp2q_u16(vreinterpretq_u16_f32(lo), vreinterpretq_u16_f32(hi));
}

// The lanes' low bytes, or from them.
JAXFP4_INLINE Lanes::U FromBytes(uint8x16_t bytes) {
  return Widened(vmovl_u8(vget_low_u8(bytes)), vmovl_high_u8(bytes));
}
JAXFP4_INLINE uint8x16_t ToBytes(Lanes::U x) {
  return vuzp1q_u8(vreinterpretq_u8_u16(Narrowed(x.q0, x.q1)),
                   vreinterpretq_u8_u16(Narrowed(x.q2, x.q3)));
}
JAXFP4_INLINE Lanes::U LoadBytes(const uint8_t* p) { return FromBytes(vld1q_u8(p)); }
JAXFP4_INLINE void StoreBytes(Lanes::U x, uint8_t* p) { vst1q_u8(p, ToBytes(x)); }

// Conversions of float16 heed neither FPCR.FZ nor, unlike its arithmetic, FPCR.FZ16.
JAXFP4_INLINE Lanes::F FromHalves(float16x8_t lo, float16x8_t hi) {
  return {vcvt_f32_f16(vget_low_f16(lo)), vcvt_high_f32_f16(lo),
          vcvt_f32_f16(vget_low_f16(hi)), vcvt_high_f32_f16(hi)};
}
JAXFP4_INLINE Lanes::F LoadF16(const uint16_t* p) {
  return FromHalves(vreinterpretq_f16_u16(vld1q_u16(p)), vreinterpretq_f16_u16(vld1q_u16(p + 8)));
}
JAXFP4_INLINE void StoreF16(Lanes::F x, uint16_t* p) {
  vst1q_u16(p, vreinterpretq_u16_f16(vcvt_high_f16_f32(vcvt_f16_f32(x.q0), x.q1)));
  vst1q_u16(p + 8, vreinterpretq_u16_f16(vcvt_high_f16_f32(vcvt_f16_f32(x.q2), x.q3)));
}

// ---- packed codes

JAXFP4_INLINE uint8x16_t NibbleBytes(const uint8_t* p) {
  const uint8x8_t pairs = vld1_u8(p);
  const uint8x8_t even = vand_u8(pairs, vdup_n_u8(15)), odd = vshr_n_u8(pairs, 4);
  return vcombine_u8(vzip1_u8(even, odd), vzip2_u8(even, odd));
}
JAXFP4_INLINE Lanes::U LoadNibbles(const uint8_t* p) { return FromBytes(NibbleBytes(p)); }

// Thirty-two codes of a byte each to sixteen bytes.
JAXFP4_INLINE uint8x16_t JoinNibbles(uint8x16_t a, uint8x16_t b) {
  return vsliq_n_u8(vuzp1q_u8(a, b), vuzp2q_u8(a, b), 4);
}
JAXFP4_INLINE void StoreNibbles(Lanes::U x, uint8_t* p) {
  const uint8x16_t bytes = ToBytes(x);
  vst1_u8(p, vget_low_u8(JoinNibbles(bytes, bytes)));
}
constexpr int kNibbleGroup = 2;
JAXFP4_INLINE void StoreNibbleGroup(const Lanes::U x[kNibbleGroup], uint8_t* p) {
  vst1q_u8(p, JoinNibbles(ToBytes(x[0]), ToBytes(x[1])));
}

// Six bits: four codes are a word of three bytes.
JAXFP4_INLINE void StoreSixes(Lanes::U x, uint8_t* p) {
  const int32x4_t shifts = {0, 6, 12, 18};
  const auto placed = [&](uint32x4_t codes) { return vshlq_u32(codes, shifts); };
  const uint32x4_t words = vpaddq_u32(vpaddq_u32(placed(x.q0), placed(x.q1)),
                                      vpaddq_u32(placed(x.q2), placed(x.q3)));
  const uint8x16_t order = {0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14};
  const uint8x16_t bytes = vqtbl1q_u8(vreinterpretq_u8_u32(words), order);
  vst1_u8(p, vget_low_u8(bytes));
  const uint32_t last = vgetq_lane_u32(vreinterpretq_u32_u8(bytes), 2);
  memcpy(p + 8, &last, sizeof(last));
}
JAXFP4_INLINE Lanes::U LoadSixes(const uint8_t* p) {
  uint32_t last;
  memcpy(&last, p + 8, sizeof(last));
  const uint8x16_t bytes = vcombine_u8(vld1_u8(p), vreinterpret_u8_u32(vdup_n_u32(last)));
  const auto codes = [&](uint32_t from) {  // the bytes of a word, in each of four lanes
    const uint8x16_t order = vreinterpretq_u8_u32(vdupq_n_u32(from));
    const uint32x4_t words = vreinterpretq_u32_u8(vqtbl1q_u8(bytes, order));
    return vandq_u32(vshlq_u32(words, int32x4_t{0, -6, -12, -18}), vdupq_n_u32(63));
  };
  return {codes(0xff020100), codes(0xff050403), codes(0xff080706), codes(0xff0b0a09)};
}

// ---- values of codes: bfloat16 holds all of them, so their bytes are looked up or computed

struct Halves {
  uint8x16_t low, high;

  JAXFP4_INLINE uint16x8_t First() const { return vreinterpretq_u16_u8(vzip1q_u8(low, high)); }
  JAXFP4_INLINE uint16x8_t Second() const { return vreinterpretq_u16_u8(vzip2q_u8(low, high)); }
  JAXFP4_INLINE Lanes::F Floats() const {
    const uint16x8_t lo = First(), hi = Second();
    return Lanes::Float({vshll_n_u16(vget_low_u16(lo), 16), vshll_high_n_u16(lo, 16),
                         vshll_n_u16(vget_low_u16(hi), 16), vshll_high_n_u16(hi, 16)});
  }
};

// The values of the first codes, up to 64, as bfloat16.
template <class E>
struct HalfTables {
  uint8_t low[64] = {}, high[64] = {};

  static constexpr uint32_t Half(uint32_t code) {
    constexpr uint32_t kOne = 1u << E::kMantissaBits, kSign = 1u << (E::kBits - 1);
    const uint32_t sign = code & kSign ? 0x8000 : 0, magnitude = code & (kSign - 1);
    if (magnitude == 0) return sign;
    uint32_t significand = magnitude & (kOne - 1), field = magnitude >> E::kMantissaBits;
    if (field > 0) significand += kOne;
    int exponent = E::kMinExponent + (field > 0 ? static_cast<int>(field) - 1 : 0);
    for (; significand < kOne; significand *= 2) --exponent;
    return sign | static_cast<uint32_t>(exponent + 127) << 7 |
           (significand & (kOne - 1)) << (7 - E::kMantissaBits);
  }
  constexpr HalfTables() {
    for (uint32_t code = 0; code < 64; ++code) {
      low[code] = static_cast<uint8_t>(Half(code));
      high[code] = static_cast<uint8_t>(Half(code) >> 8);
    }
  }
};

// Codes of a byte each.
template <class E>
JAXFP4_INLINE Halves LookUp(uint8x16_t codes) {
  static constexpr HalfTables<E> kTables;
  if constexpr (E::kBits == 4) {
    return {vqtbl1q_u8(vld1q_u8(kTables.low), codes), vqtbl1q_u8(vld1q_u8(kTables.high), codes)};
  } else if constexpr (E::kBits == 6) {
    return {vqtbl4q_u8(vld1q_u8_x4(kTables.low), codes),
            vqtbl4q_u8(vld1q_u8_x4(kTables.high), codes)};
  } else {  // the first sixteen, subnormals among them, are looked up
    constexpr uint8_t kBias = (E::kMinExponent + 126) / 2;
    const uint8x16_t magnitude = vandq_u8(codes, vdupq_n_u8(0x7f));
    const uint8x16_t low = vqtbx1q_u8(vshlq_n_u8(codes, 7 - E::kMantissaBits),
                                      vld1q_u8(kTables.low), magnitude);
    const uint8x16_t normal =
        vaddq_u8(vshrq_n_u8(magnitude, E::kMantissaBits + 1), vdupq_n_u8(kBias));
    const uint8x16_t finite = vqtbx1q_u8(normal, vld1q_u8(kTables.high), magnitude);
    const uint8x16_t special = vcgeq_u8(magnitude, vdupq_n_u8(E::kFirstSpecial));
    return {low, vbslq_u8(vdupq_n_u8(0x80), codes, vorrq_u8(finite, special))};
  }
}

template <int kBits>
JAXFP4_INLINE uint8x16_t CodeBytes(const uint8_t* p) {
  if constexpr (kBits == 4) return NibbleBytes(p);
  if constexpr (kBits == 6) return ToBytes(LoadSixes(p));
  if constexpr (kBits == 8) return vld1q_u8(p);
}

// Of the low four bits of the lanes.
JAXFP4_INLINE Lanes::F LookUpE2M1(Lanes::U codes) {
  return LookUp<E2M1>(vandq_u8(ToBytes(codes), vdupq_n_u8(15))).Floats();
}

// ---- across lanes

// Lane i of the result is lane i ^ h.
template <int h>
JAXFP4_INLINE Lanes::F Exchange(Lanes::F x) {
  if constexpr (h == 8) return {x.q2, x.q3, x.q0, x.q1};
  if constexpr (h == 4) return {x.q1, x.q0, x.q3, x.q2};
  if constexpr (h == 2) return Each<Lanes::F>([](auto q) { return vextq_f32(q, q, 2); }, x);
  if constexpr (h == 1) return Each<Lanes::F>([](auto q) { return vrev64q_f32(q); }, x);
}

// Lanes 4 i to 4 i + 3 of y[v] are lanes 4 v to 4 v + 3 of x[i].
JAXFP4_INLINE void ExchangeQuarters(const Lanes::F x[4], Lanes::F y[4]) {
  y[0] = {x[0].q0, x[1].q0, x[2].q0, x[3].q0};
  y[1] = {x[0].q1, x[1].q1, x[2].q1, x[3].q1};
  y[2] = {x[0].q2, x[1].q2, x[2].q2, x[3].q2};
  y[3] = {x[0].q3, x[1].q3, x[2].q3, x[3].q3};
}

struct MaxOp {
  using T = Lanes::U;
  static JAXFP4_INLINE uint32x4_t Apply(uint32x4_t a, uint32x4_t b) { return vmaxq_u32(a, b); }
  static JAXFP4_INLINE uint32x4_t Pairs(uint32x4_t a, uint32x4_t b) { return vpmaxq_u32(a, b); }
  static JAXFP4_INLINE uint32x4_t Halves(uint32x4_t a, uint32x4_t b) {
    const uint64x2_t x = vreinterpretq_u64_u32(a), y = vreinterpretq_u64_u32(b);
    return vmaxq_u32(vreinterpretq_u32_u64(vzip1q_u64(x, y)),
                     vreinterpretq_u32_u64(vzip2q_u64(x, y)));
  }
};
struct AddOp {
  using T = Lanes::F;
  static JAXFP4_INLINE float32x4_t Apply(float32x4_t a, float32x4_t b) { return vaddq_f32(a, b); }
  static JAXFP4_INLINE float32x4_t Pairs(float32x4_t a, float32x4_t b) { return vpaddq_f32(a, b); }
  static JAXFP4_INLINE float32x4_t Halves(float32x4_t a, float32x4_t b) {
    const float64x2_t x = vreinterpretq_f64_f32(a), y = vreinterpretq_f64_f32(b);
    return vaddq_f32(vreinterpretq_f32_f64(vzip1q_f64(x, y)),
                     vreinterpretq_f32_f64(vzip2q_f64(x, y)));
  }
};

// The sixteen operands are folded by halves (lanes j and j + 8, then j + 4, ...), two into one
// register in the last two steps.
template <class Op>
JAXFP4_INLINE typename Op::T FoldEach(const typename Op::T v[16]) {
  const auto four = [&](int i) {
    const auto within = [&](const typename Op::T& x) {
      return Op::Apply(Op::Apply(x.q0, x.q2), Op::Apply(x.q1, x.q3));
    };
    return Op::Pairs(Op::Halves(within(v[i]), within(v[i + 1])),
                     Op::Halves(within(v[i + 2]), within(v[i + 3])));
  };
  return {four(0), four(4), four(8), four(12)};
}

}  // namespace jaxfp4::JAXFP4_TARGET
