// scaled_dot of two operands of four bits, or of eight with block scales, on sm_120f, whose tensor
// cores multiply codes and apply the scales themselves. Codes and scales pass from memory to shared
// memory as they are.
#pragma once

#include "cc/cuda/block_scaled_mma.h"
#include "cc/cuda/dot_mma.h"
#include "cc/cuda/dot_ring.h"

namespace jaxfp4::cuda {

template <BlockScaledKind kKind, Element kLhs, Element kRhs>
struct BlockScaledParts {
  using Shape = MmaShape<1, 128, 128, 128, 2, 4, 1>;
  static constexpr int kRows = Shape::kM + Shape::kN;  // of lhs, then of rhs
  static constexpr int kStages = kKind == BlockScaledKind::kMxf8f6f4 ? 3 : 4;
  static constexpr int kScales = Shape::kK / (kKind == BlockScaledKind::kMxf4Nvf4 ? 16 : 32);
  static constexpr int kRowBytes = kKind == BlockScaledKind::kMxf8f6f4 ? Shape::kK : Shape::kK / 2;
  static constexpr int kSteps = kRowBytes / 32;                 // products a slab
  static constexpr int kPieces = kRowBytes / 16;                // of a row
  static constexpr int kRowsAtOnce = Shape::kThreads / kPieces;  // copied
  static constexpr int kStageBytes = kRows * (kRowBytes + kScales);
  static constexpr int kSharedBytes = kStages * kStageBytes > Shape::kSumBytes
                                          ? kStages * kStageBytes
                                          : Shape::kSumBytes;
  static_assert(Shape::kThreads == kRows && Shape::kM == Shape::kN);

  // Sixteen-byte pieces of a row.
  JAXFP4_HD static uint32_t CodesAt(uint32_t row, uint32_t piece) {
    return SwizzledAt<kRowBytes>(row, piece);
  }
  JAXFP4_HD static uint32_t ScalesAt(uint32_t row) { return kRows * kRowBytes + row * kScales; }

  // What a thread copies of each slab: a piece of each of some rows, and the scales of one.
  struct Source {
    const uint8_t *codes[kPieces], *scales;

    __device__ Source(const DotArgs& a, uint32_t batch, uint32_t row0, uint32_t col0) {
      // Rows beyond the last repeat it, and are not stored.
      const auto lhs = [&](uint32_t i) {
        const uint32_t row = row0 + i;
        return RowOf(a.lhs, batch * a.rows + (row < a.rows ? row : a.rows - 1));
      };
      const auto rhs = [&](uint32_t i) {
        const uint32_t col = col0 + i;
        return RowOf(a.rhs, batch * a.cols + (col < a.cols ? col : a.cols - 1));
      };
#pragma unroll
      for (uint32_t i = 0; i < kPieces; ++i) {
        const uint32_t row = i * kRowsAtOnce + threadIdx.x / kPieces;
        codes[i] = (i < kPieces / 2 ? lhs(row) : rhs(row - Shape::kM)).data +
                   threadIdx.x % kPieces * 16;
      }
      const uint32_t row = threadIdx.x % Shape::kM;
      scales = threadIdx.x < Shape::kM
                   ? static_cast<const uint8_t*>(a.lhs.scale) + lhs(row).scale
                   : static_cast<const uint8_t*>(a.rhs.scale) + rhs(row).scale;
    }
    __device__ void Copy(uint32_t slab, unsigned char* stage) const {
#pragma unroll
      for (uint32_t i = 0; i < kPieces; ++i) {
        const uint32_t row = i * kRowsAtOnce + threadIdx.x / kPieces;
        CopyAsync<16>(stage + CodesAt(row, threadIdx.x % kPieces),
                      codes[i] + int64_t{slab} * kRowBytes);
      }
      CopyAsync<kScales>(stage + ScalesAt(threadIdx.x), scales + int64_t{slab} * kScales);
    }
  };

