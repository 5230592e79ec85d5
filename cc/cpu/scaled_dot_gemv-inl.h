// The product of a few rows of lhs with e2m1 codes that come from memory once: decoded in
// registers.
//
// An output is a sum over chunks of sums within chunks of block sums. A scheme says what a block
// is:
//   RowBytes, PackRow    a decoded row of lhs
//   AddTile<R>           adds the blocks of a tile to the sums of R rows
//   kSums                how many sums a row has, which are folded by halves after a chunk
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
  static constexpr int kSums = Scheme::kSums;
  using Rows = Fp4Rows<Scheme::kBlock>;

  void Columns(int64_t b, int64_t n) const {
    const FinalScale scale(p_, b, n, Scheme::kUnit);
    Rows rows(p_, b, n);
    for (int64_t m = 0; m < p_.rows;) {
      m += Outputs(p_.rows - m, b * p_.rows + m, n, rows, scale);
    }
  }

  // Of the first 4, 2 or 1 of `count` rows of lhs; returns how many.
  template <int R = 4>
  int Outputs(int64_t count, int64_t row, int64_t n, Rows& rows, const FinalScale& scale) const {
    if constexpr (R > 1) {
      if (count < R) return Outputs<R / 2>(count, row, n, rows, scale);
    }
    const uint8_t* x[R];
    for (int r = 0; r < R; ++r) x[r] = lhs_ + (row + r) * row_bytes_;
    F total[R];
    for (int64_t k = 0; k < p_.depth; k += Scheme::kChunk) {
      const int64_t end = Min64(k + Scheme::kChunk, p_.depth);
      F sum[R][kSums] = {};
      for (int64_t t = k; t < end; t += kTileDepth) {
        const int64_t size = Min64(kTileDepth, end - t);
        Scheme::template AddTile<R>(rows.Load(t, size), size, x, sum);
      }
      for (int r = 0; r < R; ++r) {
        const F folded = Folded(sum[r]);
        total[r] = k == 0 ? folded : total[r] + folded;
      }
    }
    for (int r = 0; r < R; ++r) scale.Store(p_, row + r, n, total[r]);
    return R;
  }

  template <int n>
  static JAXFP4_INLINE F Folded(const F (&sum)[n]) {
    if constexpr (n == 1) {
      return sum[0];
    } else {
      F half[n / 2];
#pragma GCC unroll 4
      for (int i = 0; i < n / 2; ++i) half[i] = sum[i] + sum[i + n / 2];
      return Folded(half);
    }
  }

  const ScaledDotProblem& p_;
  Parallel& parallel_;
  const int64_t row_bytes_;
  uint8_t* lhs_ = nullptr;
};

// ---- schemes

template <ScaleType kType>
struct FloatGemv {
  static constexpr int kBlock = BlockOf(kType);
  static constexpr int64_t kChunk = Float32::kChunk;
  static constexpr int kSums = 1;
  static constexpr float kUnit = 1.0f;
  static int64_t RowBytes(int64_t depth) { return RoundUp(depth, 2 * kLanes) * 4; }

  static void PackRow(const ScaledDotProblem& p, int64_t row, uint8_t* to) {
    float* x = reinterpret_cast<float*>(to);
    for (int64_t k = 0; k < p.depth; k += kChunk) {
      DecodeRow(p.lhs, row, p.depth, k, Min64(k + kChunk, p.depth), x + k);
    }
  }

  template <int R>
  static JAXFP4_INLINE void AddTile(const Fp4Tile& tile, int64_t size,
                                    const uint8_t* (&x)[R], F (&sum)[R][1]) {
    const uint32_t* codes = reinterpret_cast<const uint32_t*>(tile.codes);
    for (int64_t i = 0; i < size / kBlock; ++i) {
      const Scale16<kType> scale(tile.scales + i * kLanes);
      tile.Prefetch(i * kBlock, kBlock);
      F block[R][2];  // two chains of sums
      for (int r = 0; r < R; ++r) block[r][0] = block[r][1] = Zero();
#pragma GCC unroll 4
      for (int j = 0; j < kBlock / 8; ++j, codes += kLanes) {
        const U c = Held(LoadU32(codes));
#pragma GCC unroll 8
        for (int w = 0; w < 8; ++w) {
          const F v = LookUpE2M1(c >> (4 * w));
          for (int r = 0; r < R; ++r) {
            const F word(reinterpret_cast<const float*>(x[r])[j * 8 + w]);
            block[r][w % 2] = Lanes::MulAdd(word, v, block[r][w % 2]);
          }
        }
      }
      for (int r = 0; r < R; ++r) {
        sum[r][0] = scale.MulAdd(block[r][0] + block[r][1], sum[r][0]);
        x[r] += kBlock * 4;
      }
    }
  }
};

template <ScaleType kType>
struct IntGemv {
  static constexpr int kBlock = BlockOf(kType);
  static constexpr int64_t kChunk = kIntChunk;
  static constexpr int kSums = 1;
  static constexpr float kUnit = IntegerUnit(kType);
  using Block = IntBlock<kBlock>;
  static int64_t RowBytes(int64_t depth) { return depth / kBlock * sizeof(Block); }

  static void PackRow(const ScaledDotProblem& p, int64_t row, uint8_t* to) {
    PackIntRow<kBlock>(p, row, 0, p.depth, reinterpret_cast<Block*>(to));
  }

  template <int R>
  static JAXFP4_INLINE void AddTile(const Fp4Tile& tile, int64_t size,
                                    const uint8_t* (&x)[R], F (&sums)[R][1]) {
    F sum[R];  // in registers
    for (int r = 0; r < R; ++r) sum[r] = sums[r][0];
    for (int64_t i = 0; i < size; i += kBlock) {
      const IntVectors<kBlock> v(tile.codes + i * 8);
      const F scale = OneFactor<kType>(tile.scales + i / kBlock * kLanes);
      tile.Prefetch(i, kBlock);
      for (int r = 0; r < R; ++r) {
        sum[r] = v.MulAdd(*reinterpret_cast<const Block*>(x[r]), scale, sum[r]);
        x[r] += sizeof(Block);
      }
    }
    for (int r = 0; r < R; ++r) sums[r][0] = sum[r];
  }
};

}  // namespace
}  // namespace jaxfp4::JAXFP4_TARGET
