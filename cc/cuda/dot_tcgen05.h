// scaled_dot with many rows on sm_100f: operands of four bits, or of eight with block scales, whose
// codes and scales pass to the tensor cores as they are.
//
// Four warps fill a ring of stages in shared memory; one thread copies the scales of each stage to
// tensor memory and starts its products; four warps store the sums, while those of the next tile
// are being made. Blocks stay, and work on tile after tile, the ring running across.
// docs/dev/cuda_kernels.md draws the layouts.
#pragma once

#include "cc/cuda/dot_ring.h"
#include "cc/cuda/tcgen05.h"

namespace jaxfp4::cuda {

template <BlockScaledKind kKind>
struct TensorShape {
  static constexpr int kRows = 128, kCols = 256;  // of a tile: rows of lhs, rows of rhs
  static constexpr int kDepth = kKind == BlockScaledKind::kMxf8f6f4 ? 128 : 256;  // of a stage
  static constexpr int kRowBytes = 128;
  static constexpr int kSteps = 4;  // products a stage: 32 bytes of each row
  static constexpr int kStages = 4;
  static constexpr int kStorers = 4, kFillers = 4;  // warps; one more multiplies
  static constexpr int kThreads = 32 * (kStorers + kFillers + 1);

  // A stage: codes of lhs, codes of rhs, scales. Words of four scales a row are in groups: one of
  // each 128 rows makes a block of 512 bytes.
  static constexpr int kScales =  // of a row
      kDepth / (kKind == BlockScaledKind::kMxf4Nvf4 ? 16 : 32);
  static constexpr int kWords = kScales / 4;
  static constexpr int kBlocks = (kRows + kCols) / 128 * kWords;
  static constexpr int kLhsBytes = kRows * kRowBytes;
  static constexpr int kCodeBytes = (kRows + kCols) * kRowBytes;
  static constexpr int kAlignment = 1024;
  static constexpr int kStageBytes =
      (kCodeBytes + kBlocks * 512 + kAlignment - 1) / kAlignment * kAlignment;
  static constexpr int kBarriers = 2 * kStages + 2;
  static constexpr int kSharedBytes = kAlignment + kStages * kStageBytes + (kBarriers + 1) * 8;

  // Tensor memory: sums of even tiles, of odd tiles, and scales of even and odd stages. Sums of
  // neighbouring tiles overlap, for want of columns: what they share is stored first.
  static constexpr int kColumns = 512, kChunk = 32;
  static constexpr int kScaleColumns = (2 * kBlocks * 4 + kChunk - 1) / kChunk * kChunk;
  static constexpr int kOddSums = kColumns - kScaleColumns - kCols;
  static constexpr int kChunks = kCols / kChunk;
  static constexpr int kOverlap = (kCols - kOddSums) / kChunk;  // chunks
  static_assert(kOddSums >= kCols / 2 && kOddSums <= kCols);

  JAXFP4_HD static uint32_t SumsAt(uint32_t tile) { return tile % 2 * kOddSums; }
  // The chunk to store as number i.
  JAXFP4_HD static uint32_t ChunkOf(uint32_t tile, uint32_t i) {
    return (i + (tile % 2 == 0 ? kChunks - kOverlap : 0)) % kChunks;
  }
  JAXFP4_HD static uint32_t ScalesAt(uint32_t slab) {
    return kColumns - kScaleColumns + slab % 2 * (kBlocks * 4);
  }
};

template <BlockScaledKind kKind>
struct TensorParts {
  using Shape = TensorShape<kKind>;
  using Stages = Ring<Shape>;

  // ---- the warps that fill stages

  // Of each 128 rows in a stage a thread has the scales of one.
  struct Loaded {
    static constexpr int kRows = (Shape::kRows + Shape::kCols) / 128;
    uint32_t scales[kRows][Shape::kWords];

    __device__ void Finish(unsigned char* stage) const {
#pragma unroll
      for (int word = 0; word < Shape::kWords; ++word) {
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
          const int block = word * kRows + i;
          StoreWords<4>(&scales[i][word],
                        stage + Shape::kCodeBytes + block * 512 + threadIdx.x % 128 * 4);
        }
      }
    }
  };

  struct Source : TileSource<Shape> {
    const uint8_t* scales[Loaded::kRows];

