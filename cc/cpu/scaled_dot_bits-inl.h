// e2m1 codes times a scale as pairs of bfloat16, by additions to bits: six instructions for 32 of
// them, where multiplying takes ten. Included by scaled_dot_kernel.cc only.
//
// With a scale s the magnitudes are 4s and 6s over 1, 2, 4 or 8, and zero. From the bits of -4s a
// code takes 2^7 for each halving and the sign if it is positive, and it adds what 6s has above 4s
// if it is of that half. Zero takes everything, by saturation. That is what multiplying gives if s
// is positive and within range (Fit); a zero has no sign then, which no sum shows.
#pragma once

#include "cc/cpu/scaled_dot_rows-inl.h"

#if defined(__AVX512BF16__) && defined(__AVX512VBMI__)

namespace jaxfp4::JAXFP4_TARGET {
namespace {

// Tables of 32 words, which indices of more bits find by their last five.
struct Words32 {
  alignas(64) uint16_t of[32];
  __m512i Load() const { return _mm512_load_si512(of); }
};

// What each code takes. The last bit says that it is of the half of 6s; it is taken as well.
constexpr Words32 TakenBits() {
  constexpr int kHalvings[] = {0, 3, 2, 2, 1, 1, 0, 0};
  Words32 taken = {};
  for (int i = 0; i < 32; ++i) {
    const int magnitude = i & 7, sign = i & 8 ? 0 : 0x8000;
    const int of_six = magnitude == 3 || magnitude == 5 || magnitude == 7;
    const int bits = magnitude == 0 ? 0xfffe : sign + (kHalvings[magnitude] << 7) + of_six;
    taken.of[i] = static_cast<uint16_t>(bits);
  }
  return taken;
}

// By the significand of an e4m3 scale, what the bits of 6s have above those of 4s.
constexpr Words32 SixAboveFour() {
  Words32 above = {};
  for (int i = 0; i < 32; ++i) {
    const int four = 8 + i % 8, six = 3 * four;  // in eighths and sixteenths
    const int bits = six < 32 ? six * 8 - 128 : six * 4 - 128 + 128;
    above.of[i] = static_cast<uint16_t>(bits - (four * 16 - 128));
  }
  return above;
}

constexpr Words32 kTakenBits = TakenBits(), kSixAboveFour = SixAboveFour();

// Of sixteen rows with a scale each.
template <ScaleType kType>
class ProductBits {
 public:
  // Whether all of these scales are such as the above holds for.
  static JAXFP4_INLINE bool Fit(const uint8_t* scales, int64_t count) {
    __mmask64 outside = 0;
    for (int64_t i = 0; i < count; i += 64) {
      const __mmask64 some = ~__mmask64{0} >> (64 - Min64(64, count - i));
      const __m512i bytes = _mm512_maskz_loadu_epi8(some, scales + i);
      const __m512i above = _mm512_sub_epi8(bytes, _mm512_set1_epi8(kLeast));
      outside |= _mm512_mask_cmpgt_epu8_mask(
          some, above, _mm512_set1_epi8(static_cast<char>(kMost - kLeast)));
    }
    return outside == 0;
  }

  explicit JAXFP4_INLINE ProductBits(const uint8_t* scales) {
    const __m512i bytes = _mm512_castsi128_si512(
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(scales)));
    alignas(64) static constexpr uint8_t kRow[64] = {
        0, 0, 0, 0, 1, 1, 1, 1, 2,  2,  2,  2,  3,  3,  3,  3,  4,  4,  4,  4,  5,  5,
        5, 5, 6, 6, 6, 6, 7, 7, 7,  7,  8,  8,  8,  8,  9,  9,  9,  9,  10, 10, 10, 10,
        11, 11, 11, 11, 12, 12, 12, 12, 13, 13, 13, 13, 14, 14, 14, 14, 15, 15, 15, 15};
    const __m512i scale =
        _mm512_maskz_permutexvar_epi8(0x5555555555555555, _mm512_load_si512(kRow), bytes);
    constexpr int kShift = kType == ScaleType::kE4M3 ? 4 : 7;
    constexpr int kExponents = kType == ScaleType::kE4M3 ? 127 - 7 : 0;
    four_ = _mm512_add_epi16(_mm512_slli_epi16(scale, kShift),
                             _mm512_set1_epi16(static_cast<short>(0x8000 | (kExponents + 2) << 7)));
    six_ = kType == ScaleType::kE4M3
               ? _mm512_permutexvar_epi16(scale, kSixAboveFour.Load()) : _mm512_set1_epi16(64);
    six_ = _mm512_add_epi16(six_, _mm512_set1_epi16(1));
  }

  // Pairs of the eight codes of each row, `stride` apart.
  JAXFP4_INLINE void Store(U codes, uint32_t* to, int64_t stride) const {
    // The bits at which the codes of four words are, in the two rows of 64 bits.
    __m512i places = _mm512_set1_epi64(0x2424202004040000);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i, to += stride) {
      const __m512i index = _mm512_multishift_epi64_epi8(places, codes.v);
      const __m512i taken = _mm512_permutexvar_epi16(index, kTakenBits.Load());
      const __m512i left = _mm512_subs_epu16(four_, taken);
      const __mmask32 of_six = _mm512_test_epi16_mask(taken, _mm512_set1_epi16(1));
      _mm512_storeu_si512(to, _mm512_mask_add_epi16(left, of_six, left, six_));
      places = _mm512_add_epi8(places, _mm512_set1_epi8(8));
    }
  }

 private:
  // Scales of e4m3 are normal; half of the least e8m0 becomes zero, as subnormals do elsewhere. None
  // is NaN, and 6s is finite.
  static constexpr int kLeast = kType == ScaleType::kE4M3 ? 8 : 1;
  static constexpr int kMost = kType == ScaleType::kE4M3 ? 0x7e : 252;

  __m512i four_;  // the bits of -4s
  __m512i six_;   // what those of -6s have above them, and the last bit of what is taken
};

}  // namespace
}  // namespace jaxfp4::JAXFP4_TARGET

#endif
