// The products of e2m1 codes in NEON registers: four rows of rhs, four or eight codes of each, to a
// register.
//
//   NeonIntGemv, NeonIntGemm  both operands of codes, as bytes: sums of blocks are exact in int32
//   NeonGemv                  float32, or bfloat16, by codes
//   NeonFloatGemm, PairsGemm  float32, or what bfloat16 holds
// Tiles are the products of two rows of lhs and two of rhs, which i8mm and bf16 have instructions
// for. Included by scaled_dot_kernel.cc only.
#pragma once

#include "cc/cpu/scaled_dot_gemv-inl.h"

namespace jaxfp4::JAXFP4_TARGET {
namespace {

// ---- register n of sixteen lanes, for constants n

template <int n>
struct Index {
  static constexpr int value = n;
};

// body(Index<0>()), ... body(Index<n - 1>()).
template <int n, class Body>
JAXFP4_INLINE void Unroll(const Body& body) {
  if constexpr (n > 0) {
    Unroll<n - 1>(body);
    body(Index<n - 1>());
  }
}

template <int n, class Lanes16>
JAXFP4_INLINE auto& At(Lanes16& x) {
  if constexpr (n == 0) return x.q0;
  if constexpr (n == 1) return x.q1;
  if constexpr (n == 2) return x.q2;
  if constexpr (n == 3) return x.q3;
}

// ---- tiles of two by two

// Row r of lhs has half r % 2 of tiles [r / 2][0..7].
template <int R>
JAXFP4_INLINE void FromTiles(const float32x4_t (&tiles)[(R + 1) / 2][8], F (&sum)[R][1]) {
  for (int r = 0; r < R; ++r) {
    const auto row = [&](int j) {
      const float64x2_t a = vreinterpretq_f64_f32(tiles[r / 2][j]);
      const float64x2_t b = vreinterpretq_f64_f32(tiles[r / 2][j + 1]);
      return vreinterpretq_f32_f64(r % 2 == 0 ? vuzp1q_f64(a, b) : vuzp2q_f64(a, b));
    };
    sum[r][0] = F(row(0), row(2), row(4), row(6));
  }
}

// ---- eight codes of each of four rows

struct Nibbles {
  uint8x16_t even, odd;

  explicit JAXFP4_INLINE Nibbles(const uint8_t* codes) {
    const uint8x16_t both = vld1q_u8(codes);
    even = vandq_u8(both, vdupq_n_u8(15));
    odd = vshrq_n_u8(both, 4);
  }
};

JAXFP4_INLINE int8x16_t Doubled(uint8x16_t nibbles) {
  const int8x16_t values = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
  return vqtbl1q_s8(values, nibbles);
}

// ---- integers, four rows of rhs by one of lhs

// Four dot products of four bytes, added up: b's with those of lane n of a.
#if defined(__ARM_FEATURE_DOTPROD)
class DotBytes4 {
 public:
  template <int n>
  JAXFP4_INLINE void Add(int8x16_t b, int8x16_t a) {
    sum_ = vdotq_laneq_s32(sum_, b, a, n);
  }
  JAXFP4_INLINE float32x4_t Sum() const { return vcvtq_f32_s32(sum_); }

 private:
  int32x4_t sum_ = vdupq_n_s32(0);
};
#else
class DotBytes4 {
 public:
  template <int n>
  JAXFP4_INLINE void Add(int8x16_t b, int8x16_t a) {  // at most 16 * 12 * 12 in 16 bits
    const int8x16_t x = vreinterpretq_s8_s32(vdupq_laneq_s32(vreinterpretq_s32_s8(a), n));
    lo_ = vmlal_s8(lo_, vget_low_s8(b), vget_low_s8(x));
    hi_ = vmlal_high_s8(hi_, b, x);
  }
  JAXFP4_INLINE float32x4_t Sum() const {
    return vcvtq_f32_s32(vpaddq_s32(vpaddlq_s16(lo_), vpaddlq_s16(hi_)));
  }

