// Codes of a row, a group at a time, to vectors of values, and the scales of a group's blocks to
// the lanes of their elements: what the products with rows of rhs in logical order are made of.
//
// A lane has elements of one block of 32 only. Included by scaled_dot_kernel.cc only.
#pragma once

#include <type_traits>

#include "cc/cpu/scaled_dot_gemm-inl.h"

namespace jaxfp4::JAXFP4_TARGET {
namespace {

constexpr int kGroup = 64;
template <class E>
constexpr int kGroupBytes = kGroup * E::kBits / 8;

// ---- values
//
//   operator()   the kVectors vectors of words of a group; the lanes of a quarter have a sixteen
//   Index        which word is in a lane of a vector
#if defined(__AVX512VBMI__) && defined(__AVX512BF16__)

// The bytes of codes as bfloat16: the low ones, then the high ones; 8-bit codes without the sign.
template <class E>
struct ByteTable {
  uint8_t bytes[256];

  constexpr ByteTable() : bytes() {
    for (uint32_t code = 0; code < 128; ++code) {
      const uint32_t bits = BFloat16Of(code & ((1u << E::kBits) - 1));
      bytes[code] = static_cast<uint8_t>(bits);
      bytes[128 + code] = static_cast<uint8_t>(bits >> 8);
    }
  }

 private:
  static constexpr uint32_t BFloat16Of(uint32_t code) {
    const uint32_t sign = 1u << (E::kBits - 1), magnitude = code & (sign - 1);
    const uint32_t sign_bit = (code & sign) << (16 - E::kBits);
    if (magnitude >= E::kFirstNaN) return sign_bit | kQuietNaN >> 16;
    if (magnitude >= E::kFirstSpecial) return sign_bit | kInfinity >> 16;
    if (magnitude == 0) return sign_bit;
    constexpr uint32_t kOne = 1u << E::kMantissaBits;
    uint32_t significand = magnitude % kOne;
    uint32_t exponent = PowerBits(E::kMinExponent) >> 23;
    if (magnitude < kOne) {
      for (; significand < kOne; significand *= 2) --exponent;
      significand -= kOne;
    } else {
      exponent += magnitude / kOne - 1;
    }
    return sign_bit | exponent << 7 | significand << (7 - E::kMantissaBits);
  }
};
template <class E>
alignas(64) inline constexpr ByteTable<E> kByteTable;

// As bfloat16, by looking up both of its bytes.
template <class Math, class E>
class GroupDecoder {
 public:
  static constexpr int kVectors = 4 / Math::kPerWord;

  static constexpr int Index(int v, int lane) {
    const int i = lane / 4, j = lane % 4;
    return Math::kPerWord == 2 ? 8 * i + 4 * v + j : 16 * i + 8 * (v / 2) + 2 * j + v % 2;
  }

  GroupDecoder() {
    for (int i = 0; i < 4; ++i) table_[i] = _mm512_load_si512(kByteTable<E>.bytes + 64 * i);
  }

  JAXFP4_INLINE void operator()(const uint8_t* codes, F* values) const {
    const __m512i c = Held(Bytes(codes)).v;
    const __m512i low = _mm512_permutex2var_epi8(table_[0], c, table_[1]);
    const __m512i magnitude = _mm512_permutex2var_epi8(table_[2], c, table_[3]);
    const __m512i high =  // the sign of 8-bit codes is not in the table
        _mm512_ternarylogic_epi32(magnitude, c, _mm512_set1_epi8(-128), 0xf8);
    const __m512i pairs[2] = {_mm512_unpacklo_epi8(low, high), _mm512_unpackhi_epi8(low, high)};
    if constexpr (Math::kPerWord == 2) {
      values[0] = Lanes::Float(pairs[0]);
      values[1] = Lanes::Float(pairs[1]);
    } else {
      for (int i = 0; i < 2; ++i) {
        values[2 * i] = Lanes::Float(U(pairs[i]) << 16);
        values[2 * i + 1] = Lanes::Float(U(pairs[i]) & 0xffff0000u);
      }
    }
  }

 private:
  static JAXFP4_INLINE __m512i Bytes(const uint8_t* codes) {
    if constexpr (E::kBits == 8) {
      return _mm512_loadu_si512(codes);
    } else if constexpr (E::kBits == 4) {
      const __m512i wide =
          _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes)));
      const __m512i both = _mm512_or_si512(wide, _mm512_slli_epi16(wide, 4));
      return _mm512_and_si512(both, _mm512_set1_epi8(15));
    } else {  // six bytes to each eight, then shifts of 0, 6, ... 42
      const __m512i spread = _mm512_set_epi8(
          0, 0, 47, 46, 45, 44, 43, 42, 0, 0, 41, 40, 39, 38, 37, 36, 0, 0, 35, 34, 33, 32, 31, 30,
          0, 0, 29, 28, 27, 26, 25, 24, 0, 0, 23, 22, 21, 20, 19, 18, 0, 0, 17, 16, 15, 14, 13, 12,
          0, 0, 11, 10, 9, 8, 7, 6, 0, 0, 5, 4, 3, 2, 1, 0);
      const __m512i packed = _mm512_maskz_loadu_epi8((uint64_t{1} << 48) - 1, codes);
      const __m512i shifted = _mm512_multishift_epi64_epi8(
          _mm512_set1_epi64(0x2a241e18120c0600), _mm512_permutexvar_epi8(spread, packed));
      return _mm512_and_si512(shifted, _mm512_set1_epi8(63));
    }
  }

  __m512i table_[4];
};

