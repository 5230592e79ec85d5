// Many rows of one FP4 format by another's: dot products of bytes, and as little beside them on the
// two multiply pipes as can be.
//
// The sum of a block is an integer D, of which D * (scale of lhs) * (scale of rhs) joins the output
// with one rounding. The FMA that adds it multiplies by one of the scales. The other one is free:
//   * A sum starts at the bits of a float, 1.5 * 2^(23 + e), whose last place is worth 2^e. So D
//     added to the bits is D * 2^e added to the float, and subtracting the float again leaves just
//     that, exactly: conversion and a power of two in one instruction of the adding pipes.
//   * The rest of an e4m3 scale is its significand, an integer below 16. Up to 10 and when even it
//     multiplies the bytes of lhs (10 * 12 < 128); for 11, 13 and 15 the panel has each scale of
//     rhs multiplied already, which is exact as well.
//   * Where both scales are powers of two, nothing need be multiplied: an addition to the bits of
//     both floats, of the exponent of the scale of rhs, and what is left is added. For that all
//     these exponents, and all products of scales, must be those of normal numbers.
// All products are exact, as in IntScheme, so the results are its bits. Included by
// scaled_dot_kernel.cc only.
#pragma once

#include "cc/cpu/scaled_dot_fp4-inl.h"

#if defined(__AVX512VNNI__)

namespace jaxfp4::JAXFP4_TARGET {
namespace {

// A scale of lhs is factor * (1, 11, 13 or 15) * 2^exponent, or NaN.
struct SplitScale {
  int factor, multiple, exponent;
  bool is_nan;
};

constexpr float kMultiples[] = {1, 11, 13, 15};

template <ScaleType kType>
constexpr SplitScale Split(int code) {
  if constexpr (kType == ScaleType::kE8M0) {  // twice its value, as TwicePower
    return {1, 0, code - 126, code == 255};
  } else {
    constexpr int8_t kFactor[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1, 3, 1, 7, 1};
    constexpr int8_t kMultiple[] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2, 0, 3};
    constexpr int8_t kShift[] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1, 0};
    const int field = code >> 3 & 15;
    const int significand = field == 0 ? code & 7 : 8 + (code & 7);
    const int factor = code & 0x80 ? -kFactor[significand] : kFactor[significand];
    return {factor, kMultiple[significand], (field == 0 ? 1 : field) - 10 + kShift[significand],
            (code & 0x7f) == 0x7f};
  }
}

// What a scale of lhs does to its block: the codes' values times its factor, and the bits of the
// float that sums start from, among the last of which is the place of its multiple, in bytes.
struct BlockRule {
  const int8_t* values;
  uint32_t origin;
};
constexpr uint32_t kPlaces = 3 * 64;

template <ScaleType kType>
struct BlockRules {
  BlockRule of[256];

  constexpr BlockRules() : of() {
    for (int code = 0; code < 256; ++code) {
      const SplitScale s = Split<kType>(code);
      const uint32_t bits = static_cast<uint32_t>(s.exponent + 127 + 23) << 23 | 1u << 22;
      of[code].values = FactorTable(s.factor);
      of[code].origin = s.is_nan ? kQuietNaN : bits + static_cast<uint32_t>(s.multiple) * 64;
    }
  }
};
template <ScaleType kType>
constexpr BlockRules<kType> kBlockRules;

// The least and the largest byte of a range of e8m0 scales.
struct ByteRange {
  int least, most;
};

// Of all scales of lhs but NaN, for which `has_nan`.
struct LhsPowers {
  ByteRange bytes = {255, 0};
  bool has_nan = false;

  LhsPowers() = default;
  LhsPowers(const DotOperand& x, int64_t rows) {
    for (int64_t row = 0; row < rows; ++row) {
      const uint8_t* scales = static_cast<const uint8_t*>(x.scale) + ScaleIndex(x, row, 0);
      for (int64_t i = 0; i < x.scale_cols; ++i) {
        has_nan |= scales[i] == 255;
        if (scales[i] < bytes.least) bytes.least = scales[i];
        if (scales[i] != 255 && scales[i] > bytes.most) bytes.most = scales[i];
      }
    }
  }

  // Whether some sum would start beyond float32.
  bool huge() const { return bytes.most > 230; }