 private:
  int16x8_t lo_ = vdupq_n_s16(0), hi_ = lo_;
};
#endif

// The bytes of a block of lhs: lane n of register i is quad 4 i + n.
template <int kBlock>
JAXFP4_INLINE int8x16_t LoadQuads(const IntBlock<kBlock>& block, int i) {
  return vreinterpretq_s8_u32(vld1q_u32(block.quads + 4 * i));
}

// Adds a block to the sums of R rows of lhs. quads(g, q): quad q of rows 4 g to 4 g + 3 of rhs.
template <int R, int kBlock, class Quads>
JAXFP4_INLINE void AddIntBlock(const Quads& quads, const IntBlock<kBlock>* const (&lhs)[R],
                               const F& scale, F (&sum)[R][1]) {
  int8x16_t a[R][kBlock / 16];
  for (int r = 0; r < R; ++r) {
    for (int i = 0; i < kBlock / 16; ++i) a[r][i] = LoadQuads(*lhs[r], i);
  }
  Unroll<4>([&](auto g) {
    DotBytes4 dot[R];
    Unroll<kBlock / 4>([&](auto q) {
      const int8x16_t b = quads(g, q);
      for (int r = 0; r < R; ++r) dot[r].template Add<q.value % 4>(b, a[r][q.value / 4]);
    });
    for (int r = 0; r < R; ++r) {
      auto& to = At<g.value>(sum[r][0]);
      to = vfmaq_f32(to, vmulq_n_f32(dot[r].Sum(), lhs[r]->scale), At<g.value>(scale));
    }
  });
}

template <ScaleType kType>
struct NeonIntGemv : IntGemv<kType> {
  static constexpr int kBlock = BlockOf(kType);
  using Block = IntBlock<kBlock>;

  template <int R>
  static JAXFP4_INLINE void AddTile(const Fp4Tile& tile, int64_t size, const uint8_t* (&x)[R],
                                    F (&sum)[R][1]) {
    for (int64_t i = 0; i < size; i += kBlock) {
      tile.Prefetch(i, kBlock);
      const Block* lhs[R];
      for (int r = 0; r < R; ++r) {
        lhs[r] = reinterpret_cast<const Block*>(x[r]);
        x[r] += sizeof(Block);
      }
      const auto quads = [&](auto g, auto q) {
        const Nibbles n(tile.codes + i * 8 + (q.value / 2 * 4 + g.value) * 16);
        return Doubled(q.value % 2 == 0 ? n.even : n.odd);
      };
      AddIntBlock<R, kBlock>(quads, lhs, OneFactor<kType>(tile.scales + i / kBlock * kLanes), sum);
    }
  }
};

// Sixteen codes of 16 rows of rhs take 256 bytes of a panel, and their scales follow.
template <ScaleType kType>
struct NeonIntGemm : IntScheme<kType> {
  static constexpr int kBlock = BlockOf(kType), kVectors = 1;
  static constexpr int64_t kBlocks = kIntChunk / kBlock;
  static constexpr int64_t kPanelBlock = kBlock * kLanes + kLanes * 4;
  static constexpr int64_t kPanelBytes = kBlocks * kPanelBlock;
  using Block = IntBlock<kBlock>;

  static void PackVector(const ScaledDotProblem& p, int64_t b, int64_t n, int64_t begin,
                         int64_t end, uint8_t* to, int) {
    Fp4Rows<kBlock> rows(p, b, n);
    for (int64_t k = begin; k < end; k += kTileDepth) {
      const int64_t size = Min64(kTileDepth, end - k);
      const Fp4Tile tile = rows.Load(k, size);
      for (int64_t i = 0; i < size; i += kBlock, to += kPanelBlock) {
        for (int j = 0; j < kBlock / 2; ++j) {
          const Nibbles codes(tile.codes + i * 8 + j * 16);
          StoreEight(Doubled(codes.even), Doubled(codes.odd), j, to);
        }
        StoreF32(OneFactor<kType>(tile.scales + i / kBlock * kLanes),
                 reinterpret_cast<float*>(to + kBlock * kLanes));
      }
    }
  }

