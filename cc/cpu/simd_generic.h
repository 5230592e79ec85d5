// Sixteen lanes as two vectors of eight, in the compilers' vector extension: AVX2 registers where
// there are any, whatever the compiler makes of it elsewhere. Included by simd.h only.
#pragma once

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "cc/codec/lanes.h"

namespace jaxfp4::JAXFP4_TARGET {

typedef float F8 __attribute__((vector_size(32)));
typedef uint32_t U8 __attribute__((vector_size(32)));
typedef int32_t I8 __attribute__((vector_size(32)));

#if defined(__clang__)
#define JAXFP4_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define JAXFP4_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, I8{__VA_ARGS__})
#endif

struct Lanes {
  struct M {
    I8 lo, hi;
  };
  struct F {
    F8 lo, hi;
    F() = default;
    JAXFP4_INLINE F(F8 l, F8 h) : lo(l), hi(h) {}
    JAXFP4_INLINE F(float x) : lo(F8{x, x, x, x, x, x, x, x}), hi(lo) {}
    friend JAXFP4_INLINE F operator+(F a, F b) { return {a.lo + b.lo, a.hi + b.hi}; }
    friend JAXFP4_INLINE F operator-(F a, F b) { return {a.lo - b.lo, a.hi - b.hi}; }
    friend JAXFP4_INLINE F operator*(F a, F b) { return {a.lo * b.lo, a.hi * b.hi}; }
    friend JAXFP4_INLINE F operator/(F a, F b) { return {a.lo / b.lo, a.hi / b.hi}; }
  };
  struct U {
    U8 lo, hi;
    U() = default;
    JAXFP4_INLINE U(U8 l, U8 h) : lo(l), hi(h) {}
    JAXFP4_INLINE U(uint32_t x) : lo(U8{x, x, x, x, x, x, x, x}), hi(lo) {}
    friend JAXFP4_INLINE U operator+(U a, U b) { return {a.lo + b.lo, a.hi + b.hi}; }
    friend JAXFP4_INLINE U operator-(U a, U b) { return {a.lo - b.lo, a.hi - b.hi}; }
    friend JAXFP4_INLINE U operator*(U a, U b) { return {a.lo * b.lo, a.hi * b.hi}; }
    friend JAXFP4_INLINE U operator&(U a, U b) { return {a.lo & b.lo, a.hi & b.hi}; }
    friend JAXFP4_INLINE U operator|(U a, U b) { return {a.lo | b.lo, a.hi | b.hi}; }
    friend JAXFP4_INLINE U operator^(U a, U b) { return {a.lo ^ b.lo, a.hi ^ b.hi}; }
    friend JAXFP4_INLINE U operator<<(U a, unsigned n) { return {a.lo << n, a.hi << n}; }
    friend JAXFP4_INLINE U operator>>(U a, unsigned n) { return {a.lo >> n, a.hi >> n}; }
    friend JAXFP4_INLINE U operator>>(U a, U n) { return {a.lo >> n.lo, a.hi >> n.hi}; }
  };

