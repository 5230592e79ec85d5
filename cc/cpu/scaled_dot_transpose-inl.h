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

#if defined(__AVX2__)
JAXFP4_INLINE void Transpose8(__m256 r[8]) {
  __m256 t[8];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {  // rows four apart, then two, in pairs
    t[2 * i] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x20);
    t[2 * i + 1] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x31);
  }
#pragma GCC unroll 2
  for (int h = 0; h < 2; ++h) {  // columns 4 h to 4 h + 3
    const __m256 a = _mm256_unpacklo_ps(t[h], t[4 + h]), b = _mm256_unpackhi_ps(t[h], t[4 + h]);
    const __m256 c = _mm256_unpacklo_ps(t[2 + h], t[6 + h]);
    const __m256 d = _mm256_unpackhi_ps(t[2 + h], t[6 + h]);
    r[4 * h] = _mm256_unpacklo_ps(a, c);
    r[4 * h + 1] = _mm256_unpackhi_ps(a, c);
    r[4 * h + 2] = _mm256_unpacklo_ps(b, d);
    r[4 * h + 3] = _mm256_unpackhi_ps(b, d);
  }
}
#elif defined(JAXFP4_NEON)
JAXFP4_INLINE void Transpose4(float32x4_t r[4]) {
  const float32x4x2_t a = vzipq_f32(r[0], r[2]), b = vzipq_f32(r[1], r[3]);
  const float32x4x2_t lo = vzipq_f32(a.val[0], b.val[0]), hi = vzipq_f32(a.val[1], b.val[1]);
  r[0] = lo.val[0];
  r[1] = lo.val[1];
  r[2] = hi.val[0];
  r[3] = hi.val[1];
}
#endif

#if defined(__AVX2__) || defined(JAXFP4_NEON)
[[maybe_unused]] JAXFP4_INLINE const float* FloatsOf(const void* x) {
  return static_cast<const float*>(x);
}
#endif

// Word j of row i, which starts at row(i), becomes word i of out + to(j), for j < 16.
template <class Row, class To>
JAXFP4_INLINE void TransposeWords(const Row& row, uint32_t* out, const To& to) {
#if defined(__AVX512F__)
  __m512i r[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) r[i] = _mm512_loadu_si512(row(i));
  Transpose16(r);
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) _mm512_storeu_si512(out + to(i), r[i]);
#elif defined(__AVX2__)
  for (int i = 0; i < 16; i += 8) {
    for (int j = 0; j < 16; j += 8) {
      __m256 r[8];
#pragma GCC unroll 8
      for (int h = 0; h < 8; ++h) {
        r[h] = _mm256_loadu_ps(FloatsOf(row(i + h)) + j);
      }
      Transpose8(r);
#pragma GCC unroll 8
      for (int h = 0; h < 8; ++h) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + to(j + h) + i),
                            _mm256_castps_si256(r[h]));
      }
    }
  }
#elif defined(JAXFP4_NEON)
  for (int i = 0; i < 16; i += 4) {
    for (int j = 0; j < 16; j += 4) {
      float32x4_t r[4];
#pragma GCC unroll 4
      for (int h = 0; h < 4; ++h) r[h] = vld1q_f32(FloatsOf(row(i + h)) + j);
      Transpose4(r);
#pragma GCC unroll 4
      for (int h = 0; h < 4; ++h) {
        vst1q_u32(out + to(j + h) + i, vreinterpretq_u32_f32(r[h]));
      }
    }
  }
#else
  for (int i = 0; i < 16; ++i) {
    uint32_t words[16];
    memcpy(words, row(i), sizeof(words));
    for (int j = 0; j < 16; ++j) out[to(j) + i] = words[j];
  }
#endif
}

// Byte j of row i becomes byte i of out + 16 * j, for j < kBytes (4 or 8).
template <int kBytes, class Row>
JAXFP4_INLINE void TransposeBytes(const Row& row, uint8_t* out) {
#if defined(__SSE2__)
  // Rows 8 apart, then 4, 2 and 1 apart are interleaved; each step doubles a column's run of rows.
  __m128i a[16], b[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    if constexpr (kBytes == 8) {
      a[i] = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(row(i)));
    } else {
      int32_t word;
      memcpy(&word, row(i), sizeof(word));
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
#elif defined(JAXFP4_NEON)
  uint8x8_t a[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    uint64_t bytes = 0;
    memcpy(&bytes, row(i), kBytes);
    a[i] = vcreate_u8(bytes);
  }
  // Rows 8 apart, then 4, 2 and 1 apart are interleaved; each step doubles a column's run of rows.
  uint8x16_t b[8], c[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    b[i] = vzip1q_u8(vcombine_u8(a[i], a[i]), vcombine_u8(a[i + 8], a[i + 8]));
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    c[i] = vzip1q_u8(b[i], b[i + 4]);
    c[i + 4] = vzip2q_u8(b[i], b[i + 4]);
  }
#pragma GCC unroll 2
  for (int h = 0; h < kBytes / 4; ++h) {  // columns 4h..4h+3
    const uint8x16x2_t even = vzipq_u8(c[4 * h], c[4 * h + 2]);
    const uint8x16x2_t odd = vzipq_u8(c[4 * h + 1], c[4 * h + 3]);
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      vst1q_u8(out + 64 * h + 32 * i, vzip1q_u8(even.val[i], odd.val[i]));
      vst1q_u8(out + 64 * h + 32 * i + 16, vzip2q_u8(even.val[i], odd.val[i]));
    }
  }
#else
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < kBytes; ++j) out[16 * j + i] = row(i)[j];
  }
#endif
}

}  // namespace
}  // namespace jaxfp4::JAXFP4_TARGET