  template <int R>
  static JAXFP4_INLINE void Dot(const uint8_t* lhs, const uint8_t* panel, int64_t size,
                                F (&sum)[R][1]) {
    const Block* rows[R];
    for (int r = 0; r < R; ++r) rows[r] = reinterpret_cast<const Block*>(lhs) + r * kBlocks;
    DotRows<R>(rows, panel, size / kBlock, sum);
  }

 private:
#if defined(__ARM_FEATURE_MATMUL_INT8)
  // [pair of rows of rhs][eights][16 bytes], as a tile's product takes them.
  static JAXFP4_INLINE void StoreEight(int8x16_t even, int8x16_t odd, int j, uint8_t* to) {
    const int32x4_t a = vreinterpretq_s32_s8(even), b = vreinterpretq_s32_s8(odd);
    int32_t* pair = reinterpret_cast<int32_t*>(to) + (j % 4 * 2 * (kBlock / 8) + j / 4) * 4;
    vst1q_s32(pair, vzip1q_s32(a, b));
    vst1q_s32(pair + kBlock / 2, vzip2q_s32(a, b));
  }

  template <int R>
  static JAXFP4_INLINE void DotRows(const Block* (&rows)[R], const uint8_t* panel, int64_t blocks,
                                    F (&sum)[R][1]) {
    constexpr int kPairs = (R + 1) / 2, kEights = kBlock / 8;
    float32x4_t total[kPairs][8] = {};
    for (int64_t i = 0; i < blocks; ++i, panel += kPanelBlock) {
      int8x16_t a[kPairs][kEights];
      float32x4_t scale[kPairs];
      for (int p = 0; p < kPairs; ++p) {
        const Block *first = rows[2 * p] + i, *second = rows[R == 1 ? 0 : 2 * p + 1] + i;
        for (int e = 0; e < kEights; ++e) {
          a[p][e] = vreinterpretq_s8_u32(
              vcombine_u32(vld1_u32(first->quads + 2 * e), vld1_u32(second->quads + 2 * e)));
        }
        scale[p] = vcombine_f32(vdup_n_f32(first->scale), vdup_n_f32(second->scale));
      }
      const float* factors = reinterpret_cast<const float*>(panel + kBlock * kLanes);
#pragma GCC unroll 8
      for (int j = 0; j < 8; ++j) {
        const float32x2_t factor = vld1_f32(factors + 2 * j);
        int32x4_t dot[kPairs] = {};
#pragma GCC unroll 4
        for (int e = 0; e < kEights; ++e) {
          const int8x16_t b = vreinterpretq_s8_u8(vld1q_u8(panel + (j * kEights + e) * 16));
          for (int p = 0; p < kPairs; ++p) dot[p] = vmmlaq_s32(dot[p], a[p][e], b);
        }
        for (int p = 0; p < kPairs; ++p) {
          total[p][j] = vfmaq_f32(total[p][j], vcvtq_f32_s32(dot[p]) * scale[p],
                                  vcombine_f32(factor, factor));
        }
      }
    }
    FromTiles<R>(total, sum);
  }
#else
  // [quad][16 rows of rhs][4 bytes]
  static JAXFP4_INLINE void StoreEight(int8x16_t even, int8x16_t odd, int j, uint8_t* to) {
    int8_t* quad = reinterpret_cast<int8_t*>(to) + j / 4 * 128 + j % 4 * 16;
    vst1q_s8(quad, even);
    vst1q_s8(quad + 64, odd);
  }