  static JAXFP4_INLINE U Bits(F x) { return {(U8)x.lo, (U8)x.hi}; }
  static JAXFP4_INLINE F Float(U x) { return {(F8)x.lo, (F8)x.hi}; }
  static JAXFP4_INLINE F FromInt(U x) {
    return {__builtin_convertvector((I8)x.lo, F8), __builtin_convertvector((I8)x.hi, F8)};
  }
  static JAXFP4_INLINE U ToInt(F x) {
    return {(U8)__builtin_convertvector(x.lo, I8), (U8)__builtin_convertvector(x.hi, I8)};
  }
  static JAXFP4_INLINE U8 Min8(U8 a, U8 b) { return a < b ? a : b; }
  static JAXFP4_INLINE U8 Max8(U8 a, U8 b) { return a > b ? a : b; }
  static JAXFP4_INLINE U Min(U a, U b) { return {Min8(a.lo, b.lo), Min8(a.hi, b.hi)}; }
  static JAXFP4_INLINE U Max(U a, U b) { return {Max8(a.lo, b.lo), Max8(a.hi, b.hi)}; }
  static JAXFP4_INLINE M Less(U a, U b) { return {(I8)(a.lo < b.lo), (I8)(a.hi < b.hi)}; }
  static JAXFP4_INLINE M Less(F a, F b) { return {(I8)(a.lo < b.lo), (I8)(a.hi < b.hi)}; }
  static JAXFP4_INLINE M Equal(U a, U b) { return {(I8)(a.lo == b.lo), (I8)(a.hi == b.hi)}; }
  static JAXFP4_INLINE M Equal(F a, F b) { return {(I8)(a.lo == b.lo), (I8)(a.hi == b.hi)}; }
  static JAXFP4_INLINE U Select(M m, U a, U b) {
    return {m.lo ? a.lo : b.lo, m.hi ? a.hi : b.hi};
  }
  static JAXFP4_INLINE F Select(M m, F a, F b) {
    return {m.lo ? a.lo : b.lo, m.hi ? a.hi : b.hi};
  }
  static JAXFP4_INLINE U SelectBits(U mask, U a, U b) {
    return {(a.lo & mask.lo) | (b.lo & ~mask.lo), (a.hi & mask.hi) | (b.hi & ~mask.hi)};
  }
  static JAXFP4_INLINE F MulAdd(F a, F b, F c) {
#if defined(__FMA__)
    return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
#else
    return a * b + c;
#endif
  }
  static JAXFP4_INLINE bool Any(M m) {
    const I8 any = m.lo | m.hi;
    int32_t found = 0;
    for (int i = 0; i < 8; ++i) found |= any[i];
    return found != 0;
  }
};

JAXFP4_INLINE Lanes::U Held(Lanes::U x) { return x; }

// ---- memory: a vector type of the right width copied in or out, then converted

template <class T>
JAXFP4_INLINE T LoadAny(const void* p) {
  T x;
  memcpy(&x, p, sizeof(T));
  return x;
}
template <class T>
JAXFP4_INLINE void StoreAny(T x, void* p) {
  memcpy(p, &x, sizeof(T));
}

typedef uint16_t U16x8 __attribute__((vector_size(16)));
typedef uint8_t U8x8 __attribute__((vector_size(8)));

JAXFP4_INLINE Lanes::F LoadF32(const float* p) { return {LoadAny<F8>(p), LoadAny<F8>(p + 8)}; }
// (By halves: gcc copies the whole through the stack.)
JAXFP4_INLINE void StoreF32(Lanes::F x, float* p) {
  StoreAny(x.lo, p);
  StoreAny(x.hi, p + 8);
}
JAXFP4_INLINE Lanes::U LoadU32(const uint32_t* p) { return {LoadAny<U8>(p), LoadAny<U8>(p + 8)}; }
JAXFP4_INLINE void StoreU32(Lanes::U x, uint32_t* p) {
  StoreAny(x.lo, p);
  StoreAny(x.hi, p + 8);
}
// (Of these conversions gcc 12 makes element by element code, but for SSE.)
JAXFP4_INLINE U8 Widen(U16x8 x) {
#if defined(__AVX2__)
  return (U8)_mm256_cvtepu16_epi32((__m128i)x);
#else
  return __builtin_convertvector(x, U8);
#endif
}
JAXFP4_INLINE U8 Widen(U8x8 x) {
#if defined(__AVX2__)
  return (U8)_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(&x)));
#else
  return __builtin_convertvector(x, U8);
#endif
}
JAXFP4_INLINE Lanes::U LoadU16(const uint16_t* p) {
  return {Widen(LoadAny<U16x8>(p)), Widen(LoadAny<U16x8>(p + 8))};
}
JAXFP4_INLINE void StoreU16(Lanes::U x, uint16_t* p) {
#if defined(__AVX2__)
  const __m256i packed = _mm256_packus_epi32((__m256i)x.lo, (__m256i)x.hi);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(packed, 0xd8));
#else
  const U16x8 lo = __builtin_convertvector(x.lo, U16x8);
  const U16x8 hi = __builtin_convertvector(x.hi, U16x8);
  StoreAny(lo, p);
  StoreAny(hi, p + 8);
#endif
}
JAXFP4_INLINE Lanes::U LoadBytes(const uint8_t* p) {
  return {Widen(LoadAny<U8x8>(p)), Widen(LoadAny<U8x8>(p + 8))};
}
JAXFP4_INLINE void StoreBytes(Lanes::U x, uint8_t* p) {
#if defined(__AVX2__)
  const __m256i words = _mm256_packus_epi32((__m256i)x.lo, (__m256i)x.hi);
  const __m256i bytes = _mm256_packus_epi16(words, words);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm_unpacklo_epi32(_mm256_castsi256_si128(bytes),
                                      _mm256_extracti128_si256(bytes, 1)));
#else
  const U8x8 lo = __builtin_convertvector(x.lo, U8x8);
  const U8x8 hi = __builtin_convertvector(x.hi, U8x8);
  StoreAny(lo, p);
  StoreAny(hi, p + 8);
#endif
}

#if defined(__F16C__)
JAXFP4_INLINE Lanes::F LoadF16(const uint16_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
          _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
}
JAXFP4_INLINE void StoreF16(Lanes::F x, uint16_t* p) {
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x.lo, kNearest));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), _mm256_cvtps_ph(x.hi, kNearest));
}
#else
JAXFP4_INLINE Lanes::F LoadF16(const uint16_t* p) { return FromF16<Lanes>(LoadU16(p)); }
JAXFP4_INLINE void StoreF16(Lanes::F x, uint16_t* p) { StoreU16(ToF16<Lanes>(x), p); }
#endif

