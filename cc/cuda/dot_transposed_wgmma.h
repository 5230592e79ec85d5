// scaled_dot_transposed with many rows on sm_90a: bfloat16 by the rows of four-bit codes, on the
// pipeline of dot_wgmma.h.
//
// Rows of codes are copied as they lie. ldmatrix, transposing, takes them for 16-bit elements, four
// codes each: a lane gets a word with four columns of one row in its lower half and of the next row
// in its upper one, which decodes to four pairs of neighbours in the depth. So columns of rhs are
// the rows of the left operand, four to a lane, and stored together.
#pragma once

#include "cc/cuda/dot_wgmma.h"

namespace jaxfp4::cuda {

template <ScaleType kType, bool kRowsOfLhs>
struct TransposedWgmmaParts : WgmmaShape {
  using Shape = WgmmaShape;
  using Scale = WgmmaScale<kType>;
  static constexpr int kBlocks = kCols / Scale::kBlock;  // of a tile's row of codes
  static constexpr int kHalf = kCols / 2;                // what a warpgroup multiplies

  JAXFP4_HD static uint32_t CodesAt(uint32_t row, uint32_t piece) {
    return kLhsBytes + row * 128 + (piece ^ (row % 8)) * 16;
  }
  // The factors of a block in 32 rows, pairs of rows: pair 4 j + t at 4 t + j, so that a lane's
  // four lie together. Blocks of neighbouring 32 rows are exchanged: in different banks.
  JAXFP4_HD static uint32_t FactorsAt(uint32_t rows32, uint32_t block) {
    return kLhsBytes + kCodeBytes + (rows32 * kBlocks + (block ^ (rows32 % 2))) * 64;
  }

  // ---- the warpgroup that fills stages

  // The scales of two rows: thread p of either half of the threads has rows 2 p and 2 p + 1, in
  // that half of the columns.
  struct Loaded {
    static constexpr int kScales = kBlocks / 2;
    uint32_t scale[2][kScales / 4];

    __device__ void Decode(unsigned char* stage) const {
      const uint32_t thread = threadIdx.x % 128, pair = thread % 64;
      const uint32_t at = pair % 4 * 4 + pair / 4 % 4;
#pragma unroll
      for (int i = 0; i < kScales; ++i) {
        const uint32_t block = thread / 64 * kScales + static_cast<uint32_t>(i);
        const uint32_t factors = Scale::Factors(ByteOf(scale[0], i), ByteOf(scale[1], i));
        StoreWords<4>(&factors, stage + FactorsAt(pair / 16, block) + at * 4);
      }
    }
  };

  // Where a thread's part of a tile is in memory. What is beyond the last row or column repeats
  // what is there, and is not stored.
  struct Source {
    Place<WgmmaShape> place;
    const uint8_t* codes;  // the thread's first piece, of each slab's the first
    const uint8_t* lhs;
    uint32_t first_scale;  // of the thread's half of the tile, in a row

    __device__ Source(const DotArgs& a, uint32_t tile) : place(a, tile) {
      const uint32_t thread = threadIdx.x % 128;
      const auto column = [&](uint32_t col) {
        return place.col0 + (place.col0 + col < a.cols ? col : col % kHalf);
      };
      codes = a.rhs.data + (int64_t{place.batch} * a.depth + thread / 8) * a.rhs.row_bytes +
              column(thread % 8 * 32) / 2;
      first_scale = column(thread / 64 * kHalf) / Scale::kBlock;
      const uint32_t piece = thread % 16, last = a.rows / 8 - 1, at = place.row0 / 8 + piece;
      lhs = a.lhs.data +
            (kRowsOfLhs ? (int64_t{place.batch} * a.depth + thread / 16) * a.lhs.row_bytes +
                              (at < last ? at : last) * 16
                        : int64_t{place.batch} * a.rows * a.lhs.row_bytes + piece * 16);
    }

    __device__ void Fetch(const DotArgs& a, uint32_t slab, unsigned char* stage,
                          Loaded* loaded) const {
      const uint32_t thread = threadIdx.x % 128;
      const uint8_t* from = codes + int64_t{slab} * (kDepth * a.rhs.row_bytes);
#pragma unroll
      for (uint32_t i = 0; i < kDepth * 8 / 128; ++i) {  // eight pieces a row
        CopyAsync<16>(stage + CodesAt(i * 16 + thread / 8, thread % 8),
                      from + int64_t{i} * 16 * a.rhs.row_bytes);
      }
      from = lhs + int64_t{slab} * (kRowsOfLhs ? kDepth * a.lhs.row_bytes : kDepth * 2);
#pragma unroll
      for (uint32_t i = 0; i < kRows * 16 / 128; ++i) {  // sixteen pieces a row
        CopyAsync<16>(stage + LhsAt(i * 8 + thread / 16, thread % 16),
                      from + LhsRow(a, i * 8 + thread / 16, i * 8) * a.lhs.row_bytes);
      }
      CommitCopies();
      const uint32_t first = place.batch * a.depth + slab * kDepth + thread % 64 * 2;
#pragma unroll
      for (uint32_t i = 0; i < 2; ++i) {
        LoadWords<Loaded::kScales>(static_cast<const uint8_t*>(a.rhs.scale) +
                                       RowOf(a.rhs, first + i).scale + first_scale,
                                   loaded->scale[i]);
      }
    }

