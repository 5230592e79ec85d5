// scaled_dot on tensor cores, in bfloat16 with float32 sums: units of both operands are decoded,
// exactly, on their way from memory to shared memory, where warps fetch their fragments from.
// Floats wider than bfloat16 become a sum of several terms, and a product for each.
//
// While a block multiplies one slab of the depth it loads the next into registers; the slab is
// decoded into the other of two buffers afterwards.
#pragma once

#include "cc/cuda/dot_routes.h"
#include "cc/cuda/unit.h"

namespace jaxfp4::cuda {

// A tile of an operand in shared memory, kOutputs by kDepth, in rows as the operand's memory has
// them: along the depth, or across it.
template <int kOutputs, int kDepth, bool kAcrossDepth>
struct StagedTile {
  static constexpr bool kTransposed = kAcrossDepth;
  static constexpr int kRows = kTransposed ? kDepth : kOutputs;
  static constexpr int kUnits = (kTransposed ? kOutputs : kDepth) / kUnit;  // of a row
  // Rows are 16 bytes longer than they need, so that eight of them lie in different banks.
  static constexpr int kStride = kUnits * 32 + 16;
  static constexpr int kBytes = kRows * kStride;
  static_assert(kStride / 16 % 2 == 1);

  static constexpr uint32_t At(uint32_t output, uint32_t depth) {  // a byte
    return kTransposed ? depth * kStride + output * 2 : output * kStride + depth * 2;
  }
  // Row `row` of the 8 x 8 matrix at a place.
  static __device__ uint32_t MatrixRow(uint32_t output, uint32_t depth, uint32_t row) {
    return At(output, depth) + row * kStride;
  }
  static __device__ __forceinline__ void LoadFragment(uint32_t (&r)[4], const void* row) {
    if constexpr (kTransposed) {
      LoadMatricesTransposed(r, row);
    } else {
      LoadMatrices(r, row);
    }
  }
};

// A block of kThreads computes kM x kN outputs, kK of the depth at a time. Its warps are kWarpsM x
// kWarpsN over the outputs, times kWarpsK over each slab: those share outputs, and their sums are
// joined last. Rows of rhs are contracted if kRowsOfRhs, and of lhs if kRowsOfLhs.
template <int kTermCount, int kTileM, int kTileN, int kSlab, int kWarpRows, int kWarpCols,
          int kWarpSlices, bool kRowsOfRhs = false, bool kRowsOfLhs = false>
struct MmaShape {
  static constexpr int kTerms = kTermCount;
  static constexpr int kM = kTileM, kN = kTileN, kK = kSlab;
  static constexpr int kWarpsM = kWarpRows, kWarpsN = kWarpCols, kWarpsK = kWarpSlices;
  static constexpr int kThreads = 32 * kWarpsM * kWarpsN * kWarpsK;
  static constexpr int kSlice = kK / kWarpsK;        // of the slab, a warp's
  static constexpr int kTilesM = kM / kWarpsM / 16;  // fragments of a warp
  static constexpr int kTilesN = kN / kWarpsN / 8;
  using Lhs = StagedTile<kM, kK, kRowsOfLhs>;
  using Rhs = StagedTile<kN, kK, kRowsOfRhs>;
  static constexpr bool kTransposed = Rhs::kTransposed;
  static constexpr int kLhsWords = kTerms == 3 ? 16 : 8;  // of a unit in memory, at most
  // At a time on a multiprocessor, if that is worth registers: large tiles of one term or two.
  static constexpr int kBlocks = kWarpsK == 1 && kTerms < 3 ? 2 : 0;
  // A buffer: each term of lhs, then rhs.
  static constexpr int kRhsAt = kTerms * Lhs::kBytes;
  static constexpr int kBufferBytes = kRhsAt + Rhs::kBytes;
  // After the buffers, where scales multiply lhs: those of a slab.
  static constexpr int kScaleBytes = kTransposed && kTerms == 3 ? kK * 4 : 0;
  // Sums lie as the outputs do.
  static constexpr int kRowStride = kN + 8, kColStride = kM + 8;
  static constexpr int kSliceSums = kTransposed && kN * kColStride > kM * kRowStride
                                        ? kN * kColStride
                                        : kM * kRowStride;
  static constexpr int kSumBytes = kWarpsK * kSliceSums * 4;
  static constexpr int kStagedBytes = 2 * kBufferBytes + kScaleBytes;
  static constexpr int kSharedBytes = kStagedBytes > kSumBytes ? kStagedBytes : kSumBytes;

