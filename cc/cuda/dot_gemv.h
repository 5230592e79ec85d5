// scaled_dot with few rows: a block for every four columns, its threads along the depth, each
// decoding units of four rows of rhs in registers. Partial sums are joined within warps, then over
// the block's warps, in a fixed order. Reads rhs once, at the speed of memory.
#pragma once

#include "cc/cuda/unit.h"

namespace jaxfp4::cuda {

constexpr int kGemvCols = 4;
constexpr int kGemvThreads = 128;
constexpr int kGemvWarps = kGemvThreads / 32;

// kFp4: rhs is e2m1, its units two at a time, as one 16-byte load where they lie together.
template <bool kFp4>
struct GemvUnits {
  static constexpr int kCount = kFp4 ? 2 : 1;
  uint32_t words[kCount][kGemvCols][4];

  __device__ void Load(const Operand& x, const Row (&rows)[kGemvCols], uint32_t unit) {
#pragma unroll
    for (int c = 0; c < kGemvCols; ++c) {
      if constexpr (kFp4) {
        if (x.interleaved) {
          LoadUnit(x, rows[c], unit, words[0][c]);
          LoadUnit(x, rows[c], unit + 1, words[1][c]);
          continue;
        }
        const uint4 v = LoadAs<uint4>(rows[c].data + int64_t{unit} * 8);
        words[0][c][0] = v.x, words[0][c][1] = v.y;
        words[1][c][0] = v.z, words[1][c][1] = v.w;
      } else {
        LoadUnit(x, rows[c], unit, words[0][c]);
      }
    }
  }
  // Unit i of column c, times 1 / the power of two that it returns.
  __device__ float Decode(const Operand& x, int i, int c, float (&out)[kUnit]) const {
    if constexpr (kFp4) return DecodeFloats<E2M1>(words[i][c], out);
    return DecodeFloats(x.element, words[i][c], out);
  }
};

// A unit of lhs as floats with their one-byte scales applied.
__device__ inline void LoadLhs(const Operand& x, const Row& r, uint32_t unit, float (&out)[kUnit]) {
  if (!x.coded) {
    return LoadSegment(x.dtype, r.data, int64_t{unit} * kUnit, kUnit, true, out);
  }
  uint32_t words[4];
  LoadUnit(x, r, unit, words);
  const float power = DecodeFloats(x.element, words, out);
  float decode = 1.0f, decode2 = 1.0f;
  if (!HasOuterScale(x))
    LoadScale(x.scale_type, x.scale, ScaleIndex(x, r, unit), &decode, &decode2);
#pragma unroll
  for (int i = 0; i < kUnit; ++i) out[i] = ((out[i] * power) * decode) * decode2;
}

__device__ inline float DotOfUnit(const float (&a)[kUnit], const float (&b)[kUnit]) {
  float even = 0.0f, odd = 0.0f;
#pragma unroll
  for (int i = 0; i < kUnit; i += 2) {
    even += a[i] * b[i];
    odd += a[i + 1] * b[i + 1];
  }
  return even + odd;
}

// A column's unit, and what its dot products are to be multiplied by.
struct GemvColumn {
  float w[kUnit];
  float scale, scale2;

