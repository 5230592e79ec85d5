// Decoding sixteen elements at a time, two to a word.
//
// A code at the top of a 16-bit half, shifted down so that its exponent ends where that of float16
// or bfloat16 does, is the code's value times a power of two, subnormals included. Multiplying by
// the scale and by the inverse of that power is exact.
//
// Words hold elements i and i + 4 of each eight, as the masks above get them from four-bit codes;
// sums over a unit do not care for its order, as long as both operands have the same.
#pragma once

#include "cc/cuda/dot_operand.h"
#include "cc/cuda/mma.h"

namespace jaxfp4::cuda {

constexpr int kPairs = kUnit / 2;

// The elements of pair p: the lower half's, and four more.
JAXFP4_HD constexpr int FirstOf(int pair) { return pair / 4 * 8 + pair % 4; }

// Bytes of a unit in memory are 2 * bits.
template <int kWords>
__device__ __forceinline__ void LoadUnit(const Operand& x, const Row& r, uint32_t unit,
                                         uint32_t (&words)[kWords]) {
  const int count = x.bits / 2;
  if (x.interleaved) {  // e2m1
    const uint8_t* p = r.data + int64_t{unit} * 128;
    words[0] = LoadAs<uint32_t>(p);
    words[1] = LoadAs<uint32_t>(p + 64);
    return;
  }
  const uint8_t* p = r.data + int64_t{unit} * count * 4;
  if (count == 2) return LoadWords<8>(p, words);
  if (count == 3) return LoadWords<12>(p, words);
  if (count == 4) return LoadWords<16>(p, words);
  if constexpr (kWords >= 8) {
    if (count == 8) return LoadWords<32>(p, words);
  }
  if constexpr (kWords >= 16) LoadWords<64>(p, words);
}

// The code of a one-byte scale; 0 where there is none.
__device__ __forceinline__ uint32_t LoadScaleCode(const Operand& x, const Row& r, uint32_t unit) {
  if (!x.coded || x.scale_type == ScaleType::kFloat32) return 0;
  return static_cast<const uint8_t*>(x.scale)[ScaleIndex(x, r, unit)];
}

// ---- codes to halves

template <class E>
struct Facts {
  static constexpr int kBias = 1 - E::kMinExponent;
  static constexpr int kExponentBits = E::kBits - 1 - E::kMantissaBits;
};

// The codes of a pair, each at the top of its half; what is below is undefined.
template <class E>
__device__ __forceinline__ uint32_t TopPair(const uint32_t* words, int pair) {
  const int eight = pair / 4, i = pair % 4;
  if constexpr (E::kBits == 4) return words[eight] << (12 - 4 * i);
  if constexpr (E::kBits == 8) {
    const auto at = static_cast<uint32_t>(i);
    return __byte_perm(words[2 * eight], words[2 * eight + 1], 0x4400u + at * 0x1111u);
  }
  return CodeAt<E::kBits>(words, FirstOf(pair)) << (16 - E::kBits) |
         CodeAt<E::kBits>(words, FirstOf(pair) + 4) << (32 - E::kBits);
}

// With kExponentBits of a half for exponents: 5 for float16, 8 for bfloat16. Times 2^(bias of the
// code - bias of the half).
template <class E, int kExponentBits>
__device__ __forceinline__ uint32_t PlacePair(uint32_t top) {
  constexpr int kDown = kExponentBits - Facts<E>::kExponentBits;
  constexpr uint32_t kMagnitude = ((1u << (E::kBits - 1)) - 1) << (16 - E::kBits) >> kDown;
  return (top & 0x80008000u) | ((top >> kDown) & (kMagnitude * 0x10001u));
}

// Whether any code is infinity or NaN, which placing makes ordinary numbers of.
template <class E>
__device__ __forceinline__ bool HasSpecial(const uint32_t* words) {
  if constexpr (E::kBits < 8) return false;
  uint32_t carry = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    carry |= (words[i] & 0x7f7f7f7fu) + (0x80u - E::kFirstSpecial) * 0x01010101u;
  }
  return (carry & 0x80808080u) != 0;
}

// The bits to set in a placed pair of bfloat16 so that specials are what they were.
template <class E>
__device__ __forceinline__ uint32_t SpecialBits(uint32_t top) {
  const auto bits = [](uint32_t magnitude) -> uint32_t {
    return magnitude >= E::kFirstNaN ? 0x7fffu : magnitude >= E::kFirstSpecial ? 0x7f80u : 0u;
  };
  return bits(top >> 8 & 0x7fu) | bits(top >> 24 & 0x7fu) << 16;
}

// ---- to bfloat16

// The factors of a unit's elements, as pairs of the same bfloat16: scale times 2^(127 - bias) in
// all.
struct UnitFactors {
  uint32_t first, second;
};

__device__ __forceinline__ uint32_t PairOf(uint32_t float_bits) {
  return __byte_perm(float_bits, float_bits, 0x3232);
}

__device__ __forceinline__ UnitFactors FactorsOf(ScaleType type, uint32_t code, int bias) {
  const auto power = [](int e) { return PairOf(static_cast<uint32_t>(e + 127) << 23); };
  if (type == ScaleType::kFloat32) return {power(127 - bias), power(0)};
  if (type == ScaleType::kE4M3) {
    return {PairOf(One::Bits(ValueOf<E4M3>(code) * One::Float(PowerBits(118)))), power(9 - bias)};
  }
  const int half = static_cast<int>(code >> 1);
  const uint32_t rest = power(static_cast<int>(code) - half - bias);
  return {power(half), code == 255 ? 0x7fc07fc0u : rest};
}

