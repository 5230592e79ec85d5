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

// A block of kThreads computes kM x kN outputs, kK of the depth at a time. Its warps are kWarpsM x
// kWarpsN over the outputs, times kWarpsK over each slab: those share outputs, and their sums are
// joined last.
template <int kTermCount, int kTileM, int kTileN, int kSlab, int kWarpRows, int kWarpCols,
          int kWarpSlices>
struct MmaShape {
  static constexpr int kTerms = kTermCount;
  static constexpr int kM = kTileM, kN = kTileN, kK = kSlab;
  static constexpr int kWarpsM = kWarpRows, kWarpsN = kWarpCols, kWarpsK = kWarpSlices;
  static constexpr int kThreads = 32 * kWarpsM * kWarpsN * kWarpsK;
  static constexpr int kSlice = kK / kWarpsK;        // of the slab, a warp's
  static constexpr int kTilesM = kM / kWarpsM / 16;  // fragments of a warp
  static constexpr int kTilesN = kN / kWarpsN / 8;
  static constexpr int kUnitsAcross = kK / kUnit;                 // of a slab's row
  static constexpr int kLhsUnits = kM * kUnitsAcross / kThreads;  // of a thread
  static constexpr int kRhsUnits = kN * kUnitsAcross / kThreads;
  static constexpr int kLhsWords = kTerms == 3 ? 16 : 8;  // of a unit in memory, at most
  // Rows of a buffer are 16 bytes longer than they need, so that eight of them lie in different
  // banks.
  static constexpr int kStride = kK * 2 + 16;
  static constexpr int kBufferBytes = (kTerms * kM + kN) * kStride;
  static constexpr int kSumStride = kN + 8;
  static constexpr int kSumBytes = kWarpsK * kM * kSumStride * 4;
  static constexpr int kSharedBytes = 2 * kBufferBytes > kSumBytes ? 2 * kBufferBytes : kSumBytes;

  static_assert(kM * kUnitsAcross % kThreads == 0 && kN * kUnitsAcross % kThreads == 0);
  static_assert(kSlice % 16 == 0 && kTilesN % 2 == 0 && kStride / 16 % 2 == 1);
};

// Few rows: warps share the depth. Many rows: warps share the outputs.
template <int kTerms>
using SmallShape = MmaShape<kTerms, 32, 32, kTerms == 1 ? 256 : 128, 1, 1, 8>;
template <int kTerms>
using LargeShape = MmaShape<kTerms, 128, 128, kTerms == 1 ? 64 : 32, 2, 4, 1>;

// What a thread carries from one slab to the next: where its units are, and the ones loaded last.
template <class S>
struct Slab {
  Row lhs_row[S::kLhsUnits], rhs_row[S::kRhsUnits];
  uint32_t lhs[S::kLhsUnits][S::kLhsWords], rhs[S::kRhsUnits][4];
  uint32_t lhs_scale[S::kLhsUnits], rhs_scale[S::kRhsUnits];

  // Unit i of this thread: its row within the tile, and its place in the row's slab.
  static __device__ uint32_t RowAt(int i) {
    return (static_cast<uint32_t>(i) * S::kThreads + threadIdx.x) / S::kUnitsAcross;
  }
  static __device__ uint32_t Across(int i) {
    return (static_cast<uint32_t>(i) * S::kThreads + threadIdx.x) % S::kUnitsAcross;
  }

  // Rows beyond the last repeat it, and are not stored.
  __device__ void Start(const DotArgs& a, const Entry& entry, uint32_t row0, uint32_t col0) {
#pragma unroll
    for (int i = 0; i < S::kLhsUnits; ++i) {
      const uint32_t row = row0 + RowAt(i);
      lhs_row[i] = RowOf(a.lhs, entry.lhs_row + (row < entry.rows ? row : entry.rows - 1));
    }
#pragma unroll
    for (int i = 0; i < S::kRhsUnits; ++i) {
      const uint32_t col = col0 + RowAt(i);
      rhs_row[i] = RowOf(a.rhs, entry.rhs_row + (col < a.cols ? col : a.cols - 1));
    }
  }