  // The scales of rhs whose exponents may be added to all of these: products are at least 2^-126,
  // and with 1.5 * 2^23 float32 holds them.
  ByteRange Partners() const {
    if (has_nan) return {255, 0};
    return {bytes.least < 126 ? 126 - bytes.least : 0, bytes.most > 103 ? 356 - bytes.most : 253};
  }
};

// A block of lhs.
template <int kBlock>
struct OriginBlock {
  static constexpr int kQuads = kBlock / 4;
  uint32_t quads[kQuads];
  uint32_t start, origin;

  size_t place() const { return origin & kPlaces; }
};

template <ScaleType kType>
struct OriginScheme {
  static constexpr int kBlock = BlockOf(kType);
  static constexpr int kRows = 6, kVectors = 2, kLeastVectors = 2;
  using Block = OriginBlock<kBlock>;
  static constexpr int kQuads = kBlock / 4;
  static constexpr bool kPowers = kType == ScaleType::kE8M0;
  // Vectors of scales: the four multiples, or a power and what it adds to the bits of a float.
  static constexpr int kScales = kPowers ? 2 : 4;
  static constexpr int64_t kChunk = kIntChunk;
  static constexpr int64_t kBlocks = kChunk / kBlock;
  static constexpr int64_t kRowBytes = kBlocks * sizeof(Block);
  // A panel has the quads of all blocks, then the scales, then for each vector of columns whether
  // all exponents may be added.
  static constexpr int64_t kBlockQuads = kQuads * kVectors * kLanes;
  static constexpr int64_t kBlockScales = kScales * kVectors * kLanes;
  static constexpr int64_t kPanelBytes =
      kBlocks * (kBlockQuads + kBlockScales) * 4 + kVectors * sizeof(uint32_t);

  static constexpr float kUnit = IntegerUnit(kType);
  static constexpr bool kTakesFloats = false;

  ByteRange partners = {255, 0};  // of the powers of lhs

  static void PackRow(const ScaledDotProblem& p, int64_t row, int64_t begin, int64_t end,
                      uint8_t* to) {
    const uint8_t* codes = RowData(p.lhs, row, p.depth) + begin / 2;
    const uint8_t* scale =
        static_cast<const uint8_t*>(p.lhs.scale) + ScaleIndex(p.lhs, row, 0) + begin / kBlock;
    Block* block = reinterpret_cast<Block*>(to);
    for (Block* const last = block + (end - begin) / kBlock; block < last; ++block) {
      const BlockRule& rule = kBlockRules<kType>.of[*scale++];
      const int32_t sum = PackQuads<kBlock>(codes, rule.values, block->quads);
      block->origin = rule.origin;
      block->start = rule.origin - static_cast<uint32_t>(kCodeBias * sum);
      codes += kBlock / 2;
    }
  }

  void PackVector(const ScaledDotProblem& p, int64_t b, int64_t n, int64_t begin, int64_t end,
                  uint8_t* panel, int j) const {
    Fp4Rows<kBlock> rows(p, b, n, {kVectors * kLanes, begin, end});
    uint32_t* to = reinterpret_cast<uint32_t*>(panel) + j * kLanes;
    float* scales = Scales(panel) + j * kScales * kLanes;
    U least(0xffffffffu), most(0u);
    for (int64_t k = begin; k < end; k += kTileDepth) {
      const int64_t size = Min64(kTileDepth, end - k);
      const Fp4Tile tile = rows.Load(k, size);
      for (int64_t i = 0; i < size; i += kBlock, to += kBlockQuads, scales += kBlockScales) {
        const IntVectors<kBlock> v(tile.codes + i * 8);
        for (int q = 0; q < kQuads; ++q) StoreU32(v.quads[q], to + q * kVectors * kLanes);
        const F scale = OneFactor<kType>(tile.scales + i / kBlock * kLanes);
        StoreF32(scale, scales);
        if constexpr (kPowers) {
          const U bits = Lanes::Bits(scale);
          StoreF32(Lanes::Float(bits - U(kOne)), scales + kLanes);
          least = Lanes::Min(least, bits);
          most = Lanes::Max(most, bits);
        } else {
          for (int s = 1; s < kScales; ++s) StoreF32(scale * F(kMultiples[s]), scales + s * kLanes);
        }
      }
    }
    if constexpr (kPowers) Adds(panel)[j] = InRange(least, most);
  }