  static_assert(Lhs::kRows * Lhs::kUnits % kThreads == 0);
  static_assert(Rhs::kRows * Rhs::kUnits % kThreads == 0);
  static_assert(kSlice % 16 == 0 && kTilesN % 2 == 0);
};

// Few rows: warps share the depth. Many rows: warps share the outputs.
template <int kTerms>
using SmallShape = MmaShape<kTerms, 32, 32, kTerms == 1 ? 256 : 128, 1, 1, 8>;
template <int kTerms>
using LargeShape = MmaShape<kTerms, 128, 128, kTerms == 1 ? 64 : 32, 2, 4, 1>;

// The units of a tile that a thread moves: where they are in memory, and the ones loaded last.
template <class Tile, int kThreads, int kWords>
struct Units {
  static constexpr int kCount = Tile::kRows * Tile::kUnits / kThreads;
  Row row[kCount];
  uint32_t first_unit;  // of the tile, where its rows are contracted
  uint32_t words[kCount][kWords], scale[kCount];

  // Unit i of this thread: its row of the tile, and the place in the row, which all i share.
  static __device__ uint32_t RowAt(int i) {
    return threadIdx.x / Tile::kUnits + static_cast<uint32_t>(i * (kThreads / Tile::kUnits));
  }
  static __device__ uint32_t Place() { return threadIdx.x % Tile::kUnits; }
  static __device__ uint32_t ByteAt(int i) { return RowAt(i) * Tile::kStride + Place() * 32; }
  static_assert(kThreads % Tile::kUnits == 0);

  // `outputs`: rows or columns of the result, of which the tile begins at `first`. Those beyond the
  // last repeat it, and are not stored.
  __device__ void Start(const Operand& x, uint32_t base, uint32_t first, uint32_t outputs) {
    first_unit = first / kUnit;
    if constexpr (!Tile::kTransposed) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        const uint32_t at = first + RowAt(i);
        row[i] = RowOf(x, base + (at < outputs ? at : outputs - 1));
      }
    }
  }

  // Whether unit i of a slab is within the depth.
  static __device__ bool IsInside(uint32_t slab, uint32_t depth, int i) {
    return Tile::kTransposed ? slab * Tile::kRows + RowAt(i) < depth
                             : slab * Tile::kUnits + Place() < depth / kUnit;
  }

  __device__ void Load(const DotArgs& a, const Operand& x, uint32_t base, uint32_t outputs,
                       uint32_t slab) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      if (!IsInside(slab, a.depth, i)) continue;
      uint32_t unit = slab * Tile::kUnits + Place();
      if constexpr (Tile::kTransposed) {
        const uint32_t last = outputs / kUnit - 1;
        unit = first_unit + Place() < last ? first_unit + Place() : last;
        row[i] = RowOf(x, base + slab * Tile::kRows + RowAt(i));
      }
      LoadUnit(x, row[i], unit, words[i]);
      scale[i] = LoadScaleCode(x, row[i], unit);
    }
  }
};

// What a thread carries from one slab to the next.
template <class S>
struct Slab {
  Units<typename S::Lhs, S::kThreads, S::kLhsWords> lhs;
  Units<typename S::Rhs, S::kThreads, 4> rhs;

  __device__ void Start(const DotArgs& a, const Entry& entry, uint32_t row0, uint32_t col0) {
    lhs.Start(a.lhs, entry.lhs_row, row0, entry.rows);
    rhs.Start(a.rhs, entry.rhs_row, col0, a.cols);
  }
  __device__ void Load(const DotArgs& a, const Entry& entry, uint32_t slab) {
    lhs.Load(a, a.lhs, entry.lhs_row, entry.rows, slab);
    rhs.Load(a, a.rhs, entry.rhs_row, a.cols, slab);
  }

