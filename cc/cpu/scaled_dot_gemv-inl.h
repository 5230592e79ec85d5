// The product of a few rows of lhs with e2m1 codes that come from memory once: decoded in
// registers.
//
// An output is a sum over chunks of sums within chunks of block sums. A scheme says what a block
// is:
//   RowBytes, PackRow    a decoded row of lhs
//   AddTile<R>           adds the blocks of a tile to the sums of R rows
// Included by scaled_dot_kernel.cc only.
#pragma once

#include "cc/cpu/scaled_dot_fp4-inl.h"
#include "cc/cpu/scaled_dot_gemm-inl.h"

namespace jaxfp4::JAXFP4_TARGET {
namespace {

template <class Scheme>
class Gemv {
 public:
  Gemv(const ScaledDotProblem& p, Parallel& parallel)
      : p_(p), parallel_(parallel), row_bytes_(RoundUp(Scheme::RowBytes(p.depth), 64)) {}

  void Run() {
    const Scratch scratch(p_.batch * p_.rows * row_bytes_, p_);
    if (!scratch.ok()) return;
    lhs_ = scratch.As<uint8_t>();
    parallel_.For(p_.batch * p_.rows, 16384 / p_.depth + 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) Scheme::PackRow(p_, i, lhs_ + i * row_bytes_);
    });
    const int64_t groups = CeilDiv(p_.cols, kLanes);
    const int64_t grain = 200000 / (p_.depth * 9 * p_.rows) + 1;  // about 8 microseconds
    parallel_.For(p_.batch * groups, grain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) Columns(i / groups, i % groups * kLanes);
    });
  }

 private:
  void Columns(int64_t b, int64_t n) const {
    const FinalScale scale(p_, b, n, Scheme::kUnit);
    Fp4Rows rows(p_, b, n);
    for (int64_t m = 0; m < p_.rows;) {
      m += Outputs(p_.rows - m, b * p_.rows + m, n, rows, scale);
    }
  }

  // Of the first 4, 2 or 1 of `count` rows of lhs; returns how many.
  template <int R = 4>
  int Outputs(int64_t count, int64_t row, int64_t n, Fp4Rows& rows, const FinalScale& scale) const {
    if constexpr (R > 1) {
      if (count < R) return Outputs<R / 2>(count, row, n, rows, scale);
    }
    const uint8_t* x[R];
    for (int r = 0; r < R; ++r) x[r] = lhs_ + (row + r) * row_bytes_;
    F total[R];
    for (int64_t k = 0; k < p_.depth; k += Scheme::kChunk) {
      const int64_t end = Min64(k + Scheme::kChunk, p_.depth);
      F sum[R];
      for (int r = 0; r < R; ++r) sum[r] = Zero();
      for (int64_t t = k; t < end; t += kTileDepth) {
        const int64_t size = Min64(kTileDepth, end - t);
        Scheme::template AddTile<R>(rows.Load(t, size), size, x, sum);
      }
      for (int r = 0; r < R; ++r) total[r] = k == 0 ? sum[r] : total[r] + sum[r];
    }
    for (int r = 0; r < R; ++r) scale.Store(p_, row + r, n, total[r]);
    return R;
  }

  const ScaledDotProblem& p_;
  Parallel& parallel_;
  const int64_t row_bytes_;
  uint8_t* lhs_ = nullptr;
};

// ---- schemes

// The values of words of eight codes, kPerWord at a time, and rows of lhs in the same order.
template <class Math>
struct Words;

template <>
struct Words<Float32> {
  static JAXFP4_INLINE F Values(U codes, int i) { return LookUpE2M1(codes >> (4 * i)); }
  static void Pack(const float* x, int64_t size, uint32_t* words) {
    Float32::Pack(x, size, words);
  }
};

#if defined(__AVX512BF16__)
// Pairs four codes apart: the upper half of a word takes the same shift as the lower one.
template <>
struct Words<BFloat16> {
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

template <class Math, ScaleType kType>
struct FloatGemv {
  static constexpr int kBlock = BlockOf(kType);
  static constexpr int64_t kChunk = Math::kChunk;
  static constexpr float kUnit = 1.0f;
  static int64_t RowBytes(int64_t depth) {
    return RoundUp(depth, 2 * kLanes) / Math::kPerWord * 4;
  }

  static void PackRow(const ScaledDotProblem& p, int64_t row, uint8_t* to) {
    uint32_t* words = reinterpret_cast<uint32_t*>(to);
    for (int64_t k = 0; k < p.depth; k += kChunk) {
      alignas(64) float x[kChunk];
      const int64_t end = Min64(k + kChunk, p.depth);
      DecodeRow(p.lhs, row, p.depth, k, end, x);
      Words<Math>::Pack(x, RoundUp(end - k, 2 * kLanes), words + k / Math::kPerWord);
    }
  }

  template <int R>
  static JAXFP4_INLINE void AddTile(const Fp4Tile& tile, int64_t size,
                                    const uint8_t* (&x)[R], F (&sum)[R]) {
    constexpr int kWords = 8 / Math::kPerWord;
    const uint32_t* codes = reinterpret_cast<const uint32_t*>(tile.codes);
    for (int64_t i = 0; i < size / kBlock; ++i) {
      const Scale16<kType> scale(tile.scales + i * kLanes);
      F block[R][2];  // two chains of sums
      for (int r = 0; r < R; ++r) block[r][0] = block[r][1] = Zero();
#pragma GCC unroll 4
      for (int j = 0; j < kBlock / 8; ++j, codes += kLanes) {
        const U c = Held(LoadU32(codes));
#pragma GCC unroll 8
        for (int w = 0; w < kWords; ++w) {
          const F v = Words<Math>::Values(c, w);
          for (int r = 0; r < R; ++r) {
            const uint32_t* word = reinterpret_cast<const uint32_t*>(x[r]) + j * kWords + w;
            block[r][w % 2] = Math::Dot(Lanes::Float(U(*word)), v, block[r][w % 2]);
          }
        }
      }
      for (int r = 0; r < R; ++r) {
        sum[r] = scale.MulAdd(block[r][0] + block[r][1], sum[r]);
        x[r] += kBlock / Math::kPerWord * 4;
      }
    }
  }
};

template <ScaleType kType>
struct IntGemv {
  static constexpr int kBlock = BlockOf(kType);
  static constexpr int64_t kChunk = kIntChunk;
  static constexpr float kUnit = IntegerUnit(kType);
  using Block = IntBlock<kBlock>;
  static int64_t RowBytes(int64_t depth) { return depth / kBlock * sizeof(Block); }

  static void PackRow(const ScaledDotProblem& p, int64_t row, uint8_t* to) {
    PackIntRow<kBlock>(p, row, 0, p.depth, reinterpret_cast<Block*>(to));
  }

  template <int R>
  static JAXFP4_INLINE void AddTile(const Fp4Tile& tile, int64_t size,
                                    const uint8_t* (&x)[R], F (&sum)[R]) {
    for (int64_t i = 0; i < size; i += kBlock) {
      const IntVectors<kBlock> v(tile.codes + i * 8);
      const F scale = OneFactor<kType>(tile.scales + i / kBlock * kLanes);
      for (int r = 0; r < R; ++r) {
        sum[r] = v.MulAdd(*reinterpret_cast<const Block*>(x[r]), scale, sum[r]);
        x[r] += sizeof(Block);
      }
    }
  }
};

}  // namespace
}  // namespace jaxfp4::JAXFP4_TARGET
