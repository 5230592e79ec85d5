// scaled_dot for whatever no other kernel takes: any depth, any alignment, any layout. Tiles of 64
// x 64 outputs, elements decoded one by one into shared memory, sums of sixteen added to totals.
#pragma once

#include "cc/cuda/dot_operand.h"

namespace jaxfp4::cuda {

constexpr int kTile = 64;
constexpr int kTileThreads = 256;
constexpr int kPerThread = 4;  // rows, and columns

JAXFP4_HD uint32_t CodeOf(const Operand& x, const Row& r, uint32_t k) {
  const int64_t bit = int64_t{k} * x.bits;
  const auto byte_at = [&](int64_t i) -> uint32_t {
    return r.data[x.interleaved ? i / 4 * 64 + i % 4 : i];
  };
  uint32_t word = byte_at(bit / 8);
  if (bit % 8 + x.bits > 8) word |= byte_at(bit / 8 + 1) << 8;
  return word >> (bit % 8) & ((1u << x.bits) - 1);
}

JAXFP4_HD float ValueOf(Element element, uint32_t code) {
  switch (element) {
    case Element::kE2M1: return ValueOf<E2M1>(code);
    case Element::kE2M3: return ValueOf<E2M3>(code);
    case Element::kE3M2: return ValueOf<E3M2>(code);
    case Element::kE4M3: return ValueOf<E4M3>(code);
    case Element::kE5M2: break;
  }
  return ValueOf<E5M2>(code);
}

// The scales of sums of products of an operand's rows; of rows that are contracted, elements have
// them.
JAXFP4_HD bool HasSumScale(const Operand& x) { return HasOuterScale(x) && !x.transposed; }

// An element of a row of memory, with the scale applied that is not of sums.
JAXFP4_HD float ElementOf(const Operand& x, const Row& r, uint32_t at) {
  if (!x.coded) return Widened(x.dtype, r.data + int64_t{at} * SizeOf(x.dtype));
  const float value = ValueOf(x.element, CodeOf(x, r, at));
  if (HasSumScale(x)) return value;
  float decode, decode2;
  LoadScale(x.scale_type, x.scale, ScaleIndex(x, r, at / kUnit), &decode, &decode2);
  return (value * decode) * decode2;
}

// Elements k0 to k0 + 16 of 64 outputs (rows or columns of the result) from `first`, of which there
// are `outputs`; zeros beyond the depth. The last stands for those after it.
__device__ inline void StageTile(const DotArgs& a, const Operand& x, uint32_t base,
                                 uint32_t first, uint32_t outputs, uint32_t k0,
                                 float (*staged)[kTile + 1]) {
  for (uint32_t i = threadIdx.x; i < kTile * kUnit; i += kTileThreads) {
    const uint32_t n = x.transposed ? i % kTile : i / kUnit;
    const uint32_t in = x.transposed ? i / kTile : i % kUnit;
    const uint32_t output = first + n < outputs ? first + n : outputs - 1, k = k0 + in;
    float element = 0.0f;
    if (k < a.depth) {
      element = x.transposed ? ElementOf(x, RowOf(x, base + k), output)
                             : ElementOf(x, RowOf(x, base + output), k);
    }
    staged[in][n] = element;
  }
}

// The scale of a sum of sixteen products.
JAXFP4_HD float SumScale(const Operand& x, const Row& r, uint32_t unit) {
  return HasSumScale(x) ? OuterScale(x, r, unit) : 1.0f;
}

// The tile that begins at a row and a column of an entry.
__device__ __forceinline__ void MultiplyAny(const DotArgs& a, const Entry& entry, uint32_t row0,
                                            uint32_t col0) {
  __shared__ float lhs[kUnit][kTile + 1], rhs[kUnit][kTile + 1];
  // Thread (i, j) has rows i, i + 16, ... and columns j, j + 16, ...
  const uint32_t i = threadIdx.x / 16, j = threadIdx.x % 16;
  Row lhs_row[kPerThread], rhs_row[kPerThread];
#pragma unroll
  for (uint32_t n = 0; n < kPerThread; ++n) {
    const uint32_t row = row0 + i + 16 * n, col = col0 + j + 16 * n;
    lhs_row[n] = RowOf(a.lhs, entry.lhs_row + (row < entry.rows ? row : entry.rows - 1));
    rhs_row[n] = RowOf(a.rhs, entry.rhs_row + (col < a.cols ? col : a.cols - 1));
  }

  float total[kPerThread][kPerThread] = {};
  for (uint32_t k0 = 0; k0 < a.depth; k0 += kUnit) {
    __syncthreads();
    StageTile(a, a.lhs, entry.lhs_row, row0, entry.rows, k0, lhs);
    StageTile(a, a.rhs, entry.rhs_row, col0, a.cols, k0, rhs);
    __syncthreads();
    float sum[kPerThread][kPerThread] = {};
#pragma unroll
    for (int k = 0; k < kUnit; ++k) {
#pragma unroll
      for (int m = 0; m < kPerThread; ++m) {
#pragma unroll
        for (int n = 0; n < kPerThread; ++n) sum[m][n] += lhs[k][i + 16 * m] * rhs[k][j + 16 * n];
      }
    }
#pragma unroll
    for (int m = 0; m < kPerThread; ++m) {
      const float outer = SumScale(a.lhs, lhs_row[m], k0 / kUnit);
#pragma unroll
      for (int n = 0; n < kPerThread; ++n) {
        total[m][n] += (sum[m][n] * outer) * SumScale(a.rhs, rhs_row[n], k0 / kUnit);
      }
    }
  }

#pragma unroll
  for (uint32_t m = 0; m < kPerThread; ++m) {
#pragma unroll
    for (uint32_t n = 0; n < kPerThread; ++n) {
      const uint32_t row = row0 + i + 16 * m, col = col0 + j + 16 * n;
      if (row >= entry.rows || col >= a.cols) continue;
      const uint32_t lhs_index = entry.lhs_row + (a.lhs.transposed ? 0 : row);
      const uint32_t rhs_index = entry.rhs_row + (a.rhs.transposed ? 0 : col);
      const float y = total[m][n] * GlobalScale(a, lhs_index, rhs_index);
      if (a.rhs.transposed) {
        StoreOutput(a, entry.batch, row, col, y);
      } else {
        StoreOutput(a, lhs_index, col, y);
      }
    }
  }
}

}  // namespace jaxfp4::cuda