  __device__ void Load(const DotArgs& a, uint32_t slab) {
    const uint32_t units = a.depth / kUnit;
#pragma unroll
    for (int i = 0; i < S::kLhsUnits; ++i) {
      const uint32_t unit = slab * S::kUnitsAcross + Across(i);
      if (unit >= units) continue;
      LoadUnit(a.lhs, lhs_row[i], unit, lhs[i]);
      lhs_scale[i] = LoadScaleCode(a.lhs, lhs_row[i], unit);
    }
#pragma unroll
    for (int i = 0; i < S::kRhsUnits; ++i) {
      const uint32_t unit = slab * S::kUnitsAcross + Across(i);
      if (unit >= units) continue;
      LoadUnit(a.rhs, rhs_row[i], unit, rhs[i]);
      rhs_scale[i] = LoadScaleCode(a.rhs, rhs_row[i], unit);
    }
  }

  // Decodes what was loaded into a buffer; zeros beyond the depth.
  __device__ void Store(const DotArgs& a, uint32_t slab, unsigned char* buffer) const {
    const uint32_t units = a.depth / kUnit;
#pragma unroll
    for (int i = 0; i < S::kLhsUnits; ++i) {
      uint32_t pairs[S::kTerms][kPairs] = {};
      if (slab * S::kUnitsAcross + Across(i) < units) DecodeLhs(a.lhs, i, pairs);
#pragma unroll
      for (int t = 0; t < S::kTerms; ++t) {
        StoreWords<32>(
            pairs[t],
            buffer + (static_cast<uint32_t>(t * S::kM) + RowAt(i)) * S::kStride + Across(i) * 32);
      }
    }
#pragma unroll
    for (int i = 0; i < S::kRhsUnits; ++i) {
      uint32_t pairs[kPairs] = {};
      if (slab * S::kUnitsAcross + Across(i) < units) {
        DecodePairs(a.rhs, rhs[i], rhs_scale[i], pairs);
      }
      StoreWords<32>(pairs, buffer +
                                (static_cast<uint32_t>(S::kTerms * S::kM) + RowAt(i)) * S::kStride +
                                Across(i) * 32);
    }
  }

  __device__ void DecodeLhs(const Operand& x, int i, uint32_t (&pairs)[S::kTerms][kPairs]) const {
    if constexpr (S::kTerms > 1) {
      SplitFloats<S::kTerms>(S::kTerms == 3 ? Dtype::kF32 : Dtype::kF16, lhs[i], pairs);
    } else if (x.coded) {
      DecodePairs(x, lhs[i], lhs_scale[i], pairs[0]);
    } else {
      ReorderPairs(lhs[i], pairs[0]);
    }
  }
};

// A warp's share of a block's outputs.
template <class S>
struct WarpTile {
  uint32_t lane, row, col,
      slice;  // its first row and column in the block's tile, its part of a slab
  float sum[S::kTilesM][S::kTilesN][4];

  __device__ WarpTile() {
    lane = threadIdx.x % 32;
    const uint32_t warp = threadIdx.x / 32;
    slice = warp % S::kWarpsK;
    row = warp / S::kWarpsK % S::kWarpsM * (S::kM / S::kWarpsM);
    col = warp / S::kWarpsK / S::kWarpsM * (S::kN / S::kWarpsN);
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
    for (int k = 0; k < S::kSlice; k += 16) {
      const uint32_t at = (slice * S::kSlice + static_cast<uint32_t>(k)) * 2;
      uint32_t b[S::kTilesN][2];
      LoadRhs(buffer + S::kTerms * S::kM * S::kStride + at, b);
#pragma unroll
      for (int t = 0; t < S::kTerms; ++t) {
#pragma unroll
        for (int m = 0; m < S::kTilesM; ++m) {
          uint32_t fragment[4];
          LoadLhs(buffer + t * S::kM * S::kStride + at, m, fragment);
#pragma unroll
          for (int n = 0; n < S::kTilesN; ++n) MultiplyAccumulate(sum[m][n], fragment, b[n]);
        }
      }
    }
  }

  // Matrices of a 16 x 16 part of lhs: rows 0-7 and 8-15 of columns 0-7, then of columns 8-15.
  __device__ void LoadLhs(const unsigned char* buffer, int m, uint32_t (&fragment)[4]) const {
    const uint32_t r = row + static_cast<uint32_t>(m) * 16 + lane % 16;
    LoadMatrices(fragment, buffer + r * S::kStride + lane / 16 * 16);
  }
  // Of 16 rows of rhs: columns 0-7 and 8-15 of rows 0-7, then of rows 8-15.
  __device__ void LoadRhs(const unsigned char* buffer, uint32_t (&b)[S::kTilesN][2]) const {
#pragma unroll
    for (int n = 0; n < S::kTilesN; n += 2) {
      const uint32_t r = col + static_cast<uint32_t>(n) * 8 + lane / 16 * 8 + lane % 8;
      uint32_t both[4];
      LoadMatrices(both, buffer + r * S::kStride + lane / 8 % 2 * 16);
      b[n][0] = both[0], b[n][1] = both[1];
      b[n + 1][0] = both[2], b[n + 1][1] = both[3];
    }
  }

