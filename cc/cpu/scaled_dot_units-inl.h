// The product of a few rows of lhs, as floats, with e2m1 codes, in units: eight codes of a row of rhs,
// which are a lane of a register of 64 bytes. Included by scaled_dot_kernel.cc only.
//
// The units of a block are added, and their sum times the block's scale joins one of several sums, the
// one of its place in 128 of depth. Logical rows have units as lanes and come one by one (UnitCoding,
// for Stream); interleaved rows have them as registers, whose lanes are rows (UnitGemv, for Gemv). Both
// add in the same order, so that the two layouts give the same bits.
#pragma once

#include "cc/cpu/scaled_dot_gemv-inl.h"
#include "cc/cpu/scaled_dot_stream-inl.h"

namespace jaxfp4::JAXFP4_TARGET {
namespace {

constexpr int kUnitDepth = 8;
constexpr int kUnits = kTileDepth / kUnitDepth;
static_assert(kUnits == kLanes, "the units of a logical row are lanes");

// ---- the values of units, kPerWord at a time, and words of lhs in the same order

template <class Math>
struct UnitWords {
  static constexpr int kCount = kUnitDepth / Math::kPerWord;

  static JAXFP4_INLINE F Values(U codes, int i) { return LookUpE2M1(codes >> (4 * i)); }
  static void Pack(const float* x, int64_t size, uint32_t* words) { Math::Pack(x, size, words); }
};

#if defined(__AVX512BF16__)
// Pairs four codes apart: the upper half of a word takes the same shift as the lower one.
template <>
struct UnitWords<BFloat16> {
  static constexpr int kCount = kUnitDepth / 2;

  static JAXFP4_INLINE F Values(U codes, int i) {
    const __m512i values = _mm512_set_epi16(
        -0x3f40, -0x3f80, -0x3fc0, -0x4000, -0x4040, -0x4080, -0x4100, -0x8000,
        0x40c0, 0x4080, 0x4040, 0x4000, 0x3fc0, 0x3f80, 0x3f00, 0,
        -0x3f40, -0x3f80, -0x3fc0, -0x4000, -0x4040, -0x4080, -0x4100, -0x8000,
        0x40c0, 0x4080, 0x4040, 0x4000, 0x3fc0, 0x3f80, 0x3f00, 0);
    return Lanes::Float(_mm512_permutexvar_epi16((codes >> (4 * i)).v, values));
  }
  static void Pack(const float* x, int64_t size, uint32_t* words) {
    const __m512i order = _mm512_set_epi16(31, 27, 30, 26, 29, 25, 28, 24, 23, 19, 22, 18, 21, 17,
                                           20, 16, 15, 11, 14, 10, 13, 9, 12, 8, 7, 3, 6, 2, 5, 1,
                                           4, 0);
    BFloat16::Pack(x, size, words);
    for (int64_t w = 0; w < size / 2; w += kLanes) {
      const __m512i pairs = _mm512_loadu_si512(words + w);
      _mm512_storeu_si512(words + w, _mm512_permutexvar_epi16(order, pairs));
    }
  }
};
#endif

// ---- interleaved rows

template <class Math, ScaleType kType>
struct UnitGemv {
  using Words = UnitWords<Math>;
  static constexpr int kBlock = BlockOf(kType), kBlocks = kTileDepth / kBlock;
  static constexpr int kSums = kBlocks;
  static constexpr int64_t kChunk = int64_t{1} << 62;  // all of depth
  static constexpr float kUnit = 1.0f;

  static int64_t RowBytes(int64_t depth) {
    return RoundUp(depth, kTileDepth) / Math::kPerWord * 4;
  }

  static void PackRow(const ScaledDotProblem& p, int64_t row, uint8_t* to) {
    uint32_t* words = reinterpret_cast<uint32_t*>(to);
    for (int64_t k = 0; k < p.depth; k += kTileDepth) {
      alignas(64) float x[kTileDepth] = {};
      DecodeRow(p.lhs, row, p.depth, k, Min64(k + kTileDepth, p.depth), x);
      Words::Pack(x, kTileDepth, words + k / Math::kPerWord);
    }
  }

  template <int R>
  static JAXFP4_INLINE void AddTile(const Fp4Tile& tile, int64_t size,
                                    const uint8_t* (&x)[R], F (&sum)[R][kSums]) {
    Fp4Tile whole = tile;
    alignas(64) uint8_t codes[kTileDepth * 8], scales[kBlocks * kLanes];
    if (size < kTileDepth) {  // zeros for the last blocks
      memset(codes, 0, sizeof(codes));
      memset(scales, 0, sizeof(scales));
      memcpy(codes, tile.codes, static_cast<size_t>(size * 8));
      memcpy(scales, tile.scales, static_cast<size_t>(size / kBlock * kLanes));
      whole = {codes, scales, tile.ahead, tile.ahead_stride};
    }
    if constexpr (R == 1) {  // all sums are registers
#pragma GCC unroll 8
      for (int i = 0; i < kBlocks; ++i) AddBlock<R>(whole, i, x, sum);
    } else {
      for (int i = 0; i < kBlocks; ++i) AddBlock<R>(whole, i, x, sum);
    }
    for (int r = 0; r < R; ++r) x[r] += kUnits * Words::kCount * 4;
  }

