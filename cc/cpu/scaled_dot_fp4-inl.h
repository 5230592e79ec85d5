// rhs of e2m1 codes with e4m3 scales of 16 or e8m0 scales of 32, sixteen rows at a time: a lane is
// a row.
//
// Both layouts come as tiles of the interleaved one (the logical one is transposed on the fly), so
// that one kernel serves both and their results are the same bits. Included by scaled_dot_kernel.cc
// only.
#pragma once

#include "cc/cpu/scaled_dot_bits-inl.h"
#include "cc/cpu/scaled_dot_rows-inl.h"
#include "cc/cpu/scaled_dot_transpose-inl.h"

namespace jaxfp4::JAXFP4_TARGET {
namespace {

constexpr int BlockOf(ScaleType type) { return type == ScaleType::kE4M3 ? 16 : 32; }

inline bool IsFp4(const DotOperand& x) {
  return x.coded && x.format.element == Element::kE2M1 &&
         x.format.scale_type != ScaleType::kFloat32 &&
         x.format.block_cols == BlockOf(x.format.scale_type);
}

constexpr int64_t kTileDepth = 128;

struct Fp4Tile {
  const uint8_t* codes;   // [depth / 8][16 rows][4 bytes]
  const uint8_t* scales;  // [depth / block_cols][16 rows]
  const uint8_t* ahead;   // 16 lines to prefetch while these are used, so far apart
  int64_t ahead_stride;

  // As many as depth [k, k + size) has. (All of a tile at once would wait for each other.)
  JAXFP4_INLINE void Prefetch(int64_t k, int size) const {
    const uint8_t* line = ahead + k / 8 * ahead_stride;
    for (int i = 0; i < size / 8; ++i) __builtin_prefetch(line + i * ahead_stride);
  }
};

// What rows are a part of: so many, in a chunk of depth. If `end` is 0, tiles are not prefetched: those
// that become floats gain nothing.
struct Panel {
  int64_t rows = 0, begin = 0, end = 0;
};

// Rows n..n+15 of batch entry b; rows beyond the last repeat it. They are read once, one tile after
// another, or are part of a panel, whose codes come near in time (CodesAhead).
template <int kBlock>
class Fp4Rows {
 public:
  Fp4Rows(const ScaledDotProblem& p, int64_t b, int64_t n, Panel panel = {})
      : panel_(panel) {
    const DotOperand& x = p.rhs;
    row_bytes_ = p.depth / 2;
    scale_row_bytes_ = x.scale_row_stride;
    const uint8_t* data = static_cast<const uint8_t*>(x.data) + (b * p.cols + n) * row_bytes_;
    const uint8_t* scale = static_cast<const uint8_t*>(x.scale) + x.scale_offset[b];
    interleaved_ = p.rhs_layout == Layout::kInterleaved16;
    interleaved_scales_ = interleaved_ && x.format.block_rows == 1;
    codes_[0] = data;
    scales_[0] = scale + n * x.scale_row_stride;
    if (interleaved_scales_) return;
    for (int64_t i = 0; i < kLanes; ++i) {
      const int64_t r = Min64(n + i, p.cols - 1);
      codes_[i] = data + (r - n) * row_bytes_;
      scales_[i] = scale + r * x.scale_row_stride;
    }
    if (x.format.block_rows == 1) return;
    for (int64_t i = 0; i < kLanes; ++i) {  // apart: sixteen divisions
      const int64_t r = Min64(n + i, p.cols - 1);
      scales_[i] = scale + r / x.format.block_rows * x.scale_row_stride;
    }
  }

  // The tile of `size` <= kTileDepth that starts at k, a multiple of kTileDepth. It lasts until the
  // next Load.
  JAXFP4_INLINE Fp4Tile Load(int64_t k, int64_t size) {
    PrefetchScales(k);
    const uint8_t* scales =
        interleaved_scales_ ? scales_[0] + k / kBlock * kLanes : TransposeScales(k, size);
    if (interleaved_) {
      const uint8_t* codes = codes_[0] + k * 8;
      return {codes, scales, codes + 2 * kAhead * 8, 64};
    }
    const int64_t at = (k + kAhead) / 2;  // after the end of a row, in the one sixteen below
    const uint8_t* ahead = codes_[0] + (at < row_bytes_ ? at : at + 15 * row_bytes_);
    return {TransposeCodes(k, size), scales, ahead, row_bytes_};
  }

