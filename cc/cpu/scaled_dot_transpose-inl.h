// Sixteen rows to sixteen lanes. Included by scaled_dot_kernel.cc only.
#pragma once

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "cc/cpu/simd.h"

namespace jaxfp4::JAXFP4_TARGET {
namespace {

#if defined(__AVX512F__)
JAXFP4_INLINE void Transpose16(__m512i r[16]) {
  __m512i t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
    r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
  }
}
#endif

// Word j of row i, which starts at rows[i], becomes word i of out + to(j), for j < 16.
template <class To>
JAXFP4_INLINE void TransposeWords(const void* const rows[16], uint32_t* out, const To& to) {
#if defined(__AVX512F__)
  __m512i r[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) r[i] = _mm512_loadu_si512(rows[i]);
  Transpose16(r);
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) _mm512_storeu_si512(out + to(i), r[i]);
#else
  for (int i = 0; i < 16; ++i) {
    uint32_t words[16];
    memcpy(words, rows[i], sizeof(words));
    for (int j = 0; j < 16; ++j) out[to(j) + i] = words[j];
  }
#endif
}

// Byte j of row i becomes byte i of out + 16 * j, for j < kBytes (4 or 8).
template <int kBytes>
JAXFP4_INLINE void TransposeBytes(const uint8_t* const rows[16], uint8_t* out) {
#if defined(__SSE2__)
  // Rows 8 apart, then 4, 2 and 1 apart are interleaved; each step doubles a column's run of rows.
  __m128i a[16], b[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    if constexpr (kBytes == 8) {
      a[i] = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(rows[i]));
    } else {
      int32_t word;
      memcpy(&word, rows[i], sizeof(word));
      a[i] = _mm_cvtsi32_si128(word);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) b[i] = _mm_unpacklo_epi8(a[i], a[i + 8]);
  if constexpr (kBytes == 8) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      a[i] = _mm_unpacklo_epi8(b[i], b[i + 4]);
      a[i + 4] = _mm_unpackhi_epi8(b[i], b[i + 4]);
    }
  } else {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) a[i] = _mm_unpacklo_epi8(b[i], b[i + 4]);
  }
#pragma GCC unroll 2
  for (int h = 0; h < kBytes / 4; ++h) {  // columns 4h..4h+3
    __m128i c[4];
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      c[i] = _mm_unpacklo_epi8(a[4 * h + i], a[4 * h + i + 2]);
      c[i + 2] = _mm_unpackhi_epi8(a[4 * h + i], a[4 * h + i + 2]);
    }
    __m128i* to = reinterpret_cast<__m128i*>(out) + 4 * h;
    _mm_storeu_si128(to, _mm_unpacklo_epi8(c[0], c[1]));
    _mm_storeu_si128(to + 1, _mm_unpackhi_epi8(c[0], c[1]));
    _mm_storeu_si128(to + 2, _mm_unpacklo_epi8(c[2], c[3]));
    _mm_storeu_si128(to + 3, _mm_unpackhi_epi8(c[2], c[3]));
  }
#else
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < kBytes; ++j) out[16 * j + i] = rows[i][j];
  }
#endif
}

}  // namespace
}  // namespace jaxfp4::JAXFP4_TARGET
