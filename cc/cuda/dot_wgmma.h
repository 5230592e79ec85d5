// scaled_dot with many rows on sm_90a: four-bit weights by bfloat16 or by codes like their own, on
// warpgroup matrix instructions, in bfloat16 with float32 sums. Every code is decoded exactly.
//
// The product is computed transposed: weights, decoded in registers by the warpgroups that multiply
// them, are its left operand; rows of lhs, in shared memory, its right one. One more warpgroup
// fills a ring of stages ahead of those two: copies codes of weights, decodes their scales, and
// copies rows of lhs, or decodes them. Blocks stay, and work on tile after tile, the ring running
// across. docs/dev/cuda_kernels.md draws the layouts.
#pragma once

#include "cc/cuda/dot_routes.h"
#include "cc/cuda/unit.h"
#include "cc/cuda/wgmma.h"

namespace jaxfp4::cuda {

struct WgmmaShape {
  static constexpr int kCols = 256, kRows = 128;  // of a tile: rows of rhs, rows of lhs
  static constexpr int kDepth = 128;              // of a stage
  static constexpr int kStages = 4;
  static constexpr int kMultipliers = 2;  // warpgroups
  static constexpr int kThreads = 128 * (kMultipliers + 1);
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
  static constexpr int kAlignment = 1024;  // of lhs, within the address space
  static constexpr int kBarrierBytes = 2 * kStages * 8;
  static constexpr int kSharedBytes = kAlignment + kStages * kStageBytes + kBarrierBytes;
  static_assert(kStageBytes % kAlignment == 0 && kLhsHalf % kAlignment == 0);

  // Sixteen-byte pieces, placed so that eight rows' lie in different banks.
  JAXFP4_HD static uint32_t LhsAt(uint32_t row, uint32_t piece) {
    return piece / 8 * kLhsHalf + row * 128 + ((piece % 8) ^ (row % 8)) * 16;
  }
  JAXFP4_HD static uint32_t CodesAt(uint32_t row, uint32_t piece) {
    return kLhsBytes + row * 64 + (piece ^ (row / 2 % 4)) * 16;
  }
};

// How one-byte scales multiply codes of e2m1. Placed as bfloat16, codes are their values times
// 2^-126.
template <ScaleType kType>
struct WgmmaScale;

template <>
struct WgmmaScale<ScaleType::kE4M3> {
  static constexpr int kBlock = 16;
  static constexpr int kOutputPower = 8;  // what products lack: scale 2^126 is too large
  static __device__ __forceinline__ uint32_t Factor(uint32_t code) {
    return PairOf(One::Bits(ValueOf<E4M3>(code) * One::Float(PowerBits(126 - kOutputPower))));
  }
  static __device__ __forceinline__ uint32_t Apply(uint32_t placed, uint32_t factor) {
    return MultiplyPairs(placed, factor);
  }
};

template <>
struct WgmmaScale<ScaleType::kE8M0> {
  static constexpr int kBlock = 32;
  static constexpr int kOutputPower = 0;
  static __device__ __forceinline__ uint32_t Factor(uint32_t code) {
    const uint32_t power = code == 0 ? 0x40u : code == 255 ? 0x7fc0u : code << 7;
    return power * 0x10001u;
  }
  static __device__ __forceinline__ uint32_t Apply(uint32_t placed, uint32_t factor) {
    return MultiplyPairs(MultiplyPairs(placed, PairOf(PowerBits(126))), factor);
  }
};

// Codes 2 i and 2 i + 1 of a word, each at the top of its half.
__device__ __forceinline__ uint32_t TopNeighbours(uint32_t word, uint32_t i) {
  return __byte_perm(word << 4, word, i << 4 | (4 + i) << 12);
}

template <ScaleType kType, bool kCodedLhs>
struct WgmmaParts : WgmmaShape {
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

  JAXFP4_HD static uint32_t FactorsAt(uint32_t row, uint32_t scale) {
    const uint32_t at = kScales == 8 ? scale ^ row % 8 / 4 * 4 : scale;  // in different banks
    return kLhsBytes + kCodeBytes + (row * kScales + at) * 4;
  }

  // The stages of a block, used round and round.
  struct Ring {
    unsigned char* stages;
    uint64_t *full, *empty;
    uint32_t stage = 0, round = 0;

