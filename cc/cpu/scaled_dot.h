// scaled_dot: out[b, m, n] = sum over k of lhs[b, m, k] * rhs[b, n, k], times the global scales.
#pragma once

#include <cstdint>

#include "cc/problem.h"

namespace jaxfp4 {

// How the codes of rhs lie in memory.
enum class Layout : int64_t {
  kLogical = 0,
  // For e2m1 with e4m3 scales of 16 or e8m0 scales of 32, and rows in multiples of 16. Sixteen rows are
  // interleaved, four bytes (eight codes) of each at a time; so are scales of one row, byte by byte:
  //   data.reshape(N / 16, 16, K / 8, 4).transpose(0, 2, 1, 3)
  //   scale.reshape(N / 16, 16, K / block_cols).transpose(0, 2, 1)
  // Scales of blocks of several rows stay as they are.
  kInterleaved16 = 1,
};

// An operand of shape [batch, rows, depth], as floats or as codes with scales.
//
// The scale of row r (counted through the batch) starts, in elements, at
//   scale_offset[r / rows_per_offset] + (r % rows_per_offset) / block_rows * scale_row_stride
// and has scale_cols columns: depth / block_cols, or 1 for the whole row.
struct DotOperand {
  bool coded;
  Dtype dtype;         // of floats
  BlockFormat format;  // of codes
  const void* data;
  const void* scale;
  const int64_t* scale_offset;
  int64_t rows_per_offset;
  int64_t scale_row_stride;
  int64_t scale_cols;
  const float* global_scale;  // [global_count], for equal runs of the batch * rows rows
  int64_t global_count;
};

struct ScaledDotProblem {
  int64_t batch, rows, cols, depth;  // B, M, N, K
  DotOperand lhs, rhs;
  Layout rhs_layout;
  Dtype out_dtype;
  void* out;
  bool* out_of_memory;  // set, by any thread, if scratch memory cannot be had; out is then undefined
};

// Scratch memory for kernels, 64-byte aligned; null if there is none.
void* AllocateScratch(int64_t bytes);
void FreeScratch(void* scratch);

}  // namespace jaxfp4