  template <int R>
  static JAXFP4_INLINE void DotRows(const Block* (&rows)[R], const uint8_t* panel, int64_t blocks,
                                    F (&sum)[R][1]) {
    for (int r = 0; r < R; ++r) sum[r][0] = Zero();
    for (int64_t i = 0; i < blocks; ++i, panel += kPanelBlock) {
      const auto quads = [&](auto g, auto q) {
        return vreinterpretq_s8_u8(vld1q_u8(panel + (q.value * 4 + g.value) * 16));
      };
      const F scale = LoadF32(reinterpret_cast<const float*>(panel + kBlock * kLanes));
      const Block* lhs[R];
      for (int r = 0; r < R; ++r) lhs[r] = rows[r] + i;
      AddIntBlock<R, kBlock>(quads, lhs, scale, sum);
    }
  }
#endif
};

// ---- float32 by codes
//
// A row of lhs is stored in pairs four apart, as the lookup of eight codes gives them.

template <class Math, ScaleType kType>
struct NeonGemv : FloatGemv<kType> {
  static constexpr int kBlock = BlockOf(kType);

  static void PackRow(const ScaledDotProblem& p, int64_t row, uint8_t* to) {
    FloatGemv<kType>::PackRow(p, row, to);
    float* x = reinterpret_cast<float*>(to);
    for (int64_t k = 0; k < p.depth; k += 8, x += 8) {
      const float32x4_t a = vld1q_f32(x), b = vld1q_f32(x + 4);
      vst1q_f32(x, vzip1q_f32(a, b));
      vst1q_f32(x + 4, vzip2q_f32(a, b));
    }
  }

  // Pair i of eight elements, four apart, of two rows of rhs.
  static JAXFP4_INLINE void Decode(const Halves& even, const Halves& odd, float32x4_t (&v)[4][2]) {
    const auto split = [&](uint16x8_t halves, int first, int h) {
      const uint32x4_t words = vreinterpretq_u32_u16(halves);
      v[first][h] = vreinterpretq_f32_u32(vshlq_n_u32(words, 16));
      v[first + 2][h] = vreinterpretq_f32_u32(vandq_u32(words, vdupq_n_u32(0xffff0000u)));
    };
    split(even.First(), 0, 0);
    split(even.Second(), 0, 1);
    split(odd.First(), 1, 0);
    split(odd.Second(), 1, 1);
  }

  template <int R>
  static JAXFP4_INLINE void AddTile(const Fp4Tile& tile, int64_t size, const uint8_t* (&x)[R],
                                    F (&sum)[R][1]) {
    for (int64_t i = 0; i < size; i += kBlock) {
      tile.Prefetch(i, kBlock);
      F block[R];
      Unroll<4>([&](auto g) {
        float32x4_t dot[R][2] = {};
        Unroll<kBlock / 8>([&](auto j) {
          const Nibbles codes(tile.codes + i * 8 + (j.value * 4 + g.value) * 16);
          float32x4_t v[4][2];
          Decode(LookUp<E2M1>(codes.even), LookUp<E2M1>(codes.odd), v);
          for (int r = 0; r < R; ++r) {
            for (int pair = 0; pair < 4; ++pair) {
              const float32x2_t a =
                  vld1_f32(reinterpret_cast<const float*>(x[r]) + j.value * 8 + pair * 2);
              for (int h = 0; h < 2; ++h) {
                dot[r][h] = vfmaq_f32(dot[r][h], v[pair][h], vcombine_f32(a, a));
              }
            }
          }
        });
        for (int r = 0; r < R; ++r) At<g.value>(block[r]) = vpaddq_f32(dot[r][0], dot[r][1]);
      });
      const Scale16<kType> scale(tile.scales + i / kBlock * kLanes);
      for (int r = 0; r < R; ++r) {
        sum[r][0] = scale.MulAdd(block[r], sum[r][0]);
        x[r] += kBlock * 4;
      }
    }
  }
};

// Schemes for many rows take four elements at a time: zeros up to there.
template <class Math>
inline void FillFour(int64_t size, uint32_t* panel) {
  constexpr int64_t kWords = 4 / Math::kPerWord;
  const int64_t words = CeilDiv(size, Math::kPerWord);
  for (int64_t w = words; w < RoundUp(words, kWords); ++w) StoreU32(U(0), panel + w * kLanes);
}

struct NeonFloatGemm : FloatScheme<Float32> {
  void PackVector(const ScaledDotProblem& p, int64_t b, int64_t n, int64_t begin, int64_t end,
                  uint8_t* panel, int j) const {
    FloatScheme<Float32>::PackVector(p, b, n, begin, end, panel, j);
    FillFour<Float32>(end - begin, reinterpret_cast<uint32_t*>(panel));
  }