 private:
  static constexpr int64_t kAhead = 8 * kTileDepth;  // of logical rows; twice of interleaved ones

  // Of the same row, some way ahead; of a panel, those of the next.
  JAXFP4_INLINE void PrefetchScales(int64_t k) const {
    const int64_t below = panel_.rows > 0 ? panel_.rows : kLanes;
    const uint8_t* scales = scales_[0] + k / kBlock * kLanes;
    scales += interleaved_scales_ ? 2 * kAhead / kBlock * kLanes : below * scale_row_bytes_;
    for (int i = 0; i < kTileDepth / kBlock * kLanes; i += 64) __builtin_prefetch(scales + i);
  }

  // Of a panel, the next tile, from the second-level cache: in these rows or in those below.
  JAXFP4_INLINE void PrefetchNextTile(int64_t k) const {
    if (panel_.end == 0) return;
    const bool ends = k + kTileDepth >= panel_.end;
    const int64_t next = ends ? kLanes * row_bytes_ + panel_.begin / 2 : (k + kTileDepth) / 2;
    for (int i = 0; i < kLanes; ++i) __builtin_prefetch(codes_[i] + next);
  }

  const uint8_t* TransposeCodes(int64_t k, int64_t size) {
    PrefetchNextTile(k);
    const auto to = [](int j) { return j * kLanes; };
    if (size == kTileDepth) {
      TransposeWords([&](int i) { return codes_[i] + k / 2; }, codes_tile_, to);
    } else {
      const size_t bytes = static_cast<size_t>(size / 2);
      for (int i = 0; i < kLanes; ++i) {
        memcpy(tail_[i], codes_[i] + k / 2, bytes);
        memset(tail_[i] + bytes, 0, sizeof(tail_[i]) - bytes);
      }
      TransposeWords([&](int i) { return tail_[i]; }, codes_tile_, to);
    }
    return reinterpret_cast<const uint8_t*>(codes_tile_);
  }

  const uint8_t* TransposeScales(int64_t k, int64_t size) {
    const int64_t first = k / kBlock, count = size / kBlock;
    const auto row = [&](int i) { return scales_[i] + first; };
    if (count == 8) {
      TransposeBytes<8>(row, scale_tile_);
    } else if (count == 4) {
      TransposeBytes<4>(row, scale_tile_);
    } else {
      for (int i = 0; i < kLanes; ++i) {
        for (int64_t j = 0; j < count; ++j) scale_tile_[j * kLanes + i] = row(i)[j];
      }
    }
    return scale_tile_;
  }

  Panel panel_;
  int64_t row_bytes_, scale_row_bytes_;
  bool interleaved_, interleaved_scales_;
  const uint8_t* codes_[kLanes];
  const uint8_t* scales_[kLanes];
  alignas(64) uint32_t codes_tile_[kTileDepth / 8 * kLanes];
  alignas(64) uint8_t scale_tile_[kTileDepth / 16 * kLanes];
  alignas(64) uint8_t tail_[kLanes][kTileDepth / 2];
};

// ---- floats

// Codes of sixteen rows times a scale each.
template <class Math, ScaleType kType>
class Products {
 public:
  explicit JAXFP4_INLINE Products(const uint8_t* scales) : scale_(scales) {}

  // Words of the eight codes of each row, `stride` apart.
  JAXFP4_INLINE void Store(U codes, uint32_t* to, int64_t stride) const {
#pragma GCC unroll 8
    for (int i = 0; i < 8; i += Math::kPerWord, to += stride) {
      const F even = scale_.Times(LookUpE2M1(codes >> (4 * i)));
      const F odd = scale_.Times(LookUpE2M1(codes >> (4 * (i + Math::kPerWord - 1))));
      StoreU32(Math::Word(even, odd), to);
    }
  }