 private:
  template <int R>
  static JAXFP4_INLINE void AddBlock(const Fp4Tile& tile, int i, const uint8_t* const (&x)[R],
                                     F (&sum)[R][kSums]) {
    constexpr int kCount = kBlock / kUnitDepth;
    const Scale16<kType> scale(tile.scales + i * kLanes);
    F dot[R][kCount];
#pragma GCC unroll 4
    for (int j = 0; j < kCount; ++j) {
      const int unit = i * kCount + j;
      const U codes = Held(LoadU32(reinterpret_cast<const uint32_t*>(tile.codes) + unit * kLanes));
      tile.Prefetch(unit * kUnitDepth, kUnitDepth);
      for (int r = 0; r < R; ++r) dot[r][j] = Zero();
#pragma GCC unroll 8
      for (int w = 0; w < Words::kCount; ++w) {
        const F v = Words::Values(codes, w);
        for (int r = 0; r < R; ++r) {
          const uint32_t* word = reinterpret_cast<const uint32_t*>(x[r]) + unit * Words::kCount + w;
          dot[r][j] = Math::Dot(Lanes::Float(U(*word)), v, dot[r][j]);
        }
      }
    }
    for (int r = 0; r < R; ++r) {
      F block = dot[r][0] + dot[r][1];
      if constexpr (kCount == 4) block = block + (dot[r][2] + dot[r][3]);
      F& to = sum[r][i];
      to = scale.MulAdd(block, to);
    }
  }
};

// ---- logical rows

template <class Math>
class UnitDecoder {
 public:
  using Words = UnitWords<Math>;
  static constexpr int kVectors = Words::kCount;

  static constexpr int Index(int v, int lane) { return lane * kVectors + v; }
  static void Pack(const float* x, uint32_t* words) { Words::Pack(x, kTileDepth, words); }

  JAXFP4_INLINE void operator()(const uint8_t* codes, F* values) const {
    const U c = Held(LoadU32(reinterpret_cast<const uint32_t*>(codes)));
#pragma GCC unroll 8
    for (int w = 0; w < kVectors; ++w) values[w] = Words::Values(c, w);
  }
};

// Of sixteen scales, in turn, those of the next 128 elements for the lanes of their units.
template <int kCount>
struct UnitLanes {
  alignas(64) uint32_t of[kLanes / kCount][kLanes];

  constexpr UnitLanes() : of() {
    for (int i = 0; i < kLanes * kLanes / kCount; ++i) {
      of[i / kLanes][i % kLanes] = static_cast<uint32_t>(i * kCount / kLanes);
    }
  }
};
template <int kCount>
inline constexpr UnitLanes<kCount> kUnitLanes;

// The scales of the blocks of a row, sixteen decoded at a time.
template <ScaleType kType>
class UnitScales {
 public:
  static constexpr int kCount = kTileDepth / BlockOf(kType);
  static constexpr float kUnit = 1.0f;

  UnitScales(const DotOperand& x, int64_t first, int64_t k, int64_t end)
      : next_(static_cast<const uint8_t*>(x.scale) + first + k / BlockOf(kType)),
        left_((end - k) / BlockOf(kType)) {}

  // Of one group. All lanes of a block get its sum.
  struct Scale {
    F factor, factor2;

    JAXFP4_INLINE F MulAdd(F dot, F sum) const {
      F block = dot + Exchange<1>(dot);
      if constexpr (kCount == 4) block = block + Exchange<2>(block);
      return kType == ScaleType::kE4M3 ? Lanes::MulAdd(block, factor, sum)
                                       : Lanes::MulAdd(block * factor, factor2, sum);
    }
  };

  JAXFP4_INLINE Scale Next() {
    if (group_ == 0) Decode();
    const U lanes = LoadU32(kUnitLanes<kCount>.of[group_]);
    group_ = (group_ + 1) % kGroups;
    return {Spread(scales_.factor, lanes), Spread(scales_.factor2, lanes)};
  }
  // One lane of each block remains.
  static JAXFP4_INLINE F Finished(F sum) {
    return _mm512_maskz_mov_ps(kCount == 8 ? 0x5555 : 0x1111, sum.v);
  }

 private:
  static constexpr int kGroups = kLanes / kCount;

  static JAXFP4_INLINE F Spread(F x, U lanes) { return _mm512_permutexvar_ps(lanes.v, x.v); }

  JAXFP4_INLINE void Decode() {
    if (left_ >= kLanes) {
      scales_ = Scale16<kType>(next_);
    } else {
      uint8_t last[kLanes] = {};
      memcpy(last, next_, static_cast<size_t>(left_));
      scales_ = Scale16<kType>(last);
    }
    next_ += kLanes;
    left_ -= kLanes;
  }

  const uint8_t* next_;
  int64_t left_;
  int group_ = 0;
  Scale16<kType> scales_{U(0u)};
};

template <class Math_, ScaleType kType>
struct UnitCoding {
  using Math = Math_;
  using Decoder = UnitDecoder<Math>;
  using Scales = UnitScales<kType>;
  static constexpr int64_t kDepth = kTileDepth, kBits = 4;
};

}  // namespace
}  // namespace jaxfp4::JAXFP4_TARGET