    __device__ Ring() {
      auto* memory = static_cast<unsigned char*>(DynamicShared());
      stages = memory + (kAlignment - SharedAddress(memory) % kAlignment) % kAlignment;
      full = reinterpret_cast<uint64_t*>(stages + kStages * kStageBytes);
      empty = full + kStages;
    }
    __device__ unsigned char* At() const { return stages + stage * kStageBytes; }
    __device__ void Advance() {
      if (++stage == kStages) stage = 0, ++round;
    }
  };

  // The output tile with this index.
  struct Place {
    uint32_t batch, row0, col0;
    __device__ Place(const DotArgs& a, uint32_t tile) {
      const uint32_t across = a.tiles_down.Divide(tile);
      batch = a.tiles_across.Divide(across);
      row0 = a.tiles_down.Remainder(tile, across) * kRows;
      col0 = a.tiles_across.Remainder(across, batch) * kCols;
    }
  };

  // ---- the warpgroup that fills stages

  // What a thread holds of a stage between loading and decoding it: the scales of two rows of rhs;
  // and of lhs, if it is coded, a row.
  struct Loaded {
    static constexpr int kScaleWords = kScales / 4;
    uint32_t rhs_scale[2][kScaleWords];
    uint32_t lhs[kCodedLhs ? kDepth / 8 : 1], lhs_scale[kScaleWords];

    static __device__ __forceinline__ uint32_t Factor(const uint32_t* scales, int i) {
      return Scale::Factor(scales[i / 4] >> (8 * (i % 4)) & 255u);
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

  // Where a thread's part of a tile is in memory. Rows beyond the last repeat it.
  struct Source {
    const uint8_t *lhs, *rhs;  // row 0 of the operand's batch entry
    uint32_t last_row, last_col;
    Place place;
    const uint8_t *rhs_scale[2], *lhs_scale;

    __device__ Source(const DotArgs& a, uint32_t tile) : place(a, tile) {
      lhs = a.lhs.data + int64_t{place.batch} * a.rows * a.lhs.row_bytes;
      rhs = a.rhs.data + int64_t{place.batch} * a.cols * a.rhs.row_bytes;
      last_row = a.rows - 1 - place.row0;
      last_col = a.cols - 1 - place.col0;
      const uint32_t thread = threadIdx.x % 128;
#pragma unroll
      for (uint32_t i = 0; i < 2; ++i) {
        const uint32_t col = place.batch * a.cols + place.col0 + Col(thread + 128 * i);
        rhs_scale[i] = static_cast<const uint8_t*>(a.rhs.scale) + RowOf(a.rhs, col).scale;
      }
      if constexpr (kCodedLhs) {
        const uint32_t row = place.batch * a.rows + place.row0 + Row(thread);
        lhs_scale = static_cast<const uint8_t*>(a.lhs.scale) + RowOf(a.lhs, row).scale;
      }
    }
    __device__ uint32_t Row(uint32_t row) const { return row < last_row ? row : last_row; }
    __device__ uint32_t Col(uint32_t col) const { return col < last_col ? col : last_col; }

    // Starts copies of slab `slab` to a stage, and loads what has to be decoded.
    __device__ void Fetch(const DotArgs& a, uint32_t slab, unsigned char* stage,
                          Loaded* loaded) const {
      const uint32_t thread = threadIdx.x % 128;
      const uint8_t* codes = rhs + int64_t{slab} * (kDepth / 2);
#pragma unroll
      for (uint32_t i = 0; i < kCols * 4 / 128; ++i) {  // four pieces a row
        const uint32_t col = i * 32 + thread / 4, piece = thread % 4;
        CopyAsync<16>(stage + CodesAt(col, piece),
                      codes + int64_t{place.col0 + Col(col)} * a.rhs.row_bytes + piece * 16);
      }
      if constexpr (kCodedLhs) {
        LoadWords<kDepth / 2>(lhs + int64_t{place.row0 + Row(thread)} * a.lhs.row_bytes +
                                  int64_t{slab} * (kDepth / 2),
                              loaded->lhs);
        LoadWords<kScales>(lhs_scale + int64_t{slab} * kScales, loaded->lhs_scale);
      } else {
        const uint8_t* floats = lhs + int64_t{slab} * (kDepth * 2);
#pragma unroll
        for (uint32_t i = 0; i < kRows * 16 / 128; ++i) {  // sixteen pieces a row
          const uint32_t row = i * 8 + thread / 16, piece = thread % 16;
          CopyAsync<16>(stage + LhsAt(row, piece),
                        floats + int64_t{place.row0 + Row(row)} * a.lhs.row_bytes + piece * 16);
        }
      }
      CommitCopies();
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        LoadWords<kScales>(rhs_scale[i] + int64_t{slab} * kScales, loaded->rhs_scale[i]);
      }
    }
  };