#else

template <class Math, class E>
class GroupDecoder {
 public:
  static constexpr int kVectors = 4;

  static constexpr int Index(int v, int lane) { return 16 * (lane / 4) + 4 * v + lane % 4; }

  JAXFP4_INLINE void operator()(const uint8_t* codes, F* values) const {
    F sixteens[4];
    for (int i = 0; i < 4; ++i) {
      sixteens[i] = LoadValues<E>(codes + i * kLanes * E::kBits / 8);
    }
    ExchangeQuarters(sixteens, values);
  }
};

#if defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
template <class E>
class GroupDecoder<BFloat16, E> {
 public:
  static constexpr int kVectors = 2;

  static constexpr int Index(int v, int lane) { return 8 * (lane / 4) + 4 * v + lane % 4; }

  JAXFP4_INLINE void operator()(const uint8_t* codes, F* values) const {
    const auto sixteen = [&](int i) {
      return LookUp<E>(CodeBytes<E::kBits>(codes + i * kLanes * E::kBits / 8));
    };
    const auto pairs = [](uint16x8_t halves) { return vreinterpretq_f32_u16(halves); };
    const Halves x[4] = {sixteen(0), sixteen(1), sixteen(2), sixteen(3)};
    values[0] = {pairs(x[0].First()), pairs(x[1].First()), pairs(x[2].First()),
                 pairs(x[3].First())};
    values[1] = {pairs(x[0].Second()), pairs(x[1].Second()), pairs(x[2].Second()),
                 pairs(x[3].Second())};
  }
};
#endif

#endif

// ---- scales

// float32 scales of a row, span by span: a block is several spans, or one. Ones if it has no blocks.
class SpanScales {
 public:
  SpanScales() = default;
  // From depth k of a row on, the end of a span.
  SpanScales(const DotOperand& x, int64_t first, int64_t k, int64_t span) {
    if (!HasOuterBlocks(x)) return;
    const int64_t block = x.format.block_cols;
    next_ = static_cast<const float*>(x.scale) + first + k / block;
    spans_ = block / span;
    left_ = (block - k % block) / span;
  }
  JAXFP4_INLINE float Next() {
    if (spans_ == 0) return 1.0f;
    const float scale = *next_;
    if (--left_ == 0) {
      ++next_;
      left_ = spans_;
    }
    return scale;
  }

 private:
  const float* next_ = nullptr;
  int64_t spans_ = 0, left_ = 0;
};

// The first of two numbers below 2^16 in the lanes of the first block of a group of 64, the second
// in the others.
JAXFP4_INLINE U LanesOfBlocks(uint32_t first, uint32_t second) {
  alignas(64) static constexpr uint32_t kShifts[kLanes] = {0,  0,  0,  0,  0,  0,  0,  0,
                                                           16, 16, 16, 16, 16, 16, 16, 16};
  return U(first | second << 16) >> LoadU32(kShifts);
}

struct GroupPower {
  F factor;
  JAXFP4_INLINE F MulAdd(F x, F sum) const { return Lanes::MulAdd(x, factor, sum); }
};

// e8m0 scales of a row, times two, for groups of 64 in the lanes of their two blocks. NaN comes as
// zero and in the end.
class GroupPowers {
 public:
  static constexpr float kUnit = 0.5f;  // what undoes the doubling

  GroupPowers(const DotOperand& x, int64_t first, int64_t k, int64_t end)
      : scales_(static_cast<const uint8_t*>(x.scale) + first + k / 32), left_((end - k) / 32) {}

  JAXFP4_INLINE GroupPower Next() {
    const uint32_t first = scales_[0] + 1u, second = left_ > 1 ? scales_[1] + 1u : 0u;
    scales_ += 2;
    left_ -= 2;
    seen_ |= first | second;
    return {Lanes::Float((LanesOfBlocks(first, second) & 255u) << 23)};
  }
  JAXFP4_INLINE F Finished(F sum) const {
    return (seen_ & 256) != 0 ? Lanes::Float(U(kQuietNaN)) : sum;
  }

 private:
  const uint8_t* scales_;
  int64_t left_;
  uint32_t seen_ = 0;
};

struct One {
  JAXFP4_INLINE F MulAdd(F x, F sum) const { return sum + x; }
};

// Of a row without scales, or with scales of spans.
struct Ones {
  static constexpr float kUnit = 1.0f;

  Ones(const DotOperand&, int64_t, int64_t, int64_t) {}
  JAXFP4_INLINE One Next() const { return {}; }
  static JAXFP4_INLINE F Finished(F sum) { return sum; }
};

// For Stream (scaled_dot_stream-inl.h). kPowers: whether scales are e8m0, of 32, else float32.
template <class Math_, class E, bool kPowers>
struct GroupCoding {
  using Math = Math_;
  struct Decoder : GroupDecoder<Math, E> {
    static void Pack(const float* x, uint32_t* words) { Math::Pack(x, kGroup, words); }
  };
  using Scales = std::conditional_t<kPowers, GroupPowers, Ones>;
  static constexpr int64_t kDepth = kGroup, kBits = E::kBits;
};

}  // namespace
}  // namespace jaxfp4::JAXFP4_TARGET