  // Decodes what was loaded into a buffer; zeros beyond the depth.
  __device__ void Store(const DotArgs& a, uint32_t slab, const float* scales,
                        unsigned char* buffer) const {
#pragma unroll
    for (int i = 0; i < lhs.kCount; ++i) {
      uint32_t pairs[S::kTerms][kPairs] = {};
      if (lhs.IsInside(slab, a.depth, i)) DecodeLhs(a, i, scales, pairs);
#pragma unroll
      for (int t = 0; t < S::kTerms; ++t) {
        StoreWords<32>(pairs[t], buffer + t * S::Lhs::kBytes + lhs.ByteAt(i));
      }
    }
#pragma unroll
    for (int i = 0; i < rhs.kCount; ++i) {
      uint32_t pairs[kPairs] = {};
      if (rhs.IsInside(slab, a.depth, i)) DecodePairs(a.rhs, rhs.words[i], rhs.scale[i], pairs);
      StoreWords<32>(pairs, buffer + S::kRhsAt + rhs.ByteAt(i));
    }
  }

  __device__ void DecodeLhs(const DotArgs& a, int i, const float* scales,
                            uint32_t (&pairs)[S::kTerms][kPairs]) const {
    const Operand& x = a.lhs;
    if constexpr (S::kTransposed) {
      DecodeNeighbours(a, i, scales, pairs);
    } else if constexpr (S::kTerms > 1) {
      SplitFloats<S::kTerms>(S::kTerms == 3 ? Dtype::kF32 : Dtype::kF16, lhs.words[i], pairs);
    } else if (x.coded) {
      DecodePairs(x, lhs.words[i], lhs.scale[i], pairs[0]);
    } else {
      ReorderPairs(lhs.words[i], pairs[0]);
    }
  }

  // Rows of rhs are neighbours in the depth, and so must be the elements of lhs.
  __device__ void DecodeNeighbours(const DotArgs& a, int i, const float* scales,
                                   uint32_t (&pairs)[S::kTerms][kPairs]) const {
    if constexpr (S::kTerms == 1) {
#pragma unroll
      for (int p = 0; p < kPairs; ++p) pairs[0][p] = lhs.words[i][p];
    } else {
      float x[kUnit];
      WidenUnit<S::kTerms == 3>(a.lhs.dtype, lhs.words[i], x);
      if (S::kTerms == 3 && a.scales_in_lhs) {
#pragma unroll
        for (int j = 0; j < kUnit; ++j) {
          x[j] *= scales[S::Lhs::kTransposed ? lhs.RowAt(i)
                                             : lhs.Place() * kUnit + static_cast<uint32_t>(j)];
        }
      }
#pragma unroll
      for (int p = 0; p < kPairs; ++p) SplitPair<S::kTerms>(x[2 * p], x[2 * p + 1], p, pairs);
    }
  }
};

// float32 scales of a slab's rows of rhs, at the columns from col0 on.
template <class S>
__device__ void StageScales(const DotArgs& a, const Entry& entry, uint32_t col0, uint32_t slab,
                            float* scales) {
  for (uint32_t i = threadIdx.x; i < S::kK; i += S::kThreads) {
    const uint32_t k = slab * S::kK + i;
    if (k < a.depth) {
      scales[i] = OuterScale(a.rhs, RowOf(a.rhs, entry.rhs_row + k), col0 / kUnit);
    }
  }
}

// A warp's share of a block's outputs.
template <class S>
struct WarpTile {
  uint32_t lane, row, col,
      slice;  // its first row and column in the block's tile, its part of a slab
  uint32_t lhs_at, rhs_at;  // what the lane points to for the first fragments, in a buffer
  float sum[S::kTilesM][S::kTilesN][4];