 private:
  Scale16<kType> scale_;
};

// A tile of `size`, block by block.
template <class Math, ScaleType kType, class Decoded>
JAXFP4_INLINE void PackBlocks(const Fp4Tile& tile, int64_t size, uint32_t* panel, int64_t stride) {
  constexpr int kBlock = BlockOf(kType);
  const uint32_t* codes = reinterpret_cast<const uint32_t*>(tile.codes);
  for (int64_t i = 0; i < size / kBlock; ++i) {
    const Decoded decoded(tile.scales + i * kLanes);
#pragma GCC unroll 4
    for (int j = 0; j < kBlock / 8; ++j, codes += kLanes, panel += 8 / Math::kPerWord * stride) {
      decoded.Store(LoadU32(codes), panel, stride);
    }
  }
}

template <class Math, ScaleType kType>
JAXFP4_INLINE void PackTile(const Fp4Tile& tile, int64_t size, uint32_t* panel, int64_t stride) {
#if defined(__AVX512BF16__) && defined(__AVX512VBMI__)
  using Bits = ProductBits<kType>;
  if (Math::kPerWord == 2 && Bits::Fit(tile.scales, size / BlockOf(kType) * kLanes)) {
    return PackBlocks<Math, kType, Bits>(tile, size, panel, stride);
  }
#endif
  PackBlocks<Math, kType, Products<Math, kType>>(tile, size, panel, stride);
}

// Panels of such rows for FloatScheme (scaled_dot_gemm-inl.h).
template <class Math, ScaleType kType>
void PackFp4(const ScaledDotProblem& p, int64_t b, int64_t n, int64_t begin, int64_t end,
             uint32_t* panel, int64_t stride) {
  constexpr int kBlock = BlockOf(kType);
  Fp4Rows<kBlock> rows(p, b, n, {stride});
  for (int64_t k = begin; k < end; k += kTileDepth) {
    const int64_t size = Min64(kTileDepth, end - k);
    const Fp4Tile tile = rows.Load(k, size);
    PackTile<Math, kType>(tile, size, panel, stride);
    panel += size / Math::kPerWord * stride;
  }
}

// ---- integers: an e2m1 code is half an integer, and a sum over a block is exact in int32
//
// Codes of rhs are stored as 2q + 12 >= 0, as the unsigned by signed dot instructions want it; what
// that adds, 12 times the sum of a block of lhs, is where the sum starts from.

constexpr int kCodeBias = 12;
constexpr int64_t kIntChunk = 512;

// The doubled values of e2m1 codes, plus `bias`, in the bytes of `nibbles` (0..15 each).
template <int bias>
JAXFP4_INLINE U DoubledE2M1(U nibbles) {
  alignas(16) static constexpr int8_t kValues[16] = {
      bias,     bias + 1, bias + 2, bias + 3, bias + 4, bias + 6, bias + 8, bias + 12,
      bias,     bias - 1, bias - 2, bias - 3, bias - 4, bias - 6, bias - 8, bias - 12};
#if defined(__AVX2__)
  const __m128i table = _mm_load_si128(reinterpret_cast<const __m128i*>(kValues));
#endif
#if defined(__AVX512BW__)
  return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), nibbles.v);
#elif defined(__AVX2__)
  const __m256i tables = _mm256_broadcastsi128_si256(table);
  return {(U8)_mm256_shuffle_epi8(tables, (__m256i)nibbles.lo),
          (U8)_mm256_shuffle_epi8(tables, (__m256i)nibbles.hi)};
#else
  uint8_t bytes[64];
  memcpy(bytes, &nibbles, sizeof(bytes));
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(kValues[byte]);
  U values;
  memcpy(&values, bytes, sizeof(bytes));
  return values;
#endif
}