  template <int R>
  static JAXFP4_INLINE void Dot(const uint8_t* lhs, const uint8_t* panel, int64_t size,
                                F (&sum)[R][1]) {
    const float *a = reinterpret_cast<const float*>(lhs), *b = reinterpret_cast<const float*>(panel);
    F total[R];
    for (int r = 0; r < R; ++r) total[r] = Zero();
    for (int64_t k = 0; k < size; k += 4, a += 4) {
      float32x4_t x[R];
      for (int r = 0; r < R; ++r) x[r] = vld1q_f32(a + r * kWords);
      Unroll<4>([&](auto i) {
        const F v = LoadF32(b);
        b += kLanes;
        for (int r = 0; r < R; ++r) {
          total[r] = Each<F>(
              [&](auto s, auto q) { return vfmaq_laneq_f32(s, q, x[r], i.value); }, total[r], v);
        }
      });
    }
    for (int r = 0; r < R; ++r) sum[r][0] = total[r];
  }
};

template <>
struct ManyRows<Float32> {
  using Scheme = NeonFloatGemm;
};

// ---- bfloat16

#if defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)

JAXFP4_INLINE bfloat16x8_t AsPairs(uint16x8_t halves) { return vreinterpretq_bf16_u16(halves); }

// Four bfloat16 of each of two rows (the same one twice, where R is 1).
template <int R>
JAXFP4_INLINE bfloat16x8_t LoadTwoRows(const uint16_t* first, const uint16_t* second) {
  return AsPairs(vcombine_u16(vld1_u16(first), vld1_u16(R == 1 ? first : second)));
}

// Rows of lhs hold the even elements of each eight, then the odd ones.
template <ScaleType kType>
struct NeonGemv<BFloat16, kType> : FloatGemv<kType> {
  static constexpr int kBlock = BlockOf(kType);
  static constexpr int64_t kChunk = BFloat16::kChunk;
  static int64_t RowBytes(int64_t depth) { return RoundUp(depth, 2 * kLanes) * 2; }

  static void PackRow(const ScaledDotProblem& p, int64_t row, uint8_t* to) {
    uint16_t* halves = reinterpret_cast<uint16_t*>(to);
    for (int64_t k = 0; k < p.depth; k += kChunk) {
      alignas(64) float x[kChunk];
      const int64_t end = Min64(k + kChunk, p.depth);
      DecodeRow(p.lhs, row, p.depth, k, end, x);
      for (int64_t i = 0; i < end - k; i += 8, halves += 8) {
        const uint16x8_t eight = UpperHalves(vld1q_f32(x + i), vld1q_f32(x + i + 4));
        vst1q_u16(halves, vuzp1q_u16(eight, vextq_u16(eight, eight, 1)));
      }
    }
  }