  static __device__ void Multiply(const unsigned char* stage, WarpTile<Shape>* tile) {
    const uint32_t lane = tile->lane;
    uint32_t lhs_scale[Shape::kTilesM][kScales / 4], rhs_scale[Shape::kTilesN][kScales / 4];
#pragma unroll
    for (uint32_t m = 0; m < Shape::kTilesM; ++m) {
      const uint32_t row = tile->row + m * 16 + lane / 4 + lane % 2 * 8;
      LoadShared<kScales>(stage + ScalesAt(row), lhs_scale[m]);
    }
#pragma unroll
    for (uint32_t n = 0; n < Shape::kTilesN; ++n) {
      const uint32_t col = tile->col + n * 8 + lane / 4;
      LoadShared<kScales>(stage + ScalesAt(Shape::kM + col), rhs_scale[n]);
    }
    MultiplyStep<0>(stage, lhs_scale, rhs_scale, tile);
    MultiplyStep<1>(stage, lhs_scale, rhs_scale, tile);
    if constexpr (kSteps == 4) {
      MultiplyStep<2>(stage, lhs_scale, rhs_scale, tile);
      MultiplyStep<3>(stage, lhs_scale, rhs_scale, tile);
    }
  }

  // 32 bytes of each row.
  template <uint32_t kStep>
  static __device__ void MultiplyStep(const unsigned char* stage,
                                      const uint32_t (&lhs_scale)[Shape::kTilesM][kScales / 4],
                                      const uint32_t (&rhs_scale)[Shape::kTilesN][kScales / 4],
                                      WarpTile<Shape>* tile) {
    constexpr int kScale = kStep * (kScales / kSteps), kWord = kScale / 4, kByte = kScale % 4;
    const uint32_t lane = tile->lane;
    uint32_t b[Shape::kTilesN][2];
#pragma unroll
    for (uint32_t n = 0; n < Shape::kTilesN; n += 2) {
      const uint32_t row = Shape::kM + tile->col + n * 8 + lane / 16 * 8 + lane % 8;
      uint32_t both[4];
      LoadMatrices(both, stage + CodesAt(row, 2 * kStep + lane / 8 % 2));
      b[n][0] = both[0], b[n][1] = both[1];
      b[n + 1][0] = both[2], b[n + 1][1] = both[3];
    }
#pragma unroll
    for (uint32_t m = 0; m < Shape::kTilesM; ++m) {
      uint32_t a[4];
      LoadMatrices(a, stage + CodesAt(tile->row + m * 16 + lane % 16, 2 * kStep + lane / 16));
#pragma unroll
      for (uint32_t n = 0; n < Shape::kTilesN; ++n) {
        MultiplyBlockScaled<kKind, kLhs, kRhs, kByte>(tile->sum[m][n], a, b[n],
                                                      lhs_scale[m][kWord], rhs_scale[n][kWord]);
      }
    }
  }
};

template <BlockScaledKind kKind, Element kLhs, Element kRhs>
__global__ void __launch_bounds__(BlockScaledParts<kKind, kLhs, kRhs>::Shape::kThreads)
    BlockScaledKernel(const DotArgs a) {
  using Parts = BlockScaledParts<kKind, kLhs, kRhs>;
  using Shape = typename Parts::Shape;
  const uint32_t across = a.tiles_down.Divide(blockIdx.x);
  const uint32_t batch = a.tiles_across.Divide(across);
  const uint32_t row0 = a.tiles_down.Remainder(blockIdx.x, across) * Shape::kM;
  const uint32_t col0 = a.tiles_across.Remainder(across, batch) * Shape::kN;
  auto* stages = static_cast<unsigned char*>(DynamicShared());

  const typename Parts::Source source(a, batch, row0, col0);
  const uint32_t slabs = a.depth / Shape::kK;
  const auto copy = [&](uint32_t slab) {
    if (slab < slabs) source.Copy(slab, stages + slab % Parts::kStages * Parts::kStageBytes);
    CommitCopies();
  };
  for (uint32_t slab = 0; slab < Parts::kStages - 1; ++slab) copy(slab);
  WarpTile<Shape> tile;
  for (uint32_t slab = 0; slab < slabs; ++slab) {
    WaitForCopies<Parts::kStages - 2>();
    __syncthreads();  // the slab is there, and the stage of the one before is free
    copy(slab + Parts::kStages - 1);
    Parts::Multiply(stages + slab % Parts::kStages * Parts::kStageBytes, &tile);
  }
  WaitForCopies<0>();
  __syncthreads();
  Finish<Shape>(a, EntryOf(a, batch), row0, col0, tile, tile.sum,
                reinterpret_cast<float*>(stages));
}

}  // namespace jaxfp4::cuda