// sum + the dot products of four bytes of each lane of b[i] (unsigned) and of x[i] (signed), i < n.
template <int n>
JAXFP4_INLINE U DotBytes(U sum, const U (&b)[n], const uint32_t* x) {
#if defined(__AVX512VNNI__)
#pragma GCC unroll 8
  for (int i = 0; i < n; ++i) {
    sum = _mm512_dpbusd_epi32(sum.v, b[i].v, _mm512_set1_epi32(static_cast<int>(x[i])));
  }
  return sum;
#elif defined(__AVX512BW__)
  __m512i pairs = _mm512_setzero_si512();  // at most 8 * 2 * 24 * 12 < 2^15
#pragma GCC unroll 8
  for (int i = 0; i < n; ++i) {
    const __m512i v = _mm512_set1_epi32(static_cast<int>(x[i]));
    pairs = _mm512_add_epi16(pairs, _mm512_maddubs_epi16(b[i].v, v));
  }
  return _mm512_add_epi32(sum.v, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
#elif defined(__AVX2__)
  __m256i lo = _mm256_setzero_si256(), hi = lo;
#pragma GCC unroll 8
  for (int i = 0; i < n; ++i) {
    const __m256i v = _mm256_set1_epi32(static_cast<int>(x[i]));
    lo = _mm256_add_epi16(lo, _mm256_maddubs_epi16((__m256i)b[i].lo, v));
    hi = _mm256_add_epi16(hi, _mm256_maddubs_epi16((__m256i)b[i].hi, v));
  }
  const __m256i ones = _mm256_set1_epi16(1);
  return sum + U((U8)_mm256_madd_epi16(lo, ones), (U8)_mm256_madd_epi16(hi, ones));
#else
  uint32_t sums[kLanes];
  StoreU32(sum, sums);
  for (int i = 0; i < n; ++i) {
    uint8_t bytes[64];
    int8_t v[4];
    memcpy(bytes, &b[i], sizeof(bytes));
    memcpy(v, x + i, sizeof(v));
    for (int j = 0; j < kLanes; ++j) {
      int dot = 0;
      for (int k = 0; k < 4; ++k) dot += bytes[4 * j + k] * v[k];
      sums[j] += static_cast<uint32_t>(dot);
    }
  }
  return LoadU32(sums);
#endif
}

// Scales as one factor: twice the value of an e8m0 scale, so that byte 0 is a normal number. (Byte
// 254, which only an infinity has, becomes an infinity.)
template <class V>
JAXFP4_INLINE typename V::F TwicePower(typename V::U byte) {
  using UV = typename V::U;
  const UV bits = V::Min(byte + 1u, UV(255u)) << 23;
  return V::Float(bits | V::Select(V::Equal(byte, UV(255u)), UV(1u << 22), UV(0u)));
}
template <ScaleType kType>
JAXFP4_INLINE F OneFactor(const uint8_t* codes) {
  if constexpr (kType == ScaleType::kE4M3) {
    return Scale16<kType>(codes).factor;
  } else {
    return TwicePower<Lanes>(LoadBytes(codes));
  }
}
inline float OneFactor(ScaleType type, uint8_t code) {
  return type == ScaleType::kE4M3 ? Decode<E4M3, ScalarLanes>(code)
                                  : TwicePower<ScalarLanes>(code);
}
// What undoes the doubling of codes and of powers.
constexpr float IntegerUnit(ScaleType type) { return type == ScaleType::kE4M3 ? 0.25f : 0.0625f; }

// A block of lhs: bytes 2q in the order of a tile's nibbles (even then odd elements of each eight),
// -12 times their sum, the scale.
template <int kBlock>
struct IntBlock {
  static constexpr int kQuads = kBlock / 4;
  uint32_t quads[kQuads];
  int32_t correction;
  float scale;
};

// The values of codes times an integer, in -10..10.
struct MultipliedCodes {
  alignas(16) int8_t values[21][16];

  constexpr MultipliedCodes() : values() {
    constexpr int8_t kDoubled[8] = {0, 1, 2, 3, 4, 6, 8, 12};
    for (int f = 0; f < 21; ++f) {
      for (int i = 0; i < 8; ++i) {
        values[f][i] = static_cast<int8_t>((f - 10) * kDoubled[i]);
        values[f][i + 8] = static_cast<int8_t>((10 - f) * kDoubled[i]);
      }
    }
  }
};
constexpr MultipliedCodes kMultipliedCodes;

constexpr const int8_t* FactorTable(int factor) {
  return kMultipliedCodes.values[10 + factor];
}

// The quads of a block, looked up in `values`; returns the sum of all.
template <int kBlock>
JAXFP4_INLINE int32_t PackQuads(const uint8_t* codes, const int8_t* table, uint32_t* to) {
#if defined(__AVX2__)
  const __m128i values = _mm_load_si128(reinterpret_cast<const __m128i*>(table));
  const __m128i nibble = _mm_set1_epi8(15), sign = _mm_set1_epi8(-128);
  __m128i sums = _mm_setzero_si128();
  for (int i = 0; i < kBlock / 16; ++i) {
    const __m128i c = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes));
    const __m128i even = _mm_shuffle_epi8(values, _mm_and_si128(c, nibble));
    const __m128i odd = _mm_shuffle_epi8(values, _mm_and_si128(_mm_srli_epi16(c, 4), nibble));
    const __m128i quads = _mm_unpacklo_epi32(even, odd);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to) + i, quads);
    sums = _mm_add_epi32(sums, _mm_sad_epu8(_mm_xor_si128(quads, sign), _mm_setzero_si128()));
    codes += 8;
  }
  return _mm_cvtsi128_si32(sums) + _mm_extract_epi32(sums, 2) - 128 * kBlock;
