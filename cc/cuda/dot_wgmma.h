// scaled_dot with many rows on sm_90a: four-bit weights by bfloat16 or by codes like their own, on
// warpgroup matrix instructions, in bfloat16 with float32 sums. Every code is decoded exactly.
//
// The multiplying warpgroups decode the weights in their registers. The producer copies codes of
// weights, decodes their scales, and copies rows of lhs, or decodes them.
// docs/dev/cuda_kernels.md draws the layouts.
#pragma once

#include "cc/cuda/dot_warpgroups.h"

namespace jaxfp4::cuda {

struct WgmmaShape : WarpgroupTile<128, 2, 2> {
  static constexpr int kStages = 4;
  static constexpr bool kJoins = false;  // there are many tiles
  // Of a thread: 128 of them are sums. In all, as many as the kernel starts with.
  static constexpr int kMultiplierRegisters = 192, kProducerRegisters = 120;
  static constexpr int kStartRegisters = 168;
  static_assert(kMultipliers * kMultiplierRegisters + kProducerRegisters <=
                (kMultipliers + 1) * kStartRegisters);

  // A stage: rows of lhs, codes of rhs, factors of rhs.
  static constexpr int kLhsHalf = kRows * 128;  // 64 of the depth
  static constexpr int kLhsBytes = 2 * kLhsHalf;
  static constexpr int kCodeBytes = kCols * kDepth / 2;
  static constexpr int kFactorBytes = kCols * (kDepth / 16) * 4;  // at most
  static constexpr int kStageBytes = kLhsBytes + kCodeBytes + kFactorBytes;
  static constexpr int kSharedBytes = SharedBytes(kStages, kStageBytes, 0);
  static_assert(kStageBytes % kAlignment == 0 && kLhsHalf % kAlignment == 0);

  // Sixteen-byte pieces, placed so that eight rows' lie in different banks.
  JAXFP4_HD static uint32_t LhsAt(uint32_t row, uint32_t piece) {
    return piece / 8 * kLhsHalf + row * 128 + ((piece % 8) ^ (row % 8)) * 16;
  }
};

__device__ __forceinline__ uint32_t ByteOf(const uint32_t* words, int i) {
  return words[i / 4] >> (8 * (i % 4)) & 255u;
}

// How one-byte scales multiply codes of e2m1. Placed as bfloat16, codes are their values times
// 2^-126.
template <ScaleType kType>
struct WgmmaScale;

template <>
struct WgmmaScale<ScaleType::kE4M3> {
  static constexpr int kBlock = 16;
  static constexpr int kOutputPower = 8;  // what products lack: scale 2^126 is too large
  // A pair of factors.
  static __device__ __forceinline__ uint32_t Factors(uint32_t low, uint32_t high) {
    const auto bits = [](uint32_t code) {
      return One::Bits(ValueOf<E4M3>(code) * One::Float(PowerBits(126 - kOutputPower)));
    };
    return __byte_perm(bits(low), bits(high), 0x7632);
  }
  static __device__ __forceinline__ uint32_t Apply(uint32_t placed, uint32_t factor) {
    return MultiplyPairs(placed, factor);
  }
};

template <>
struct WgmmaScale<ScaleType::kE8M0> {
  static constexpr int kBlock = 32;
  static constexpr int kOutputPower = 0;
  static __device__ __forceinline__ uint32_t Factors(uint32_t low, uint32_t high) {
    const auto power = [](uint32_t code) {
      return code == 0 ? 0x40u : code == 255 ? 0x7fc0u : code << 7;
    };
    return power(low) | power(high) << 16;
  }
  static __device__ __forceinline__ uint32_t Apply(uint32_t placed, uint32_t factor) {
    return MultiplyPairs(MultiplyPairs(placed, PairOf(PowerBits(126))), factor);
  }
};

// Codes 2 i and 2 i + 1 of a word, each at the top of its half.
__device__ __forceinline__ uint32_t TopNeighbours(uint32_t word, uint32_t i) {
  return __byte_perm(word << 4, word, i << 4 | (4 + i) << 12);
}

// Fetches each slab one ahead of the one it decodes and hands over.
template <class Parts>
__device__ void ProduceSlabs(const WgmmaArgs& args, Work work, Ring<WgmmaShape> ring) {
  typename Parts::Loaded previous, loaded;
  Ring<WgmmaShape> behind = ring;
  bool any = false;
  const auto hand_over = [&] {
    previous.Decode(behind.At());
    behind.HandOver();
  };
  for (; work.tile < args.tiles; work.tile += work.step) {
    const typename Parts::Source source(args.dot, work.tile);
    for (uint32_t slab = work.first_slab; slab < work.last_slab; ++slab) {
      ring.WaitUntilEmpty();
      source.Fetch(args.dot, slab, ring.At(), &loaded);
      ring.Advance();
      WaitForCopies<1>();
      if (any) hand_over();
      previous = loaded;
      any = true;
    }
  }
  WaitForCopies<0>();
  if (any) hand_over();
}

// Of each quarter that is decoded the one before is being multiplied.
template <class Multiplier>
__device__ void AccumulateQuarters(const Work& work, Ring<WgmmaShape>* ring, Multiplier* m) {
  m->Clear();
  uint32_t fragments[2][2][2][4];
  uint64_t* multiplied = nullptr;  // the stage before's barrier
  for (uint32_t slab = work.first_slab; slab < work.last_slab; ++slab) {
    ring->WaitUntilFull();
    const unsigned char* stage = ring->At();
#pragma unroll
    for (uint32_t quarter = 0; quarter < 4; ++quarter) {
      WaitForMultiply<1>();
      if (quarter == 1 && multiplied != nullptr && m->Lane() == 0) ArriveAt(multiplied);
      m->Decode(stage, quarter, fragments[quarter % 2]);
      BeginMultiply();
      m->Multiply(fragments[quarter % 2], stage, quarter);
      CommitMultiply();
    }
    multiplied = ring->Empty(ring->stage);
    ring->Advance();
  }
  WaitForMultiply<0>();
  HoldSums(m->sum[0]);
  HoldSums(m->sum[1]);
  if (m->Lane() == 0) ArriveAt(multiplied);
}

template <ScaleType kType, bool kCodedLhs>
struct WgmmaParts : WgmmaShape {
  using Shape = WgmmaShape;
  using Scale = WgmmaScale<kType>;
  static constexpr int kScales = kDepth / Scale::kBlock;  // of a row's stage