    __device__ Source(const DotArgs& a, uint32_t tile) : TileSource<Shape>(a, tile) {
      // Word 4 j + i of a block is of row 32 i + j.
      const uint32_t row = threadIdx.x % 4 * 32 + threadIdx.x % 128 / 4;
      scales[0] = static_cast<const uint8_t*>(a.lhs.scale) + this->LhsScale(a, row);
#pragma unroll
      for (uint32_t i = 1; i < Loaded::kRows; ++i) {
        const uint32_t col = row + 128 * (i - 1);
        scales[i] = static_cast<const uint8_t*>(a.rhs.scale) + this->RhsScale(a, col);
      }
    }
    // Starts copies of slab `slab` to a stage.
    __device__ void Copy(const DotArgs& a, uint32_t slab, unsigned char* stage) const {
      const uint32_t thread = threadIdx.x % 128;
      constexpr int kPieces = Shape::kRowBytes / 16;
      const auto at = [&](uint32_t row, uint32_t piece) {
        return stage + SwizzledAt<Shape::kRowBytes>(row, piece);
      };
      this->template CopyLhs<kPieces>(a, thread, int64_t{slab} * Shape::kRowBytes, at);
      stage += Shape::kLhsBytes;
      this->template CopyRhs<kPieces>(a, thread, int64_t{slab} * Shape::kRowBytes, at);
    }
    __device__ void Load(uint32_t slab, Loaded* loaded) const {
#pragma unroll
      for (int i = 0; i < Loaded::kRows; ++i) {
        LoadWords<Shape::kScales>(scales[i] + int64_t{slab} * Shape::kScales, loaded->scales[i]);
      }
    }
  };

  // ---- the thread that multiplies

  struct Sums {
    uint32_t tensor;               // the address of the block's tensor memory
    uint64_t *finished, *drained;  // barriers: all of a tile's are made; what it shares is stored
  };

  static __device__ void Multiply(const TiledArgs& args, uint32_t product, Stages ring,
                                  const Sums& sums) {
    Stages behind = ring;  // the stage whose scales were where the next ones will be
    uint32_t slab = 0, tile_number = 0;
    for (uint32_t tile = blockIdx.x; tile < args.tiles; tile += gridDim.x, ++tile_number) {
      if (tile_number > 0) WaitFor(sums.drained, (tile_number - 1) & 1);
      const uint32_t to = sums.tensor + Shape::SumsAt(tile_number);
      for (uint32_t k = 0; k < args.dot.depth; k += Shape::kDepth, ++slab) {
        ring.WaitUntilFull();
        if (slab >= 2) {
          behind.WaitUntilUsed();
          behind.Advance();
        }
        AcquireTensor();
        MultiplyStage(ring.At(), product, to, sums.tensor + Shape::ScalesAt(slab), k > 0);
        ArriveWhenDone(ring.Empty(ring.stage));
        ring.Advance();
      }
      ArriveWhenDone(sums.finished);
    }
  }

  static __device__ void MultiplyStage(const unsigned char* stage, uint32_t product, uint32_t sums,
                                       uint32_t scales, bool add) {
    const uint64_t from = DescribeScales(SharedAddress(stage) + Shape::kCodeBytes);
#pragma unroll
    for (uint32_t i = 0; i < Shape::kBlocks; ++i) CopyToTensor(scales + 4 * i, from + 32 * i);
    const uint64_t lhs = DescribeCodes(SharedAddress(stage));
    const uint64_t rhs = DescribeCodes(SharedAddress(stage) + Shape::kLhsBytes);
#pragma unroll
    for (uint32_t step = 0; step < Shape::kSteps; ++step) {
      const uint32_t scale = step * (Shape::kScales / Shape::kSteps);  // the first one's index
      const uint32_t word = scales + scale / 4 * (Loaded::kRows * 4);
      MultiplyTensor<kKind>(sums, lhs + 2 * step, rhs + 2 * step,
                            WithScalesFrom(product, scale % 4), word, word + 4, add || step > 0);
    }
  }

  // ---- the warps that store sums: a row a thread

  template <bool kWide>
  static __device__ void Store(const TiledArgs& args, const Sums& sums) {
    const uint32_t lane0 = threadIdx.x / 32 * 32;
    uint32_t tile_number = 0;
    for (uint32_t tile = blockIdx.x; tile < args.tiles; tile += gridDim.x, ++tile_number) {
      const Place<Shape> place(args.dot, tile);
      const uint32_t row = place.row0 + threadIdx.x;
      const float scale =
          GlobalScale(args.dot, place.batch * args.dot.rows, place.batch * args.dot.cols);
      WaitFor(sums.finished, tile_number & 1);
      AcquireTensor();
#pragma unroll 1
      for (uint32_t i = 0; i < Shape::kChunks; ++i) {
        const uint32_t col = Shape::ChunkOf(tile_number, i) * Shape::kChunk;
        uint32_t chunk[Shape::kChunk];
        LoadTensor(sums.tensor + (lane0 << 16) + Shape::SumsAt(tile_number) + col, chunk);
        WaitForTensor();
        if (i == Shape::kOverlap - 1) {
          ReleaseTensor();
          ArriveAt(sums.drained);
        }
        if (row < args.dot.rows) {
          StoreChunk<kWide>(args.dot, place.batch * args.dot.rows + row, place.col0 + col, scale,
                            chunk);
        }
      }
      ReleaseTensor();
    }
  }