#elif defined(JAXFP4_NEON)
  const int8x16_t values = vld1q_s8(table);
  for (int i = 0; i < kBlock / 16; ++i) {
    const uint8x8_t c = vld1_u8(codes + 8 * i);
    const int8x8_t even = vqtbl1_s8(values, vand_u8(c, vdup_n_u8(15)));
    const int8x8_t odd = vqtbl1_s8(values, vshr_n_u8(c, 4));
    const uint32x2x2_t quads = vzip_u32(vreinterpret_u32_s8(even), vreinterpret_u32_s8(odd));
    vst1q_u32(to + 4 * i, vcombine_u32(quads.val[0], quads.val[1]));
  }
  return 0;  // dot products are of signed bytes: no correction
#else
  int32_t sum = 0;
  int8_t quads[kBlock];
  for (int i = 0; i < kBlock / 2; ++i) {
    const int at = i / 4 * 8 + i % 4;
    quads[at] = table[codes[i] & 15];
    quads[at + 4] = table[codes[i] >> 4];
    sum += quads[at] + quads[at + 4];
  }
  memcpy(to, quads, sizeof(quads));
  return sum;
#endif
}

// Blocks [begin / kBlock, end / kBlock) of a row of lhs.
template <int kBlock>
void PackIntRow(const ScaledDotProblem& p, int64_t row, int64_t begin, int64_t end,
                IntBlock<kBlock>* to) {
  const DotOperand& x = p.lhs;
  const uint8_t* codes = RowData(x, row, p.depth);
  const uint8_t* scales = static_cast<const uint8_t*>(x.scale) + ScaleIndex(x, row, 0);
  for (int64_t k = begin; k < end; k += kBlock, ++to) {
    to->correction = -kCodeBias * PackQuads<kBlock>(codes + k / 2, FactorTable(1), to->quads);
    to->scale = OneFactor(x.format.scale_type, scales[k / kBlock]);
  }
}

// A block of 16 rows of rhs.
template <int kBlock>
struct IntVectors {
  static constexpr int kQuads = kBlock / 4;
  U quads[kQuads];

  // codes: [kBlock / 8][16 rows][4 bytes]
  explicit JAXFP4_INLINE IntVectors(const uint8_t* codes) {
#pragma GCC unroll 4
    for (int i = 0; i < kBlock / 8; ++i) {
      const U c = LoadU32(reinterpret_cast<const uint32_t*>(codes) + i * kLanes);
      quads[2 * i] = DoubledE2M1<kCodeBias>(c & 0x0f0f0f0fu);
      quads[2 * i + 1] = DoubledE2M1<kCodeBias>((c >> 4) & 0x0f0f0f0fu);
    }
  }
  JAXFP4_INLINE F MulAdd(const IntBlock<kBlock>& lhs, F scale, F sum) const {
    const U dot = DotBytes<kQuads>(U(static_cast<uint32_t>(lhs.correction)), quads, lhs.quads);
    return Lanes::MulAdd(Lanes::FromInt(dot) * F(lhs.scale), scale, sum);
  }
};