  // Fetches each slab one ahead of the one it decodes and hands over.
  static __device__ void Produce(const DotArgs& a, uint32_t tiles, Ring ring) {
    Loaded previous, loaded;
    Ring behind = ring;
    bool any = false;
    const auto hand_over = [&] {
      previous.Decode(behind.At());
      PublishShared();
      ArriveAt(behind.full + behind.stage);
      behind.Advance();
    };
    for (uint32_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
      const Source source(a, tile);
      for (uint32_t slab = 0; slab < a.depth / kDepth; ++slab) {
        WaitFor(ring.empty + ring.stage, (ring.round & 1) ^ 1);
        source.Fetch(a, slab, ring.At(), &loaded);
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

  // ---- the warpgroups that multiply

  // Rows of rhs that a thread has elements of: two in each 64 x 16 fragment, of which its warpgroup
  // has two below each other.
  struct Multiplier {
    uint32_t lane, first_col;
    float sum[2][64];

    __device__ Multiplier() {
      lane = threadIdx.x % 32;
      first_col = threadIdx.x / 128 * 128 + threadIdx.x / 32 % 4 * 16 + lane / 4;
    }
    __device__ uint32_t Col(int fragment, int half) const {
      return first_col + static_cast<uint32_t>(fragment * 64 + half * 8);
    }

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
              words[word], lane % 4, factors[word * kFactors / 4]);
        }
      }
    }
    // Rows that were decoded are in the order that suits: a lane takes a word.
    __device__ void DecodeWords(const unsigned char* stage, uint32_t quarter,
                                uint32_t (&a)[2][2][4]) const {
      const uint32_t row8 = first_col - lane / 4 + lane / 16 * 64 + lane / 8 % 2 * 8;
      uint32_t words[4];
      LoadMatrices(words, stage + CodesAt(row8 + lane % 8, quarter));
#pragma unroll
      for (int row = 0; row < 4; ++row) {
        const int fragment = row / 2, half = row % 2;
        uint32_t factor;
        const uint32_t scale = (quarter * 32 + lane % 4 * 8) / Scale::kBlock;
        LoadShared<4>(stage + FactorsAt(Col(fragment, half), scale), &factor);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          a[i / 2][fragment][half + i % 2 * 2] = DecodePair(words[row], i, factor);
        }
      }
    }

    __device__ void Multiply(const uint32_t (&a)[2][2][4], uint64_t rows) {
      BeginMultiply();
#pragma unroll
      for (int step = 0; step < 2; ++step) {
#pragma unroll
        for (int fragment = 0; fragment < 2; ++fragment) {
          MultiplyAsync(sum[fragment], a[step][fragment], rows + 2 * step);
        }
      }
      CommitMultiply();
    }

    __device__ void Clear() {
#pragma unroll
      for (int i = 0; i < 64; ++i) sum[0][i] = sum[1][i] = 0.0f;
    }
  };

  // Of each quarter that is decoded the one before is being multiplied.
  static __device__ void Accumulate(const DotArgs& a, Ring* ring, Multiplier* m) {
    m->Clear();
    uint32_t fragments[2][2][2][4];
    uint64_t* multiplied = nullptr;  // the stage before's barrier
    for (uint32_t slab = 0; slab < a.depth / kDepth; ++slab) {
      WaitFor(ring->full + ring->stage, ring->round & 1);
      const unsigned char* stage = ring->At();
#pragma unroll
      for (uint32_t quarter = 0; quarter < 4; ++quarter) {
        WaitForMultiply<1>();
        if (quarter == 1 && multiplied != nullptr && m->lane == 0) ArriveAt(multiplied);
        if constexpr (kCodedLhs) {
          m->DecodeWords(stage, quarter, fragments[quarter % 2]);
        } else {
          m->DecodeNeighbours(stage, quarter, fragments[quarter % 2]);
        }
        m->Multiply(fragments[quarter % 2],
                    DescribeRows(stage + quarter / 2 * kLhsHalf) + quarter % 2 * 4);
      }
      multiplied = ring->empty + ring->stage;
      ring->Advance();
    }
    WaitForMultiply<0>();
    if (m->lane == 0) ArriveAt(multiplied);
  }