template <class E>
__device__ __forceinline__ void DecodePairs(ScaleType type, const uint32_t* words, uint32_t code,
                                            uint32_t* pairs) {
  const UnitFactors f = FactorsOf(type, code, Facts<E>::kBias);
  const bool special = HasSpecial<E>(words);
#pragma unroll
  for (int p = 0; p < kPairs; ++p) {
    const uint32_t top = TopPair<E>(words, p);
    uint32_t placed = PlacePair<E, 8>(top);
    if (special) placed |= SpecialBits<E>(top);
    pairs[p] = MultiplyPairs(MultiplyPairs(placed, f.first), f.second);
  }
}

__device__ __forceinline__ void DecodePairs(const Operand& x, const uint32_t* words, uint32_t code,
                                            uint32_t* pairs) {
  switch (x.element) {
    case Element::kE2M1: return DecodePairs<E2M1>(x.scale_type, words, code, pairs);
    case Element::kE2M3: return DecodePairs<E2M3>(x.scale_type, words, code, pairs);
    case Element::kE3M2: return DecodePairs<E3M2>(x.scale_type, words, code, pairs);
    case Element::kE4M3: return DecodePairs<E4M3>(x.scale_type, words, code, pairs);
    case Element::kE5M2: return DecodePairs<E5M2>(x.scale_type, words, code, pairs);
  }
}

// bfloat16 in memory order to pairs.
__device__ __forceinline__ void ReorderPairs(const uint32_t* words, uint32_t* pairs) {
#pragma unroll
  for (int p = 0; p < kPairs; ++p) {
    const int first = FirstOf(p) / 2;
    pairs[p] = __byte_perm(words[first], words[first + 2], p % 2 ? 0x7632 : 0x5410);
  }
}

// The part of x that fits a bfloat16, cut off; x becomes the rest. Nothing is left of specials.
__device__ __forceinline__ uint32_t CutTerm(float* x) {
  const uint32_t bits = One::Bits(*x);
  const uint32_t magnitude = bits & ~kSignBit;
  if (magnitude >= kInfinity) {
    *x = 0.0f;
    return magnitude > kInfinity ? bits | (1u << 22) : bits;
  }
  *x -= One::Float(bits & 0xffff0000u);
  return bits;
}

// Two floats as pair p of sums of kTerms bfloat16: two hold a float16, three a float32. pairs[t] is
// term t.
template <int kTerms>
__device__ __forceinline__ void SplitPair(float a, float b, int p, uint32_t (*pairs)[kPairs]) {
#pragma unroll
  for (int t = 0; t < kTerms; ++t) {
    const uint32_t high_a = CutTerm(&a), high_b = CutTerm(&b);
    pairs[t][p] = __byte_perm(high_a, high_b, 0x7632);
  }
}

template <int kTerms>
__device__ __forceinline__ void SplitFloats(Dtype dtype, const uint32_t* words,
                                            uint32_t (*pairs)[kPairs]) {
#pragma unroll
  for (int p = 0; p < kPairs; ++p) {
    const int i = FirstOf(p);
    float a, b;
    if (dtype == Dtype::kF32) {
      a = One::Float(words[i]);
      b = One::Float(words[i + 4]);
    } else {
      a = FromHalf(i % 2 ? words[i / 2] >> 16 : words[i / 2] & 0xffffu);
      b = FromHalf(i % 2 ? words[i / 2 + 2] >> 16 : words[i / 2 + 2] & 0xffffu);
    }
    SplitPair<kTerms>(a, b, p, pairs);
  }
}

// ---- to float32, in memory order

// Floats of a unit; float32 among them only if kWide.
template <bool kWide>
__device__ __forceinline__ void WidenUnit(Dtype dtype, const uint32_t* words, float* x) {
  if constexpr (kWide) {
    if (dtype == Dtype::kF32) {
#pragma unroll
      for (int i = 0; i < kUnit; ++i) x[i] = One::Float(words[i]);
      return;
    }
  }
  WidenWords(dtype, words, x);
}

// A unit's elements times 2^-(15 - bias), without their scale; returns 2^(15 - bias).
template <class E>
__device__ __forceinline__ float DecodeFloats(const uint32_t* words, float* x) {
#pragma unroll
  for (int p = 0; p < kPairs; ++p) {
    const uint32_t placed = PlacePair<E, 5>(TopPair<E>(words, p));
    x[FirstOf(p)] = FromHalf(placed & 0xffffu);
    x[FirstOf(p) + 4] = FromHalf(placed >> 16);
  }
  if constexpr (E::kBits == 8 && E::kMantissaBits == 3) {  // float16 has the specials of e5m2
    if (HasSpecial<E>(words)) {
#pragma unroll
      for (int i = 0; i < kUnit; ++i) {
        if ((CodeAt<8>(words, i) & 0x7fu) == E::kFirstNaN) x[i] = One::Float(kQuietNaN);
      }
    }
  }
  return One::Float(PowerBits(15 - Facts<E>::kBias));
}

__device__ __forceinline__ float DecodeFloats(Element element, const uint32_t* words, float* x) {
  switch (element) {
    case Element::kE2M1: return DecodeFloats<E2M1>(words, x);
    case Element::kE2M3: return DecodeFloats<E2M3>(words, x);
    case Element::kE3M2: return DecodeFloats<E3M2>(words, x);
    case Element::kE4M3: return DecodeFloats<E4M3>(words, x);
    case Element::kE5M2: break;
  }
  return DecodeFloats<E5M2>(words, x);
}

}  // namespace jaxfp4::cuda