  template <bool kWide>
  static __device__ void StoreChunk(const DotArgs& a, uint32_t row, uint32_t col, float scale,
                                    const uint32_t (&chunk)[Shape::kChunk]) {
    constexpr uint32_t kBytes = kWide ? 4 : 2, kPiece = 16 / kBytes;
    const bool aligned = a.cols % kPiece == 0;
    auto* out = static_cast<unsigned char*>(a.out) + (int64_t{row} * a.cols + col) * kBytes;
#pragma unroll
    for (uint32_t i = 0; i < Shape::kChunk; i += kPiece) {
      uint32_t words[4];
#pragma unroll
      for (uint32_t j = 0; j < 4; ++j) {
        const auto value = [&](uint32_t k) { return One::Float(chunk[i + k]) * scale; };
        words[j] = kWide ? One::Bits(value(j))
                         : NarrowedPair(a.out_dtype, value(2 * j), value(2 * j + 1));
      }
      if (aligned) {
        if (col + i < a.cols) StoreWords<16>(words, out + i * kBytes);
      } else {
        StoreSome<kWide>(words, a.cols > col + i ? a.cols - col - i : 0, out + i * kBytes);
      }
    }
  }
  // The first `count` of sixteen bytes' outputs.
  template <bool kWide>
  static __device__ void StoreSome(const uint32_t (&words)[4], uint32_t count, unsigned char* out) {
    constexpr uint32_t kPiece = kWide ? 4 : 8;
#pragma unroll
    for (uint32_t i = 0; i < kPiece; ++i) {
      if (i >= count) continue;
      if constexpr (kWide) {
        reinterpret_cast<uint32_t*>(out)[i] = words[i];
      } else {
        reinterpret_cast<uint16_t*>(out)[i] = static_cast<uint16_t>(words[i / 2] >> i % 2 * 16);
      }
    }
  }
};

template <BlockScaledKind kKind>
JAXFP4_HD uint32_t ProductOf(const DotArgs& a) {
  const auto element = [](const Operand& x) {
    return x.element == Element::kE4M3 ? TensorElement::kE4M3 : TensorElement::kE5M2;
  };
  constexpr int kCols = TensorShape<kKind>::kCols;
  return kKind == BlockScaledKind::kMxf8f6f4
             ? DescribeProduct<kKind, kCols>(element(a.lhs), element(a.rhs))
             : DescribeProduct<kKind, kCols>(TensorElement::kE2M1, TensorElement::kE2M1);
}

template <BlockScaledKind kKind>
__global__ void __launch_bounds__(TensorShape<kKind>::kThreads, 1)
    TensorKernel(const TiledArgs args) {
  using Parts = TensorParts<kKind>;
  using Shape = typename Parts::Shape;
  constexpr uint32_t kMultiplier = Shape::kStorers + Shape::kFillers;
  const uint32_t warp = threadIdx.x / 32;
  const typename Parts::Stages ring;
  auto* address = reinterpret_cast<uint32_t*>(ring.More() + 2);
  if (threadIdx.x == 0) {
    ring.Init(32 * Shape::kFillers, 1);
    InitBarrier(ring.More(), 1);
    InitBarrier(ring.More() + 1, 32 * Shape::kStorers);
    PublishBarriers();
  }
  if (warp == kMultiplier) TakeTensorMemory<Shape::kColumns>(address);
  ReleaseTensor();
  __syncthreads();
  AcquireTensor();
  const typename Parts::Sums sums = {*address, ring.More(), ring.More() + 1};
  if (warp == kMultiplier) {
    if (ElectOne()) Parts::Multiply(args, ProductOf<kKind>(args.dot), ring, sums);
    __syncwarp();
  } else if (warp >= Shape::kStorers) {
    FillStages<Parts>(args, ring);
  } else if (args.dot.out_dtype == Dtype::kF32) {
    Parts::template Store<true>(args, sums);
  } else {
    Parts::template Store<false>(args, sums);
  }
  __syncthreads();
  AcquireTensor();
  if (warp == kMultiplier) FreeTensorMemory<Shape::kColumns>(sums.tensor);
}

}  // namespace jaxfp4::cuda