// ---- nibbles: eight codes are the eight shifts of a 32-bit word

JAXFP4_INLINE U8 NibbleShifts() { return U8{0, 4, 8, 12, 16, 20, 24, 28}; }

JAXFP4_INLINE Lanes::U LoadNibbles(const uint8_t* p) {
  const U8 shifts = NibbleShifts();
  return {(LoadAny<uint32_t>(p) >> shifts) & 15, (LoadAny<uint32_t>(p + 4) >> shifts) & 15};
}

JAXFP4_INLINE uint32_t PackNibbles(U8 codes) {
  const U8 placed = codes << NibbleShifts();
  const U8 pairs = placed | JAXFP4_SHUFFLE(placed, placed, 1, 0, 3, 2, 5, 4, 7, 6);
  const U8 fours = pairs | JAXFP4_SHUFFLE(pairs, pairs, 2, 3, 0, 1, 6, 7, 4, 5);
  return fours[0] | fours[4];
}
JAXFP4_INLINE void StoreNibbles(Lanes::U x, uint8_t* p) {
  const uint32_t words[2] = {PackNibbles(x.lo), PackNibbles(x.hi)};
  memcpy(p, words, sizeof(words));
}
constexpr int kNibbleGroup = 4;
JAXFP4_INLINE void StoreNibbleGroup(const Lanes::U x[kNibbleGroup], uint8_t* p) {
#if defined(__AVX2__)  // narrow twice, join pairs, narrow again, put in order
  const __m256i sixteen = _mm256_set1_epi16(0x1001);
  __m256i joined[2];
  for (int h = 0; h < 2; ++h) {
    const Lanes::U &a = x[2 * h], &b = x[2 * h + 1];
    const __m256i low = _mm256_packus_epi32((__m256i)a.lo, (__m256i)a.hi);
    const __m256i high = _mm256_packus_epi32((__m256i)b.lo, (__m256i)b.hi);
    joined[h] = _mm256_maddubs_epi16(_mm256_packus_epi16(low, high), sixteen);
  }
  const __m256i bytes = _mm256_packus_epi16(joined[0], joined[1]);
  const __m128i even = _mm256_castsi256_si128(bytes), odd = _mm256_extracti128_si256(bytes, 1);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_unpacklo_epi16(even, odd));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p) + 1, _mm_unpackhi_epi16(even, odd));
#else
  for (int i = 0; i < kNibbleGroup; ++i) StoreNibbles(x[i], p + 8 * i);
#endif
}

// Six bits: four codes are a word of three bytes.
JAXFP4_INLINE void StoreSixes(Lanes::U x, uint8_t* p) {
  uint32_t c[kLanes];
  StoreU32(x, c);
  for (int i = 0; i < kLanes; i += 4, p += 3) {
    const uint32_t word = c[i] | (c[i + 1] << 6) | (c[i + 2] << 12) | (c[i + 3] << 18);
    memcpy(p, &word, 3);
  }
}
JAXFP4_INLINE Lanes::U LoadSixes(const uint8_t* p) {
#if defined(__AVX2__)  // three bytes in each of four lanes, which shift them by 0, 6, 12, 18
  int32_t last;
  memcpy(&last, p + 8, sizeof(last));
  const __m128i twelve = _mm_insert_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)),
                                          last, 2);
  constexpr int k0 = 0x00020100, k1 = 0x00050403, k2 = 0x00080706, k3 = 0x000b0a09;
  const __m256i bytes = _mm256_broadcastsi128_si256(twelve);
  const __m256i shifts = _mm256_setr_epi32(0, 6, 12, 18, 0, 6, 12, 18);
  const auto codes = [&](__m256i order) {
    return (U8)_mm256_srlv_epi32(_mm256_shuffle_epi8(bytes, order), shifts) & 63;
  };
  return {codes(_mm256_setr_epi32(k0, k0, k0, k0, k1, k1, k1, k1)),
          codes(_mm256_setr_epi32(k2, k2, k2, k2, k3, k3, k3, k3))};
#else
  uint32_t c[kLanes];
  for (int i = 0; i < kLanes; i += 4, p += 3) {
    const uint32_t word = p[0] | (uint32_t{p[1]} << 8) | (uint32_t{p[2]} << 16);
    for (int j = 0; j < 4; ++j) c[i + j] = (word >> (6 * j)) & 63;
  }
  return LoadU32(c);
#endif
}

// The magnitudes, then the sign.
JAXFP4_INLINE F8 LookUpE2M1(U8 codes) {
  const F8 values = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};
#if defined(__AVX2__)
  const U8 magnitude = (U8)_mm256_permutevar8x32_ps(values, (__m256i)codes);