    // Rows of memory from `lhs` to row `row` of the tile, `down` from the thread's first.
    __device__ int64_t LhsRow(const DotArgs& a, uint32_t row, uint32_t down) const {
      if (kRowsOfLhs) return down;
      return place.row0 + row < a.rows ? place.row0 + row : a.rows - 1;
    }
  };

  static __device__ void Produce(const WgmmaArgs& args, const Work& work,
                                 const Ring<WgmmaShape>& ring) {
    ProduceSlabs<TransposedWgmmaParts>(args, work, ring);
  }

  // ---- the warpgroups that multiply

  // A warp has 32 columns, a lane four of them: row g + 8 h of its part of fragment f is column
  // 4 g + 2 f + h.
  struct Multiplier : Sums<WgmmaShape> {
    using Sums<WgmmaShape>::Lane, Sums<WgmmaShape>::sum;

    static __device__ uint32_t Piece() { return threadIdx.x / 32; }  // of codes: the warp's
    static __device__ uint32_t Col() { return Piece() * 32 + Lane() / 4 * 4; }

    __device__ void Accumulate(const Work& work, Ring<WgmmaShape>* ring) {
      AccumulateQuarters(work, ring, this);
    }

    __device__ void Decode(const unsigned char* stage, uint32_t quarter,
                           uint32_t (&a)[2][2][4]) const {
      uint32_t words[4], factors[4];
      LoadMatricesTransposed(words, stage + CodesAt(quarter * 32 + Lane(), Piece()));
      const uint32_t block = Col() / WgmmaScale<kType>::kBlock;
      LoadShared<16>(stage + FactorsAt(quarter, block) + Lane() % 4 * 16, factors);
#pragma unroll
      for (int j = 0; j < 4; ++j) {  // rows 8 j + 2 t and 8 j + 2 t + 1
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          a[j / 2][i / 2][i % 2 + j % 2 * 2] =
              WgmmaScale<kType>::Apply(PlacePair<E2M1, 8>(TopPair<E2M1>(&words[j], i)),
                                       factors[j]);
        }
      }
    }

    __device__ void Multiply(const uint32_t (&a)[2][2][4], const unsigned char* stage,
                             uint32_t quarter) {
#pragma unroll
      for (uint32_t step = 0; step < 2; ++step) {
        const uint64_t b =
            kRowsOfLhs ? DescribeColumns(stage, kLhsHalf) + (quarter * 2 + step) * 128
                       : DescribeRows(stage + quarter / 2 * kLhsHalf) + quarter % 2 * 4 + step * 2;
#pragma unroll
        for (int fragment = 0; fragment < 2; ++fragment) {
          MultiplyAsync<kRowsOfLhs>(sum[fragment], a[step][fragment], b);
        }
      }
    }

    // As they are stored: all at once they take more registers than there are.
    __device__ void Scale(const DotArgs&, const Place<WgmmaShape>&) {}

    // sum[f][4 i + 2 h + j] is of row 8 i + 2 (lane % 4) + j and the lane's column 2 f + h.
    template <bool kWide>
    __device__ void Store(const DotArgs& a, const Place<WgmmaShape>& place) const {
      constexpr uint32_t kSize = kWide ? 4 : 2;
      const float global = EntryScale(a, place.batch).global;
      const float power = One::Float(PowerBits(WgmmaScale<kType>::kOutputPower));
      const uint32_t row0 = place.row0 + Lane() % 4 * 2, col = place.col0 + Col();
      if (col >= a.cols) return;
      unsigned char* const out = static_cast<unsigned char*>(a.out) +
                                 (a.out_transposed
                                      ? (int64_t{place.batch} * a.cols + col) * a.rows + row0
                                      : (int64_t{place.batch} * a.rows + row0) * a.cols + col) *
                                     kSize;
#pragma unroll
      for (uint32_t i = 0; i < kRows / 8; ++i) {
        const uint32_t row = row0 + i * 8;
        if (row >= a.rows) break;
        float y[2][4];
#pragma unroll
        for (int j = 0; j < 2; ++j) {
#pragma unroll
          for (int c = 0; c < 4; ++c) {
            y[j][c] = (sum[c / 2][4 * i + c % 2 * 2 + j] * power) * global;
          }
        }
        if (a.out_transposed) {
#pragma unroll
          for (uint32_t c = 0; c < 4; ++c) {
            const float rows[2] = {y[0][c], y[1][c]};
            StoreFloats<kWide>(a.out_dtype, rows,
                               out + uint64_t{c} * (a.rows * kSize) + i * 8 * kSize);
          }
        } else {
          unsigned char* const at = out + uint64_t{i} * (a.cols * 8 * kSize);
          StoreFloats<kWide>(a.out_dtype, y[0], at);
          if (row + 1 < a.rows) StoreFloats<kWide>(a.out_dtype, y[1], at + a.cols * kSize);
        }
      }
    }

    template <bool kWide, int kCount>
    static __device__ void StoreFloats(Dtype dtype, const float (&y)[kCount], unsigned char* at) {
      uint32_t words[kCount];
#pragma unroll
      for (int i = 0; i < kCount; ++i) words[i] = One::Bits(y[i]);
#pragma unroll
      for (int i = 0; !kWide && i < kCount / 2; ++i) {
        words[i] = NarrowedPair(dtype, y[2 * i], y[2 * i + 1]);
      }
      StoreWords<kCount * (kWide ? 4 : 2)>(words, at);
    }
  };
};

}  // namespace jaxfp4::cuda
