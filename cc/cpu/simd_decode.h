// The values of sixteen packed codes. Included by *_kernel.cc only.
#pragma once

#include "cc/cpu/simd.h"

namespace jaxfp4::JAXFP4_TARGET {

#if defined(__F16C__)

// float16 has the bits of e5m2 at its top; those of e4m3, one lower, are its value times 2^-8. The
// conversion to float flushes no subnormals.
JAXFP4_INLINE F HalfToFloat(__m256i half) {
#if defined(__AVX512F__)
  return _mm512_cvtph_ps(half);
#else
  return {_mm256_cvtph_ps(_mm256_castsi256_si128(half)),
          _mm256_cvtph_ps(_mm256_extracti128_si256(half, 1))};
#endif
}
JAXFP4_INLINE F LoadE5M2(const uint8_t* codes) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes));
  return HalfToFloat(_mm256_slli_epi16(_mm256_cvtepu8_epi16(bytes), 8));
}
JAXFP4_INLINE F LoadE4M3Over256(const uint8_t* codes) {
  const __m256i wide =
      _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)));
  const __m256i bits = _mm256_slli_epi16(wide, 7);  // the sign twice, and seven more
  // The lower sign becomes zero, or one if a magnitude of ones carries into it: that is NaN.
  const __m256i carry = _mm256_add_epi16(bits, _mm256_set1_epi16(0x80));
  const __m256i half =
      _mm256_xor_si256(bits, _mm256_and_si256(carry, _mm256_set1_epi16(0x4000)));
  return HalfToFloat(half);
}

#endif

template <class E>
JAXFP4_INLINE F LoadValues(const uint8_t* codes) {
#if defined(JAXFP4_NEON)
  return LookUp<E>(CodeBytes<E::kBits>(codes)).Floats();
#elif defined(__F16C__)
  if constexpr (E::kBits == 8) {
    return E::kMantissaBits == 3 ? LoadE4M3Over256(codes) * F(256.0f) : LoadE5M2(codes);
  }
#endif
  return DecodeCodes<E>(LoadCodes<E::kBits>(codes));
}

// The same over kLoadedUnit, for those who multiply them by more anyway.
#if defined(__F16C__)
template <class E>
constexpr float kLoadedUnit = E::kBits == 8 && E::kMantissaBits == 3 ? 256.0f : 1.0f;
#else
template <class E>
constexpr float kLoadedUnit = 1.0f;
#endif

template <class E>
JAXFP4_INLINE F LoadOverUnit(const uint8_t* codes) {
#if defined(__F16C__)
  if constexpr (kLoadedUnit<E> != 1.0f) return LoadE4M3Over256(codes);
#endif
  return LoadValues<E>(codes);
}

}  // namespace jaxfp4::JAXFP4_TARGET