// For Gemm (scaled_dot_gemm-inl.h), both operands of the same format.
template <ScaleType kType>
struct IntScheme {
  static constexpr int kBlock = BlockOf(kType);
#if defined(__AVX512F__)
  static constexpr int kRows = 4, kVectors = 2;
#else
  static constexpr int kRows = 4, kVectors = 1;
#endif
  static constexpr int kLeastVectors = kVectors;
  using Block = IntBlock<kBlock>;
  static constexpr int kQuads = kBlock / 4;
#if defined(__AVX512VNNI__)
  static constexpr int kStep = 1;  // all outputs side by side, since each is a chain
#else
  static constexpr int kStep = kQuads;
#endif
  static constexpr int64_t kChunk = kIntChunk;
  static constexpr int64_t kBlocks = kChunk / kBlock;
  static constexpr int64_t kRowBytes = kBlocks * sizeof(Block);
  static constexpr int64_t kPanelBlock = (kQuads + 1) * kVectors * kLanes;  // words
  static constexpr int64_t kPanelBytes = kBlocks * kPanelBlock * 4;

  static constexpr float kUnit = IntegerUnit(kType);
  static constexpr bool kTakesFloats = false;

  static void PackRow(const ScaledDotProblem& p, int64_t row, int64_t begin, int64_t end,
                      uint8_t* to) {
    PackIntRow<kBlock>(p, row, begin, end, reinterpret_cast<Block*>(to));
  }

  static void PackVector(const ScaledDotProblem& p, int64_t b, int64_t n, int64_t begin,
                         int64_t end, uint8_t* panel, int j) {
    Fp4Rows<kBlock> rows(p, b, n, {kVectors * kLanes, begin, end});
    uint32_t* to = reinterpret_cast<uint32_t*>(panel) + j * kLanes;
    for (int64_t k = begin; k < end; k += kTileDepth) {
      const int64_t size = Min64(kTileDepth, end - k);
      const Fp4Tile tile = rows.Load(k, size);
      for (int64_t i = 0; i < size; i += kBlock, to += kPanelBlock) {
        const IntVectors<kBlock> v(tile.codes + i * 8);
        for (int q = 0; q < kQuads; ++q) StoreU32(v.quads[q], to + q * kVectors * kLanes);
        const F scale = OneFactor<kType>(tile.scales + i / kBlock * kLanes);
        StoreU32(Lanes::Bits(scale), to + kQuads * kVectors * kLanes);
      }
    }
  }

  template <int R>
  static JAXFP4_INLINE void Dot(const uint8_t* lhs, const uint8_t* panel, int64_t size,
                                F (&sum)[R][kVectors]) {
    const Block* a = reinterpret_cast<const Block*>(lhs);
    const uint32_t* b = reinterpret_cast<const uint32_t*>(panel);
    for (int r = 0; r < R; ++r) {
      for (int j = 0; j < kVectors; ++j) sum[r][j] = Zero();
    }
    for (int64_t i = 0; i < size / kBlock; ++i, ++a, b += kPanelBlock) {
      const uint8_t* next = lhs + R * kRowBytes + i * R * sizeof(Block);  // of the next rows
      for (size_t at = 0; at < R * sizeof(Block); at += 64) __builtin_prefetch(next + at);
      U dot[R][kVectors];
      for (int r = 0; r < R; ++r) {
        for (int j = 0; j < kVectors; ++j) {
          dot[r][j] = U(static_cast<uint32_t>(a[r * kBlocks].correction));
        }
      }
#pragma GCC unroll 8
      for (int q = 0; q < kQuads; q += kStep) {
        U v[kVectors][kStep];
        for (int s = 0; s < kStep; ++s) {
          for (int j = 0; j < kVectors; ++j) {
            v[j][s] = LoadU32(b + ((q + s) * kVectors + j) * kLanes);
          }
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
          for (int j = 0; j < kVectors; ++j) {
            dot[r][j] = DotBytes<kStep>(dot[r][j], v[j], a[r * kBlocks].quads + q);
          }
        }
      }
      for (int j = 0; j < kVectors; ++j) {
        const F scale = Lanes::Float(LoadU32(b + (kQuads * kVectors + j) * kLanes));
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
          const F scaled = Lanes::FromInt(dot[r][j]) * F(a[r * kBlocks].scale);
          sum[r][j] = Lanes::MulAdd(scaled, scale, sum[r][j]);
        }
      }
    }
  }
};

}  // namespace
}  // namespace jaxfp4::JAXFP4_TARGET