  // Codes 2 i and 2 i + 1 of a word.
  static __device__ __forceinline__ uint32_t DecodeNeighbours(uint32_t word, uint32_t i,
                                                              uint32_t factor) {
    return Scale::Apply(PlacePair<E2M1, 8>(TopNeighbours(word, i)), factor);
  }
  // Codes i and i + 4 of a word: less work.
  static __device__ __forceinline__ uint32_t DecodePair(uint32_t word, int i, uint32_t factor) {
    return Scale::Apply(PlacePair<E2M1, 8>(TopPair<E2M1>(&word, i)), factor);
  }

  JAXFP4_HD static uint32_t CodesAt(uint32_t row, uint32_t piece) {
    return kLhsBytes + row * 64 + (piece ^ (row / 2 % 4)) * 16;
  }
  JAXFP4_HD static uint32_t FactorsAt(uint32_t row, uint32_t scale) {
    const uint32_t at = kScales == 8 ? scale ^ row % 8 / 4 * 4 : scale;  // in different banks
    return kLhsBytes + kCodeBytes + (row * kScales + at) * 4;
  }

  // ---- the warpgroup that fills stages

  // What a thread holds of a stage between loading and decoding it: the scales of two rows of rhs;
  // and of lhs, if it is coded, a row.
  struct Loaded {
    static constexpr int kScaleWords = kScales / 4;
    uint32_t rhs_scale[2][kScaleWords];
    uint32_t lhs[kCodedLhs ? kDepth / 8 : 1], lhs_scale[kScaleWords];

    static __device__ __forceinline__ uint32_t Factor(const uint32_t* scales, int i) {
      const uint32_t code = ByteOf(scales, i);
      return Scale::Factors(code, code);
    }

    __device__ void Decode(unsigned char* stage) const {
      const uint32_t thread = threadIdx.x % 128;
#pragma unroll
      for (uint32_t i = 0; i < 2; ++i) {
#pragma unroll
        for (int s = 0; s < kScales; s += 4) {
          uint32_t factors[4];
#pragma unroll
          for (int j = 0; j < 4; ++j) factors[j] = Factor(rhs_scale[i], s + j);
          StoreWords<16>(factors, stage + FactorsAt(thread + 128 * i, static_cast<uint32_t>(s)));
        }
      }
      if constexpr (kCodedLhs) {
#pragma unroll
        for (uint32_t quarter = 0; quarter < 4; ++quarter) DecodeLhs(quarter, stage);
      }
    }

    // 32 of the depth: four words. A fragment's columns 2 t, 2 t + 1 are a pair of word t.
    __device__ void DecodeLhs(uint32_t quarter, unsigned char* stage) const {
      uint32_t pairs[4][4];
#pragma unroll
      for (uint32_t t = 0; t < 4; ++t) {
        const uint32_t word = 4 * quarter + t;
        const uint32_t factor = Factor(lhs_scale, static_cast<int>(word) * 8 / Scale::kBlock);
#pragma unroll
        for (int i = 0; i < 4; ++i) pairs[i][t] = DecodePair(lhs[word], i, factor);
      }
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) {
        StoreWords<16>(pairs[i], stage + LhsAt(threadIdx.x % 128, 4 * quarter + i));
      }
    }
  };

  struct Source : TileSource<WgmmaShape> {
    const uint8_t *rhs_scale[2], *lhs_scale;

    __device__ Source(const DotArgs& a, uint32_t tile) : TileSource<WgmmaShape>(a, tile) {
      const uint32_t thread = threadIdx.x % 128;
#pragma unroll
      for (uint32_t i = 0; i < 2; ++i) {
        rhs_scale[i] = static_cast<const uint8_t*>(a.rhs.scale) + RhsScale(a, thread + 128 * i);
      }
      if constexpr (kCodedLhs) {
        lhs_scale = static_cast<const uint8_t*>(a.lhs.scale) + LhsScale(a, thread);
      }
    }