  __device__ WarpTile() {
    lane = threadIdx.x % 32;
    const uint32_t warp = threadIdx.x / 32;
    slice = warp % S::kWarpsK;
    row = warp / S::kWarpsK % S::kWarpsM * (S::kM / S::kWarpsM);
    col = warp / S::kWarpsK / S::kWarpsM * (S::kN / S::kWarpsN);
    // Matrices of a 16 x 16 part of lhs: rows 0-7 and 8-15 of columns 0-7, then of columns 8-15. Of
    // 16 rows of rhs: columns 0-7 and 8-15 of rows 0-7, then of rows 8-15.
    const uint32_t depth = slice * S::kSlice, eight = lane / 8 % 2 * 8, sixteen = lane / 16 * 8;
    lhs_at = S::Lhs::MatrixRow(row + eight, depth + sixteen, lane % 8);
    rhs_at = S::kRhsAt + S::Rhs::MatrixRow(col + sixteen, depth + eight, lane % 8);
    Clear();
  }
  __device__ void Clear() {
#pragma unroll
    for (int m = 0; m < S::kTilesM; ++m) {
#pragma unroll
      for (int n = 0; n < S::kTilesN; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) sum[m][n][i] = 0.0f;
      }
    }
  }

  __device__ void Multiply(const unsigned char* buffer) {
#pragma unroll
    for (uint32_t k = 0; k < S::kSlice; k += 16) {
      uint32_t b[S::kTilesN][2];
#pragma unroll
      for (uint32_t n = 0; n < S::kTilesN; n += 2) {
        uint32_t both[4];
        S::Rhs::LoadFragment(both, buffer + rhs_at + S::Rhs::At(n * 8, k));
        b[n][0] = both[0], b[n][1] = both[1];
        b[n + 1][0] = both[2], b[n + 1][1] = both[3];
      }
#pragma unroll
      for (uint32_t t = 0; t < S::kTerms; ++t) {
#pragma unroll
        for (uint32_t m = 0; m < S::kTilesM; ++m) {
          uint32_t fragment[4];
          S::Lhs::LoadFragment(fragment,
                               buffer + lhs_at + t * S::Lhs::kBytes + S::Lhs::At(m * 16, k));
#pragma unroll
          for (int n = 0; n < S::kTilesN; ++n) MultiplyAccumulate(sum[m][n], fragment, b[n]);
        }
      }
    }
  }

  // The tile's row and column of sum[m][n][i].
  __device__ uint32_t RowOfSum(int m, int i) const {
    return row + static_cast<uint32_t>(m * 16 + i / 2 * 8) + lane / 4;
  }
  // (Columns of a unit of codes lie as DecodePairs puts them.)
  __device__ uint32_t ColOfSum(int n, int i) const {
    return S::kTransposed ? col + static_cast<uint32_t>(n * 8 + i % 2 * 4) + lane % 4
                          : col + static_cast<uint32_t>(n * 8 + i % 2) + lane % 4 * 2;
  }
};

// Sums over float32-scaled blocks, scaled and added up.
template <class S>
struct Totals {
  float total[S::kTilesM][S::kTilesN][4] = {};
  uint32_t lhs_scale[S::kTilesM][2], rhs_scale[S::kTilesN][2];  // the first of each row

  __device__ void Start(const DotArgs& a, const Entry& entry, uint32_t row0, uint32_t col0,
                        const WarpTile<S>& tile) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int m = 0; m < S::kTilesM; ++m) {
        const uint32_t row = row0 + tile.RowOfSum(m, i * 2);
        const Row r = RowOf(a.lhs, entry.lhs_row + (row < entry.rows ? row : entry.rows - 1));
        lhs_scale[m][i] = static_cast<uint32_t>(r.scale);
      }
#pragma unroll
      for (int n = 0; n < S::kTilesN; ++n) {
        const uint32_t col = col0 + tile.ColOfSum(n, i);
        const Row r = RowOf(a.rhs, entry.rhs_row + (col < a.cols ? col : a.cols - 1));
        rhs_scale[n][i] = static_cast<uint32_t>(r.scale);
      }
    }
  }

  static __device__ float ScaleAt(const Operand& x, uint32_t first, uint32_t unit) {
    if (!HasOuterBlocks(x)) return 1.0f;
    return static_cast<const float*>(x.scale)[first + x.units_per_scale.Divide(unit)];
  }

  // Adds the sums that end with `unit`'s block, and clears them.
  __device__ void Promote(const DotArgs& a, uint32_t unit, WarpTile<S>* tile) {
    float rhs[S::kTilesN][2];
#pragma unroll
    for (int n = 0; n < S::kTilesN; ++n) {
#pragma unroll
      for (int i = 0; i < 2; ++i) rhs[n][i] = ScaleAt(a.rhs, rhs_scale[n][i], unit);
    }
#pragma unroll
    for (int m = 0; m < S::kTilesM; ++m) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float lhs = ScaleAt(a.lhs, lhs_scale[m][i / 2], unit);
#pragma unroll
        for (int n = 0; n < S::kTilesN; ++n) {
          total[m][n][i] += (tile->sum[m][n][i] * lhs) * rhs[n][i % 2];
        }
      }
    }
    tile->Clear();
  }
};