  template <bool kFp4>
  __device__ void Decode(const DotArgs& a, const Row& row, const GemvUnits<kFp4>& loaded, int i,
                         int c, uint32_t unit) {
    const float power = loaded.Decode(a.rhs, i, c, w);
    LoadScale(a.rhs.scale_type, a.rhs.scale, ScaleIndex(a.rhs, row, unit), &scale, &scale2);
    scale *= power;
  }
  __device__ float Times(const float (&x)[kUnit], float outer) const {
    return ((DotOfUnit(x, w) * outer) * scale) * scale2;
  }
};

// Adds the products of one unit. Registers hold that of every row, or of every column, whichever
// are fewer.
template <int kRows, bool kFp4>
__device__ __forceinline__ void AddUnit(const DotArgs& a, const Row (&lhs)[kRows],
                                        const Row (&rhs)[kGemvCols], const GemvUnits<kFp4>& loaded,
                                        int i, uint32_t unit, float (&sum)[kRows][kGemvCols]) {
  if constexpr (kRows < kGemvCols) {
    float x[kRows][kUnit], outer[kRows];
#pragma unroll
    for (int m = 0; m < kRows; ++m) {
      LoadLhs(a.lhs, lhs[m], unit, x[m]);
      outer[m] = OuterScale(a.lhs, lhs[m], unit);
    }
#pragma unroll
    for (int c = 0; c < kGemvCols; ++c) {
      GemvColumn column;
      column.Decode(a, rhs[c], loaded, i, c, unit);
#pragma unroll
      for (int m = 0; m < kRows; ++m) sum[m][c] += column.Times(x[m], outer[m]);
    }
  } else {
    GemvColumn columns[kGemvCols];
#pragma unroll
    for (int c = 0; c < kGemvCols; ++c) columns[c].Decode(a, rhs[c], loaded, i, c, unit);
#pragma unroll
    for (int m = 0; m < kRows; ++m) {
      float x[kUnit];
      LoadLhs(a.lhs, lhs[m], unit, x);
      const float outer = OuterScale(a.lhs, lhs[m], unit);
#pragma unroll
      for (int c = 0; c < kGemvCols; ++c) sum[m][c] += columns[c].Times(x, outer);
    }
  }
}

// As many blocks on a multiprocessor as registers allow without spilling.
constexpr int GemvBlocks(int rows, bool fp4) {
  return rows >= kGemvCols ? 3 : rows == 1 || fp4 ? 5 : 4;
}

// All rows of an entry by the columns from `col` on.
template <int kRows, bool kFp4>
__device__ __forceinline__ void MultiplyFew(const DotArgs& a, const Entry& entry, uint32_t col) {
  // Rows and columns beyond the last repeat it, and are not stored.
  Row lhs[kRows], rhs[kGemvCols];
#pragma unroll
  for (int m = 0; m < kRows; ++m) {
    const auto row = static_cast<uint32_t>(m);
    lhs[m] = RowOf(a.lhs, entry.lhs_row + (row < entry.rows ? row : entry.rows - 1));
  }
#pragma unroll
  for (int c = 0; c < kGemvCols; ++c) {
    const uint32_t n = col + static_cast<uint32_t>(c);
    rhs[c] = RowOf(a.rhs, entry.rhs_row + (n < a.cols ? n : a.cols - 1));
  }

  float sum[kRows][kGemvCols] = {};
  constexpr int kCount = GemvUnits<kFp4>::kCount;
  const uint32_t units = a.depth / kUnit;
  for (uint32_t unit = threadIdx.x * kCount; unit < units; unit += kGemvThreads * kCount) {
    GemvUnits<kFp4> loaded;
    loaded.Load(a.rhs, rhs, unit);
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const uint32_t at = unit + static_cast<uint32_t>(i);
      AddUnit<kRows, kFp4>(a, lhs, rhs, loaded, i, at, sum);
    }
  }

  __shared__ float of_warp[kGemvWarps][kRows * kGemvCols];
#pragma unroll
  for (int m = 0; m < kRows; ++m) {
#pragma unroll
    for (int c = 0; c < kGemvCols; ++c) {
      float total = sum[m][c];
      for (int other = 16; other > 0; other /= 2) total += __shfl_xor_sync(~0u, total, other);
      if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32][m * kGemvCols + c] = total;
    }
  }
  __syncthreads();
  const uint32_t m = threadIdx.x / kGemvCols, n = col + threadIdx.x % kGemvCols;
  if (m >= entry.rows || m >= kRows || n >= a.cols) return;
  float total = of_warp[0][threadIdx.x];
#pragma unroll
  for (int warp = 1; warp < kGemvWarps; ++warp) total += of_warp[warp][threadIdx.x];
  const uint32_t row = entry.lhs_row + m;
  StoreOutput(a, row, n, total * GlobalScale(a, row, entry.rhs_row + n));
}

template <int kRows, bool kFp4>
__global__ void __launch_bounds__(kGemvThreads, GemvBlocks(kRows, kFp4))
    GemvKernel(const DotArgs a) {
  const uint32_t batch = a.tiles_across.Divide(blockIdx.x);
  MultiplyFew<kRows, kFp4>(a, EntryOf(a, batch),
                           a.tiles_across.Remainder(blockIdx.x, batch) * kGemvCols);
}

}  // namespace jaxfp4::cuda