  // Of the bits of TwicePower.
  bool InRange(U least, U most) const {
    const U low(static_cast<uint32_t>(partners.least + 1) << 23);
    const U high(static_cast<uint32_t>(partners.most + 1) << 23);
    return !Lanes::Any(Lanes::Less(least, low)) && !Lanes::Any(Lanes::Less(high, most));
  }

  template <int R>
  static JAXFP4_INLINE void Dot(const uint8_t* lhs, const uint8_t* panel, int64_t size,
                                F (&sum)[R][kVectors]) {
    if constexpr (kPowers) {
      static_assert(kVectors == 2, "");
      if (Adds(panel)[0] & Adds(panel)[1]) return AddBlocks<R, true>(lhs, panel, size, sum);
    }
    AddBlocks<R, false>(lhs, panel, size, sum);
  }

 private:
  static constexpr uint32_t kOne = 0x3f800000;

  template <int R, bool kAddExponents>
  static JAXFP4_INLINE void AddBlocks(const uint8_t* lhs, const uint8_t* panel, int64_t size,
                                      F (&sum)[R][kVectors]) {
    const Block* a = reinterpret_cast<const Block*>(lhs);
    const uint32_t* b = reinterpret_cast<const uint32_t*>(panel);
    const float* scales = Scales(panel);
    for (int r = 0; r < R; ++r) {
      for (int j = 0; j < kVectors; ++j) sum[r][j] = Zero();
    }
    for (int64_t i = 0; i < size / kBlock; ++i, ++a, b += kBlockQuads, scales += kBlockScales) {
      const uint8_t* next = lhs + R * kRowBytes + i * R * sizeof(Block);  // of the next rows
      for (size_t at = 0; at < R * sizeof(Block); at += 64) __builtin_prefetch(next + at);
      U dot[R][kVectors];
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        for (int j = 0; j < kVectors; ++j) dot[r][j] = U(a[r * kBlocks].start);
      }
      // All outputs side by side, since each is a chain; each vector of rhs is loaded once.
#pragma GCC unroll 8
      for (int q = 0; q < kQuads; ++q) {
        U v[kVectors];
        for (int j = 0; j < kVectors; ++j) v[j] = Held(LoadU32(b + (q * kVectors + j) * kLanes));
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
          const U x(a[r * kBlocks].quads[q]);
          for (int j = 0; j < kVectors; ++j) {
            dot[r][j] = _mm512_dpbusd_epi32(dot[r][j].v, v[j].v, x.v);
          }
        }
      }
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const Block& block = a[r * kBlocks];
        const U origin(block.origin);
        for (int j = 0; j < kVectors; ++j) {
          const float* at = scales + j * kScales * kLanes;
          if constexpr (kAddExponents) {
            const U add = Lanes::Bits(LoadF32(at + kLanes));
            sum[r][j] = sum[r][j] + (Lanes::Float(dot[r][j] + add) - Lanes::Float(origin + add));
          } else {
            const F scale = LoadF32(at + (kPowers ? 0 : block.place() / sizeof(float)));
            const F scaled = Lanes::Float(dot[r][j]) - Lanes::Float(origin);
            sum[r][j] = Lanes::MulAdd(scaled, scale, sum[r][j]);
          }
        }
      }
    }
  }

  static JAXFP4_INLINE float* Scales(uint8_t* panel) {
    return reinterpret_cast<float*>(panel) + kBlocks * kBlockQuads;
  }
  static JAXFP4_INLINE const float* Scales(const uint8_t* panel) {
    return reinterpret_cast<const float*>(panel) + kBlocks * kBlockQuads;
  }
  static JAXFP4_INLINE uint32_t* Adds(uint8_t* panel) {
    return reinterpret_cast<uint32_t*>(panel) + kBlocks * (kBlockQuads + kBlockScales);
  }
  static JAXFP4_INLINE const uint32_t* Adds(const uint8_t* panel) {
    return reinterpret_cast<const uint32_t*>(panel) + kBlocks * (kBlockQuads + kBlockScales);
  }
};

}  // namespace
}  // namespace jaxfp4::JAXFP4_TARGET

#endif