  // The tile's row and column of sum[m][n][i].
  __device__ uint32_t RowOfSum(int m, int i) const {
    return row + static_cast<uint32_t>(m * 16 + i / 2 * 8) + lane / 4;
  }
  __device__ uint32_t ColOfSum(int n, int i) const {
    return col + static_cast<uint32_t>(n * 8 + i % 2) + lane % 4 * 2;
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

// Joins the warps' sums in shared memory, in order, and stores the outputs.
template <class S>
__device__ void Finish(const DotArgs& a, const Entry& entry, uint32_t row0, uint32_t col0,
                       const WarpTile<S>& tile, const float (&sum)[S::kTilesM][S::kTilesN][4],
                       float* sums) {
#pragma unroll
  for (int m = 0; m < S::kTilesM; ++m) {
#pragma unroll
    for (int n = 0; n < S::kTilesN; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        sums[(tile.slice * S::kM + tile.RowOfSum(m, i)) * S::kSumStride + tile.ColOfSum(n, i)] =
            sum[m][n][i];
      }
    }
  }
  __syncthreads();
  for (uint32_t index = threadIdx.x; index < S::kM * S::kN; index += S::kThreads) {
    const uint32_t m = index / S::kN, n = index % S::kN;
    const uint32_t row = entry.lhs_row + row0 + m, col = entry.rhs_row + col0 + n;
    if (row0 + m >= entry.rows || col0 + n >= a.cols) continue;
    float y = sums[m * S::kSumStride + n];
#pragma unroll
    for (int slice = 1; slice < S::kWarpsK; ++slice) {
      y += sums[(static_cast<uint32_t>(slice * S::kM) + m) * S::kSumStride + n];
    }
    y = (y * RowScale(a.lhs, RowOf(a.lhs, row))) * RowScale(a.rhs, RowOf(a.rhs, col));
    StoreOutput(a, row, col0 + n, y * GlobalScale(a, row, col));
  }
}

// The tile that begins at a row and a column of an entry. kPromote: an operand has float32
// scales of blocks.
template <class S, bool kPromote>
__device__ __forceinline__ void MultiplyTile(const DotArgs& a, const Entry& entry,
                                             uint32_t row0, uint32_t col0) {
  auto* buffers = static_cast<unsigned char*>(DynamicShared());

  Slab<S> slab;
  slab.Start(a, entry, row0, col0);
  slab.Load(a, 0);
  slab.Store(a, 0, buffers);
  __syncthreads();
  WarpTile<S> tile;
  Totals<S> totals;
  if constexpr (kPromote) totals.Start(a, entry, row0, col0, tile);
  const uint32_t slabs = (a.depth + S::kK - 1) / S::kK;
  for (uint32_t s = 0; s < slabs; ++s) {
    if (s + 1 < slabs) slab.Load(a, s + 1);
    tile.Multiply(buffers + s % 2 * S::kBufferBytes);
    if constexpr (kPromote) {
      const uint32_t unit = (s * S::kK + tile.slice * S::kSlice) / kUnit;
      if (unit < a.depth / kUnit && BlockEnds(a, unit, unit + S::kUnitsAcross)) {
        totals.Promote(a, unit, &tile);
      }
    }
    if (s + 1 < slabs) slab.Store(a, s + 1, buffers + (s + 1) % 2 * S::kBufferBytes);
    __syncthreads();
  }
  Finish<S>(a, entry, row0, col0, tile, kPromote ? totals.total : tile.sum,
            reinterpret_cast<float*>(buffers));
}

template <class S, bool kPromote>
__global__ void __launch_bounds__(S::kThreads) MmaKernel(const DotArgs a) {
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

template <class S>
Status LaunchMma(const ScaledDotProblem& p, DotArgs* a, Stream stream) {
  int64_t blocks;
  if (const Status status = SetTiles(S::kM, S::kN, a, &blocks)) return status;
  const Geometry g = {static_cast<unsigned>(blocks), 1, 1, S::kThreads, S::kSharedBytes};
  return HasOuterBlocks(p.lhs) || HasOuterBlocks(p.rhs)
             ? Launch(MmaKernel<S, true>, g, stream, *a)
             : Launch(MmaKernel<S, false>, g, stream, *a);
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