// Whether the float32 scales after this unit's slice are others, or there are none.
__device__ inline bool BlockEnds(const DotArgs& a, uint32_t unit, uint32_t next_unit) {
  if (next_unit >= a.depth / kUnit) return true;
  const auto ends = [&](const Operand& x) {
    return HasOuterBlocks(x) &&
           x.units_per_scale.Divide(unit) != x.units_per_scale.Divide(next_unit);
  };
  return ends(a.lhs) || ends(a.rhs);
}

// A sum, with the scales that multiply whole sums.
template <class S>
__device__ float Scaled(const DotArgs& a, const Entry& entry, uint32_t row, uint32_t col,
                        float sum) {
  if constexpr (S::kTransposed) {
    return EntryScale(a, entry.batch).Of(sum);
  } else {
    const uint32_t lhs = entry.lhs_row + row, rhs = entry.rhs_row + col;
    const float y = (sum * RowScale(a.lhs, RowOf(a.lhs, lhs))) * RowScale(a.rhs, RowOf(a.rhs, rhs));
    return y * GlobalScale(a, lhs, rhs);
  }
}

// Joins the warps' sums in shared memory, in order, and stores the outputs.
template <class S>
__device__ void Finish(const DotArgs& a, const Entry& entry, uint32_t row0, uint32_t col0,
                       const WarpTile<S>& tile, const float (&sum)[S::kTilesM][S::kTilesN][4],
                       float* sums) {
  const bool by_col = S::kTransposed && a.out_transposed;
  const auto place = [&](uint32_t row, uint32_t col) {
    return by_col ? col * S::kColStride + row : row * S::kRowStride + col;
  };
#pragma unroll
  for (int m = 0; m < S::kTilesM; ++m) {
#pragma unroll
    for (int n = 0; n < S::kTilesN; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        sums[tile.slice * S::kSliceSums + place(tile.RowOfSum(m, i), tile.ColOfSum(n, i))] =
            sum[m][n][i];
      }
    }
  }
  __syncthreads();
  for (uint32_t index = threadIdx.x; index < S::kM * S::kN; index += S::kThreads) {
    const uint32_t m = by_col ? index % S::kM : index / S::kN;
    const uint32_t n = by_col ? index / S::kM : index % S::kN;
    const uint32_t row = row0 + m, col = col0 + n;
    if (row >= entry.rows || col >= a.cols) continue;
    float y = sums[place(m, n)];
#pragma unroll
    for (int slice = 1; slice < S::kWarpsK; ++slice) {
      y += sums[static_cast<uint32_t>(slice) * S::kSliceSums + place(m, n)];
    }
    y = Scaled<S>(a, entry, row, col, y);
    if constexpr (S::kTransposed) {
      StoreOutput(a, entry.batch, row, col, y);
    } else {
      StoreOutput(a, entry.lhs_row + row, col, y);
    }
  }
}