#elif defined(__clang__)
  U8 magnitude;
  for (int i = 0; i < 8; ++i) magnitude[i] = ((U8)values)[codes[i] & 7];
#else
  const U8 magnitude = (U8)__builtin_shuffle(values, codes & 7);
#endif
  return (F8)(magnitude | ((codes & 8) << 28));
}
JAXFP4_INLINE Lanes::F LookUpE2M1(Lanes::U codes) {
  return {LookUpE2M1(codes.lo), LookUpE2M1(codes.hi)};
}

// Lane i of the result is lane i ^ h.
template <int h>
JAXFP4_INLINE Lanes::F Exchange(Lanes::F x) {
  if constexpr (h == 8) return {x.hi, x.lo};
  if constexpr (h == 4) {
    return {JAXFP4_SHUFFLE(x.lo, x.lo, 4, 5, 6, 7, 0, 1, 2, 3),
            JAXFP4_SHUFFLE(x.hi, x.hi, 4, 5, 6, 7, 0, 1, 2, 3)};
  }
  if constexpr (h == 2) {
    return {JAXFP4_SHUFFLE(x.lo, x.lo, 2, 3, 0, 1, 6, 7, 4, 5),
            JAXFP4_SHUFFLE(x.hi, x.hi, 2, 3, 0, 1, 6, 7, 4, 5)};
  }
  if constexpr (h == 1) {
    return {JAXFP4_SHUFFLE(x.lo, x.lo, 1, 0, 3, 2, 5, 4, 7, 6),
            JAXFP4_SHUFFLE(x.hi, x.hi, 1, 0, 3, 2, 5, 4, 7, 6)};
  }
}

// Lanes 4 i to 4 i + 3 of y[v] are lanes 4 v to 4 v + 3 of x[i].
JAXFP4_INLINE void ExchangeQuarters(const Lanes::F x[4], Lanes::F y[4]) {
  const auto low = [](F8 a, F8 b) { return JAXFP4_SHUFFLE(a, b, 0, 1, 2, 3, 8, 9, 10, 11); };
  const auto high = [](F8 a, F8 b) { return JAXFP4_SHUFFLE(a, b, 4, 5, 6, 7, 12, 13, 14, 15); };
  y[0] = {low(x[0].lo, x[1].lo), low(x[2].lo, x[3].lo)};
  y[1] = {high(x[0].lo, x[1].lo), high(x[2].lo, x[3].lo)};
  y[2] = {low(x[0].hi, x[1].hi), low(x[2].hi, x[3].hi)};
  y[3] = {high(x[0].hi, x[1].hi), high(x[2].hi, x[3].hi)};
}

// The sixteen operands are folded by halves (lanes j and j + 8, then j + 4, ...), two into one
// vector at each step.
struct MaxOp {
  using T = Lanes::U;
  static JAXFP4_INLINE U8 Apply(U8 a, U8 b) { return Lanes::Max8(a, b); }
};
struct AddOp {
  using T = Lanes::F;
  static JAXFP4_INLINE F8 Apply(F8 a, F8 b) { return a + b; }
};

template <class Op>
JAXFP4_INLINE typename Op::T FoldEach(const typename Op::T v[16]) {
  decltype(v[0].lo + v[0].lo) t[16], a[8], b[4], c[2];
  for (int i = 0; i < 16; ++i) t[i] = Op::Apply(v[i].lo, v[i].hi);
  for (int i = 0; i < 8; ++i) {
    a[i] = Op::Apply(JAXFP4_SHUFFLE(t[i], t[i + 8], 0, 1, 2, 3, 8, 9, 10, 11),
                     JAXFP4_SHUFFLE(t[i], t[i + 8], 4, 5, 6, 7, 12, 13, 14, 15));
  }
  for (int i = 0; i < 4; ++i) {
    b[i] = Op::Apply(JAXFP4_SHUFFLE(a[i], a[i + 4], 0, 1, 8, 9, 4, 5, 12, 13),
                     JAXFP4_SHUFFLE(a[i], a[i + 4], 2, 3, 10, 11, 6, 7, 14, 15));
  }
  for (int i = 0; i < 2; ++i) {
    c[i] = Op::Apply(JAXFP4_SHUFFLE(b[i], b[i + 2], 0, 2, 8, 10, 4, 6, 12, 14),
                     JAXFP4_SHUFFLE(b[i], b[i + 2], 1, 3, 9, 11, 5, 7, 13, 15));
  }
  return {JAXFP4_SHUFFLE(c[0], c[1], 0, 8, 2, 10, 1, 9, 3, 11),
          JAXFP4_SHUFFLE(c[0], c[1], 4, 12, 6, 14, 5, 13, 7, 15)};
}

}  // namespace jaxfp4::JAXFP4_TARGET
