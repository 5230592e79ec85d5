// Sixteen lanes in one AVX-512 register. Included by simd.h only.
#pragma once

#include <immintrin.h>

#include "cc/codec/lanes.h"

namespace jaxfp4::JAXFP4_TARGET {

struct Lanes {
  struct F {
    __m512 v;
    F() = default;
    JAXFP4_INLINE F(__m512 x) : v(x) {}
    JAXFP4_INLINE F(float x) : v(_mm512_set1_ps(x)) {}
    friend JAXFP4_INLINE F operator+(F a, F b) { return _mm512_add_ps(a.v, b.v); }
    friend JAXFP4_INLINE F operator-(F a, F b) { return _mm512_sub_ps(a.v, b.v); }
    friend JAXFP4_INLINE F operator*(F a, F b) { return _mm512_mul_ps(a.v, b.v); }
    friend JAXFP4_INLINE F operator/(F a, F b) { return _mm512_div_ps(a.v, b.v); }
  };
  struct U {
    __m512i v;
    U() = default;
    JAXFP4_INLINE U(__m512i x) : v(x) {}
    JAXFP4_INLINE U(uint32_t x) : v(_mm512_set1_epi32(static_cast<int>(x))) {}
    friend JAXFP4_INLINE U operator+(U a, U b) { return _mm512_add_epi32(a.v, b.v); }
    friend JAXFP4_INLINE U operator-(U a, U b) { return _mm512_sub_epi32(a.v, b.v); }
    friend JAXFP4_INLINE U operator*(U a, U b) { return _mm512_mullo_epi32(a.v, b.v); }
    friend JAXFP4_INLINE U operator&(U a, U b) { return _mm512_and_si512(a.v, b.v); }
    friend JAXFP4_INLINE U operator|(U a, U b) { return _mm512_or_si512(a.v, b.v); }
    friend JAXFP4_INLINE U operator^(U a, U b) { return _mm512_xor_si512(a.v, b.v); }
    friend JAXFP4_INLINE U operator<<(U a, unsigned n) { return _mm512_slli_epi32(a.v, n); }
    friend JAXFP4_INLINE U operator>>(U a, unsigned n) { return _mm512_srli_epi32(a.v, n); }
    friend JAXFP4_INLINE U operator>>(U a, U n) { return _mm512_srlv_epi32(a.v, n.v); }
  };
  using M = __mmask16;

  static JAXFP4_INLINE U Bits(F x) { return _mm512_castps_si512(x.v); }
  static JAXFP4_INLINE F Float(U x) { return _mm512_castsi512_ps(x.v); }
  static JAXFP4_INLINE F FromInt(U x) { return _mm512_cvtepi32_ps(x.v); }
  static JAXFP4_INLINE U ToInt(F x) { return _mm512_cvttps_epi32(x.v); }
  static JAXFP4_INLINE U Min(U a, U b) { return _mm512_min_epu32(a.v, b.v); }
  static JAXFP4_INLINE U Max(U a, U b) { return _mm512_max_epu32(a.v, b.v); }
  static JAXFP4_INLINE M Less(U a, U b) { return _mm512_cmplt_epu32_mask(a.v, b.v); }
  static JAXFP4_INLINE M Less(F a, F b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ); }
  static JAXFP4_INLINE M Equal(U a, U b) { return _mm512_cmpeq_epi32_mask(a.v, b.v); }
  static JAXFP4_INLINE M Equal(F a, F b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ); }
  static JAXFP4_INLINE U Select(M m, U a, U b) { return _mm512_mask_mov_epi32(b.v, m, a.v); }
  static JAXFP4_INLINE F Select(M m, F a, F b) { return _mm512_mask_mov_ps(b.v, m, a.v); }
  static JAXFP4_INLINE U SelectBits(U mask, U a, U b) {
    return _mm512_ternarylogic_epi32(mask.v, a.v, b.v, 0xca);
  }
  static JAXFP4_INLINE F MulAdd(F a, F b, F c) { return _mm512_fmadd_ps(a.v, b.v, c.v); }
  static JAXFP4_INLINE bool Any(M m) { return m != 0; }
};

// Keeps x in a register: compilers would rather load it again at each use.
JAXFP4_INLINE Lanes::U Held(Lanes::U x) {
  asm("" : "+v"(x.v));
  return x;
}