  // Sums are of the transposed tile: sum[f][4 e + 2 h + i] is of row 8 e + 2 (lane % 4) + i.
  template <bool kWide>
  static __device__ void Store(const DotArgs& a, const Place& place, const Multiplier& m) {
    const uint32_t batch_row = place.batch * a.rows;
    const float scale = GlobalScale(a, batch_row, place.batch * a.cols);
    const float power = One::Float(PowerBits((a.lhs.coded ? 2 : 1) * Scale::kOutputPower));
    const uint32_t group = m.lane / 4, thread = m.lane % 4;
#pragma unroll
    for (int i = 0; i < kRows / 8; ++i) {
      const uint32_t row8 = place.row0 + static_cast<uint32_t>(i) * 8;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float x = (m.sum[j / 2][4 * i + j % 2 * 2] * power) * scale;
        const float y = (m.sum[j / 2][4 * i + j % 2 * 2 + 1] * power) * scale;
        const uint32_t col = place.col0 + m.Col(j / 2, j % 2);
        if constexpr (kWide) {
          StoreFloat(a, batch_row, row8 + 2 * thread, col, x);
          StoreFloat(a, batch_row, row8 + 2 * thread + 1, col, y);
        } else {  // two columns of one row, rather than two rows of one column
          const uint32_t pair = TransposeMatrix(NarrowedPair(a.out_dtype, x, y));
          StorePair(a, batch_row, row8 + group, col - group + 2 * thread, pair);
        }
      }
    }
  }

  static __device__ void StoreFloat(const DotArgs& a, uint32_t batch_row, uint32_t row,
                                    uint32_t col, float x) {
    if (row >= a.rows || col >= a.cols) return;
    static_cast<float*>(a.out)[int64_t{batch_row + row} * a.cols + col] = x;
  }
  static __device__ void StorePair(const DotArgs& a, uint32_t batch_row, uint32_t row,
                                   uint32_t col, uint32_t pair) {
    if (row >= a.rows || col >= a.cols) return;
    const int64_t index = int64_t{batch_row + row} * a.cols + col;
    static_cast<uint32_t*>(a.out)[index / 2] = pair;
  }
};

struct WgmmaArgs {
  DotArgs dot;
  uint32_t tiles;
};

template <ScaleType kType, bool kCodedLhs>
__global__ void __launch_bounds__(WgmmaShape::kThreads, 1) WgmmaKernel(const WgmmaArgs args) {
  using Parts = WgmmaParts<kType, kCodedLhs>;
  typename Parts::Ring ring;
  if (threadIdx.x == 0) {
    for (int i = 0; i < Parts::kStages; ++i) {
      InitBarrier(ring.full + i, 128);
      InitBarrier(ring.empty + i, Parts::kMultipliers * 4);  // one thread of each warp
    }
  }
  __syncthreads();
  if (threadIdx.x / 128 == Parts::kMultipliers) {
    GiveRegisters<Parts::kProducerRegisters>();
    Parts::Produce(args.dot, args.tiles, ring);
  } else {
    TakeRegisters<Parts::kMultiplierRegisters>();
    typename Parts::Multiplier multiplier;
    for (uint32_t tile = blockIdx.x; tile < args.tiles; tile += gridDim.x) {
      Parts::Accumulate(args.dot, &ring, &multiplier);
      const typename Parts::Place place(args.dot, tile);
      if (args.dot.out_dtype == Dtype::kF32) {
        Parts::template Store<true>(args.dot, place, multiplier);
      } else {
        Parts::template Store<false>(args.dot, place, multiplier);
      }
    }
  }
}

}  // namespace jaxfp4::cuda