// The tile that begins at a row and a column of an entry. kPromote: an operand has float32
// scales of blocks.
template <class S, bool kPromote>
__device__ __forceinline__ void MultiplyTile(const DotArgs& a, const Entry& entry,
                                             uint32_t row0, uint32_t col0) {
  auto* buffers = static_cast<unsigned char*>(DynamicShared());
  auto* scales = reinterpret_cast<float*>(buffers + 2 * S::kBufferBytes);
  const bool scales_lhs = S::kScaleBytes > 0 && a.scales_in_lhs;

  Slab<S> slab;
  slab.Start(a, entry, row0, col0);
  slab.Load(a, entry, 0);
  if (scales_lhs) {
    StageScales<S>(a, entry, col0, 0, scales);
    __syncthreads();
  }
  slab.Store(a, 0, scales, buffers);
  __syncthreads();
  WarpTile<S> tile;
  Totals<S> totals;
  if constexpr (kPromote) totals.Start(a, entry, row0, col0, tile);
  const uint32_t slabs = (a.depth + S::kK - 1) / S::kK;
  for (uint32_t s = 0; s < slabs; ++s) {
    if (s + 1 < slabs) slab.Load(a, entry, s + 1);
    if (scales_lhs) StageScales<S>(a, entry, col0, s + 1, scales);
    tile.Multiply(buffers + s % 2 * S::kBufferBytes);
    if constexpr (kPromote) {
      const uint32_t unit = (s * S::kK + tile.slice * S::kSlice) / kUnit;
      if (unit < a.depth / kUnit && BlockEnds(a, unit, unit + S::kK / kUnit)) {
        totals.Promote(a, unit, &tile);
      }
    }
    if (scales_lhs) __syncthreads();
    if (s + 1 < slabs) slab.Store(a, s + 1, scales, buffers + (s + 1) % 2 * S::kBufferBytes);
    __syncthreads();
  }
  Finish<S>(a, entry, row0, col0, tile, kPromote ? totals.total : tile.sum,
            reinterpret_cast<float*>(buffers));
}

template <class S, bool kPromote>
__global__ void __launch_bounds__(S::kThreads, kPromote ? 0 : S::kBlocks)
    MmaKernel(const DotArgs a) {
  // Blocks that follow each other share rows of rhs.
  const uint32_t across = a.tiles_down.Divide(blockIdx.x);
  const uint32_t batch = a.tiles_across.Divide(across);
  const uint32_t row0 = a.tiles_down.Remainder(blockIdx.x, across) * S::kM;
  const uint32_t col0 = a.tiles_across.Remainder(across, batch) * S::kN;
  MultiplyTile<S, kPromote>(a, EntryOf(a, batch), row0, col0);
}

// ---- launches

inline bool HasOuterBlocks(const DotOperand& x) {
  return x.coded && x.format.scale_type == ScaleType::kFloat32 && x.scale_cols > 1;
}

// How many bfloat16 an element of lhs is.
inline int TermsOf(const DotOperand& x) {
  if (x.coded || x.dtype == Dtype::kBF16) return 1;
  return x.dtype == Dtype::kF16 ? 2 : 3;
}

// Whether float32 scales change only where a warp's slices begin.
template <class S>
bool TakesScales(const ScaledDotProblem& p) {
  const auto fits = [](const DotOperand& x) {
    return !HasOuterBlocks(x) || x.format.block_cols % S::kSlice == 0;
  };
  return fits(p.lhs) && fits(p.rhs);
}

template <template <int> class Shape>
bool MmaTakes(const ScaledDotProblem& p) {
  if (!InUnits(p)) return false;
  return TermsOf(p.lhs) == 1 ? TakesScales<Shape<1>>(p) : TakesScales<Shape<3>>(p);
}

template <class S, bool kPromote>
Status LaunchMma(DotArgs* a, Stream stream) {
  int64_t blocks;
  if (const Status status = SetTiles(S::kM, S::kN, a, &blocks)) return status;
  const Geometry g = {static_cast<unsigned>(blocks), 1, 1, S::kThreads, S::kSharedBytes};
  return Launch(MmaKernel<S, kPromote>, g, stream, *a);
}
template <class S>
Status LaunchMma(const ScaledDotProblem& p, DotArgs* a, Stream stream) {
  return HasOuterBlocks(p.lhs) || HasOuterBlocks(p.rhs) ? LaunchMma<S, true>(a, stream)
                                                        : LaunchMma<S, false>(a, stream);
}

template <template <int> class Shape>
Status LaunchMma(const ScaledDotProblem& p, DotArgs* a, Stream stream) {
  switch (TermsOf(p.lhs)) {
    case 1: return LaunchMma<Shape<1>>(p, a, stream);
    case 2: return LaunchMma<Shape<2>>(p, a, stream);
    default: return LaunchMma<Shape<3>>(p, a, stream);
  }
}

}  // namespace jaxfp4::cuda