JAXFP4_INLINE Lanes::F LoadF32(const float* p) { return _mm512_loadu_ps(p); }
JAXFP4_INLINE void StoreF32(Lanes::F x, float* p) { _mm512_storeu_ps(p, x.v); }
JAXFP4_INLINE Lanes::U LoadU32(const uint32_t* p) { return _mm512_loadu_si512(p); }
JAXFP4_INLINE void StoreU32(Lanes::U x, uint32_t* p) { _mm512_storeu_si512(p, x.v); }
JAXFP4_INLINE Lanes::U LoadU16(const uint16_t* p) {
  return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
JAXFP4_INLINE void StoreU16(Lanes::U x, uint16_t* p) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(x.v));
}
JAXFP4_INLINE Lanes::F LoadF16(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
JAXFP4_INLINE void StoreF16(Lanes::F x, uint16_t* p) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
JAXFP4_INLINE Lanes::U LoadBytes(const uint8_t* p) {
  return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
JAXFP4_INLINE void StoreBytes(Lanes::U x, uint8_t* p) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(x.v));
}

// A byte for every eight bytes of the register: then the odd lanes need the upper nibble.
JAXFP4_INLINE __m512i SpreadNibbles(const uint8_t* p) {
  const __m512i bytes = _mm512_cvtepu8_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  return _mm512_or_si512(bytes, _mm512_slli_epi64(bytes, 28));
}
JAXFP4_INLINE Lanes::U LoadNibbles(const uint8_t* p) {
  return Lanes::U(SpreadNibbles(p)) & 15u;
}
JAXFP4_INLINE void StoreNibbles(Lanes::U x, uint8_t* p) {
  const __m512i pairs = _mm512_or_si512(x.v, _mm512_srli_epi64(x.v, 28));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm512_cvtepi64_epi8(pairs));
}

// Eight vectors of codes into 64 bytes: narrow twice, join pairs, narrow again, put in order.
constexpr int kNibbleGroup = 8;
JAXFP4_INLINE void StoreNibbleGroup(const Lanes::U x[kNibbleGroup], uint8_t* p) {
  const __m512i sixteen = _mm512_set1_epi16(0x1001);
  __m512i joined[2];
  for (int h = 0; h < 2; ++h) {
    const __m512i low = _mm512_packus_epi32(x[4 * h].v, x[4 * h + 1].v);
    const __m512i high = _mm512_packus_epi32(x[4 * h + 2].v, x[4 * h + 3].v);
    joined[h] = _mm512_maddubs_epi16(_mm512_packus_epi16(low, high), sixteen);
  }
  const __m512i order = _mm512_set_epi16(
      31, 23, 15, 7, 30, 22, 14, 6, 29, 21, 13, 5, 28, 20, 12, 4,
      27, 19, 11, 3, 26, 18, 10, 2, 25, 17, 9, 1, 24, 16, 8, 0);
  _mm512_storeu_si512(
      p, _mm512_permutexvar_epi16(order, _mm512_packus_epi16(joined[0], joined[1])));
}

// Six bits: join codes to pairs of 12 bits and those to fours of 24, then drop every fourth byte.
JAXFP4_INLINE void StoreSixes(Lanes::U x, uint8_t* p) {
  const __m128i bytes = _mm512_cvtepi32_epi8(x.v);
  const __m128i pairs = _mm_maddubs_epi16(_mm_set1_epi16(0x4001), bytes);
  const __m128i fours = _mm_madd_epi16(pairs, _mm_set1_epi32(0x10000001));
  const __m128i order = _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1);
  _mm_mask_storeu_epi8(p, 0xfff, _mm_shuffle_epi8(fours, order));
}
JAXFP4_INLINE Lanes::U LoadSixes(const uint8_t* p) {
  const __m512i bytes = _mm512_broadcast_i32x4(_mm_maskz_loadu_epi8(0xfff, p));
  // Three bytes in each of four lanes, which shift them by 0, 6, 12, 18.
  constexpr int k0 = 0x00020100, k1 = 0x00050403, k2 = 0x00080706, k3 = 0x000b0a09;
  const __m512i order =
      _mm512_setr_epi32(k0, k0, k0, k0, k1, k1, k1, k1, k2, k2, k2, k2, k3, k3, k3, k3);
  const __m512i shifts = _mm512_broadcast_i32x4(_mm_setr_epi32(0, 6, 12, 18));
  return Lanes::U(_mm512_srlv_epi32(_mm512_shuffle_epi8(bytes, order), shifts)) & 63u;
}