    // Starts copies of slab `slab` to a stage, and loads what has to be decoded.
    __device__ void Fetch(const DotArgs& a, uint32_t slab, unsigned char* stage,
                          Loaded* loaded) const {
      const uint32_t thread = threadIdx.x % 128;
      CopyRhs<4>(a, thread, int64_t{slab} * (kDepth / 2), [&](uint32_t col, uint32_t piece) {
        return stage + CodesAt(col, piece);
      });
      if constexpr (kCodedLhs) {
        LoadWords<kDepth / 2>(
            lhs + Row(thread) * a.lhs.row_bytes + int64_t{slab} * (kDepth / 2), loaded->lhs);
        LoadWords<kScales>(lhs_scale + int64_t{slab} * kScales, loaded->lhs_scale);
      } else {
        CopyLhs<16>(a, thread, int64_t{slab} * (kDepth * 2), [&](uint32_t row, uint32_t piece) {
          return stage + LhsAt(row, piece);
        });
      }
      CommitCopies();
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        LoadWords<kScales>(rhs_scale[i] + int64_t{slab} * kScales, loaded->rhs_scale[i]);
      }
    }
  };

  static __device__ void Produce(const WgmmaArgs& args, const Work& work,
                                 const Ring<WgmmaShape>& ring) {
    ProduceSlabs<WgmmaParts>(args, work, ring);
  }

  // ---- the warpgroups that multiply

  struct Multiplier : Sums<WgmmaShape> {
    // A quarter of a stage: 32 of the depth, two fragments deep. Rows of lhs that were copied are
    // in the order of memory, and so must be the fragments: a lane takes a byte of each word.
    __device__ void DecodeNeighbours(const unsigned char* stage, uint32_t quarter,
                                     uint32_t (&a)[2][2][4]) const {
      constexpr int kFactors = 32 / Scale::kBlock;
#pragma unroll
      for (int row = 0; row < 4; ++row) {
        const int fragment = row / 2, half = row % 2;
        const uint32_t col = Col(fragment, half);
        uint32_t words[4], factors[kFactors];
        LoadShared<16>(stage + CodesAt(col, quarter), words);
        LoadShared<kFactors * 4>(stage + FactorsAt(col, quarter * kFactors), factors);
#pragma unroll
        for (int word = 0; word < 4; ++word) {
          a[word / 2][fragment][half + word % 2 * 2] = WgmmaParts::DecodeNeighbours(
              words[word], Lane() % 4, factors[word * kFactors / 4]);
        }
      }
    }
    // Rows that were decoded are in the order that suits: a lane takes a word.
    __device__ void DecodeWords(const unsigned char* stage, uint32_t quarter,
                                uint32_t (&a)[2][2][4]) const {
      const uint32_t row8 = FirstCol() - Lane() / 4 + Lane() / 16 * 64 + Lane() / 8 % 2 * 8;
      uint32_t words[4];
      LoadMatrices(words, stage + CodesAt(row8 + Lane() % 8, quarter));
#pragma unroll
      for (int row = 0; row < 4; ++row) {
        const int fragment = row / 2, half = row % 2;
        uint32_t factor;
        const uint32_t scale = (quarter * 32 + Lane() % 4 * 8) / Scale::kBlock;
        LoadShared<4>(stage + FactorsAt(Col(fragment, half), scale), &factor);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          a[i / 2][fragment][half + i % 2 * 2] = DecodePair(words[row], i, factor);
        }
      }
    }

    __device__ void Decode(const unsigned char* stage, uint32_t quarter,
                           uint32_t (&a)[2][2][4]) const {
      if constexpr (kCodedLhs) {
        DecodeWords(stage, quarter, a);
      } else {
        DecodeNeighbours(stage, quarter, a);
      }
    }

    __device__ void Multiply(const uint32_t (&a)[2][2][4], const unsigned char* stage,
                             uint32_t quarter) {
      const uint64_t rows = DescribeRows(stage + quarter / 2 * kLhsHalf) + quarter % 2 * 4;
#pragma unroll
      for (int step = 0; step < 2; ++step) {
#pragma unroll
        for (int fragment = 0; fragment < 2; ++fragment) {
          MultiplyAsync<false>(sum[fragment], a[step][fragment], rows + 2 * step);
        }
      }
    }

    __device__ void Accumulate(const Work& work, Ring<WgmmaShape>* ring) {
      AccumulateQuarters(work, ring, this);
    }

    __device__ void Scale(const DotArgs& a, const Place<WgmmaShape>& place) {
      const float scale = GlobalScale(a, place.batch * a.rows, place.batch * a.cols);
      const float power =
          One::Float(PowerBits((a.lhs.coded ? 2 : 1) * WgmmaScale<kType>::kOutputPower));
#pragma unroll
      for (int i = 0; i < 128; ++i) sum[i / 64][i % 64] = (sum[i / 64][i % 64] * power) * scale;
    }
  };
};

}  // namespace jaxfp4::cuda