  template <int R>
  static JAXFP4_INLINE void AddTile(const Fp4Tile& tile, int64_t size, const uint8_t* (&x)[R],
                                    F (&sum)[R][1]) {
    constexpr int kPairs = (R + 1) / 2;
    for (int64_t i = 0; i < size; i += kBlock) {
      tile.Prefetch(i, kBlock);
      float32x4_t tiles[kPairs][8] = {};
#pragma GCC unroll 4
      for (int j = 0; j < kBlock / 8; ++j) {
        bfloat16x8_t a[kPairs][2];
        for (int p = 0; p < kPairs; ++p) {
          const uint16_t* first = reinterpret_cast<const uint16_t*>(x[2 * p]) + 8 * j;
          const uint16_t* second = reinterpret_cast<const uint16_t*>(x[R == 1 ? 0 : 2 * p + 1]) + 8 * j;
          a[p][0] = LoadTwoRows<R>(first, second);
          a[p][1] = LoadTwoRows<R>(first + 4, second + 4);
        }
#pragma GCC unroll 4
        for (int g = 0; g < 4; ++g) {
          const Nibbles codes(tile.codes + i * 8 + (j * 4 + g) * 16);
          const Halves b[2] = {LookUp<E2M1>(codes.even), LookUp<E2M1>(codes.odd)};
          for (int p = 0; p < kPairs; ++p) {
            for (int h = 0; h < 2; ++h) {
              float32x4_t &t0 = tiles[p][2 * g], &t1 = tiles[p][2 * g + 1];
              t0 = vbfmmlaq_f32(t0, a[p][h], AsPairs(b[h].First()));
              t1 = vbfmmlaq_f32(t1, a[p][h], AsPairs(b[h].Second()));
            }
          }
        }
      }
      F block[R][1];
      FromTiles<R>(tiles, block);
      const Scale16<kType> scale(tile.scales + i / kBlock * kLanes);
      for (int r = 0; r < R; ++r) {
        sum[r][0] = scale.MulAdd(block[r][0], sum[r][0]);
        x[r] += kBlock * 2;
      }
    }
  }
};

struct PairsGemm : FloatScheme<BFloat16> {
  static constexpr int64_t kStep = 8 * 16;  // bytes of a panel: four elements of 16 rows

  void PackVector(const ScaledDotProblem& p, int64_t b, int64_t n, int64_t begin, int64_t end,
                  uint8_t* panel, int j) const {
    FloatScheme<BFloat16>::PackVector(p, b, n, begin, end, panel, j);
    uint32_t* words = reinterpret_cast<uint32_t*>(panel);
    FillFour<BFloat16>(end - begin, words);
    for (int64_t k = begin; k < end; k += 4, words += 2 * kLanes) {
      const U a = LoadU32(words), c = LoadU32(words + kLanes);
      StoreU32({vzip1q_u32(a.q0, c.q0), vzip2q_u32(a.q0, c.q0), vzip1q_u32(a.q1, c.q1),
                vzip2q_u32(a.q1, c.q1)}, words);
      StoreU32({vzip1q_u32(a.q2, c.q2), vzip2q_u32(a.q2, c.q2), vzip1q_u32(a.q3, c.q3),
                vzip2q_u32(a.q3, c.q3)}, words + kLanes);
    }
  }

  template <int R>
  static JAXFP4_INLINE void Dot(const uint8_t* lhs, const uint8_t* panel, int64_t size,
                                F (&sum)[R][1]) {
    constexpr int kPairs = (R + 1) / 2;
    float32x4_t tiles[kPairs][8] = {};
    for (int64_t k = 0; k < size; k += 4, lhs += 8, panel += kStep) {
      bfloat16x8_t a[kPairs];
      for (int p = 0; p < kPairs; ++p) {
        const uint8_t* first = lhs + 2 * p * kRowBytes;
        a[p] = LoadTwoRows<R>(reinterpret_cast<const uint16_t*>(first),
                              reinterpret_cast<const uint16_t*>(first + kRowBytes));
      }
#pragma GCC unroll 8
      for (int j = 0; j < 8; ++j) {
        const uint16_t* two = reinterpret_cast<const uint16_t*>(panel) + 8 * j;
        const bfloat16x8_t b = AsPairs(vld1q_u16(two));
        for (int p = 0; p < kPairs; ++p) tiles[p][j] = vbfmmlaq_f32(tiles[p][j], a[p], b);
      }
    }
    FromTiles<R>(tiles, sum);
  }
};

template <>
struct ManyRows<BFloat16> {
  using Scheme = PairsGemm;
};

#endif

}  // namespace
}  // namespace jaxfp4::JAXFP4_TARGET