JAXFP4_INLINE Lanes::F LookUpE2M1(Lanes::U codes) {
  const __m512 values = _mm512_setr_ps(0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f,
                                       -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f);
  return _mm512_permutexvar_ps(codes.v, values);
}

// Lane i of the result is lane i ^ h.
template <int h>
JAXFP4_INLINE Lanes::F Exchange(Lanes::F x) {
  if constexpr (h == 1) return _mm512_permute_ps(x.v, 0xb1);
  if constexpr (h == 2) return _mm512_permute_ps(x.v, 0x4e);
  if constexpr (h == 4) return _mm512_shuffle_f32x4(x.v, x.v, 0xb1);
  if constexpr (h == 8) return _mm512_shuffle_f32x4(x.v, x.v, 0x4e);
}

// Lanes 4 i to 4 i + 3 of y[v] are lanes 4 v to 4 v + 3 of x[i].
JAXFP4_INLINE void ExchangeQuarters(const Lanes::F x[4], Lanes::F y[4]) {
  const __m512 a = _mm512_shuffle_f32x4(x[0].v, x[1].v, 0x44);
  const __m512 b = _mm512_shuffle_f32x4(x[0].v, x[1].v, 0xee);
  const __m512 c = _mm512_shuffle_f32x4(x[2].v, x[3].v, 0x44);
  const __m512 d = _mm512_shuffle_f32x4(x[2].v, x[3].v, 0xee);
  y[0] = _mm512_shuffle_f32x4(a, c, 0x88);
  y[1] = _mm512_shuffle_f32x4(a, c, 0xdd);
  y[2] = _mm512_shuffle_f32x4(b, d, 0x88);
  y[3] = _mm512_shuffle_f32x4(b, d, 0xdd);
}

// The sixteen operands are folded by halves (lanes j and j + 8, then j + 4, ...), two into one
// register at each step.
struct MaxOp {
  using T = Lanes::U;
  static JAXFP4_INLINE __m512 Cast(T x) { return _mm512_castsi512_ps(x.v); }
  static JAXFP4_INLINE T Back(__m512 x) { return _mm512_castps_si512(x); }
  static JAXFP4_INLINE __m512 Apply(__m512 a, __m512 b) {
    return _mm512_castsi512_ps(
        _mm512_max_epu32(_mm512_castps_si512(a), _mm512_castps_si512(b)));
  }
};
struct AddOp {
  using T = Lanes::F;
  static JAXFP4_INLINE __m512 Cast(T x) { return x.v; }
  static JAXFP4_INLINE T Back(__m512 x) { return x; }
  static JAXFP4_INLINE __m512 Apply(__m512 a, __m512 b) { return _mm512_add_ps(a, b); }
};

template <class Op>
JAXFP4_INLINE typename Op::T FoldEach(const typename Op::T v[16]) {
  __m512 a[8], b[4], c[2];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    const __m512 x = Op::Cast(v[i]), y = Op::Cast(v[i + 8]);
    a[i] = Op::Apply(_mm512_shuffle_f32x4(x, y, 0x44), _mm512_shuffle_f32x4(x, y, 0xee));
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    b[i] = Op::Apply(_mm512_shuffle_f32x4(a[i], a[i + 4], 0x88),
                     _mm512_shuffle_f32x4(a[i], a[i + 4], 0xdd));
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    c[i] = Op::Apply(_mm512_shuffle_ps(b[i], b[i + 2], 0x44),
                     _mm512_shuffle_ps(b[i], b[i + 2], 0xee));
  }
  const __m512 d =
      Op::Apply(_mm512_shuffle_ps(c[0], c[1], 0x88), _mm512_shuffle_ps(c[0], c[1], 0xdd));
  const __m512i order = _mm512_setr_epi32(0, 2, 1, 3, 8, 10, 9, 11, 4, 6, 5, 7, 12, 14, 13, 15);
  return Op::Back(_mm512_permutexvar_ps(order, d));
}

}  // namespace jaxfp4::JAXFP4_TARGET
