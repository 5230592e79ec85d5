// An operand of scaled_dot as kernels see it, and a whole call.
#pragma once

#include "cc/problem.h"
#include "cc/cuda/divider.h"
#include "cc/cuda/segment.h"
#include "cc/cuda/strided.h"

namespace jaxfp4::cuda {

// A unit is sixteen consecutive elements of a row: inner blocks are whole units.
constexpr int kUnit = kSegment;

struct Operand {
  const uint8_t* data;
  const void* scale;
  const float* global;
  bool coded;
  bool transposed;   // its rows are contracted
  bool interleaved;  // sixteen rows word by word: Layout::kInterleaved16
  Dtype dtype;       // of floats
  Element element;   // of codes
  ScaleType scale_type;
  int bits;  // of an element
  int64_t row_bytes;
  int64_t scale_row_stride;
  uint32_t scale_cols;
  Strided scale_offset;
  Divider rows_per_offset, block_rows, units_per_scale, rows_per_global;
  bool rows_share_scales;  // block_rows > 1
};

struct DotArgs {
  Operand lhs, rhs;
  uint32_t batch, rows, cols, depth;
  bool scales_in_lhs;  // float32 scales of rows of rhs, which are contracted
  bool out_transposed;
  Dtype out_dtype;
  void* out;
  Divider tiles_down, tiles_across;  // of the output, for kernels that cut it into tiles
};

// What a batch entry is, or a group of rows: its first rows of lhs and of rhs in memory, counted
// through all, and how many it has of lhs.
struct Entry {
  uint32_t lhs_row, rhs_row, rows;
  uint32_t batch = 0;
};

JAXFP4_HD Entry EntryOf(const DotArgs& a, uint32_t batch) {
  return {batch * (a.lhs.transposed ? a.depth : a.rows),
          batch * (a.rhs.transposed ? a.depth : a.cols), a.rows, batch};
}

// A row of memory, counted through the batch.
struct Row {
  const uint8_t* data;
  int64_t scale;  // index of its first scale
};

JAXFP4_HD Row RowOf(const Operand& x, uint32_t row) {
  Row r;
  r.data = x.interleaved ? x.data + int64_t{row / 16 * 16} * x.row_bytes + row % 16 * 4
                         : x.data + int64_t{row} * x.row_bytes;
  r.scale = 0;
  if (!x.coded) return r;
  const uint32_t run = x.rows_per_offset.Divide(row), in = x.rows_per_offset.Remainder(row, run);
  r.scale = x.scale_offset.At(run);
  if (x.interleaved && !x.rows_share_scales) {
    r.scale += int64_t{in / 16 * 16} * x.scale_cols + in % 16;
  } else {
    r.scale += x.block_rows.Divide(in) * x.scale_row_stride;
  }
  return r;
}

JAXFP4_HD int64_t ScaleIndex(const Operand& x, const Row& r, uint32_t unit) {
  if (x.scale_cols == 1) return r.scale;
  const uint32_t col = x.units_per_scale.Divide(unit);
  return r.scale + (x.interleaved && !x.rows_share_scales ? col * 16 : col);
}

// Scales of type float32 multiply sums of products, of rows that are not contracted; others
// multiply elements, exactly.
JAXFP4_HD bool HasOuterScale(const Operand& x) {
  return x.coded && x.scale_type == ScaleType::kFloat32;
}
JAXFP4_HD bool HasOuterBlocks(const Operand& x) { return HasOuterScale(x) && x.scale_cols > 1; }

JAXFP4_HD float OuterScale(const Operand& x, const Row& r, uint32_t unit) {
  return HasOuterScale(x) ? static_cast<const float*>(x.scale)[ScaleIndex(x, r, unit)] : 1.0f;
}

// What multiplies a whole sum: the scale of a row without blocks, if any.
JAXFP4_HD float RowScale(const Operand& x, const Row& r) {
  return HasOuterBlocks(x) ? 1.0f : OuterScale(x, r, 0);
}

// The product of the global scales of an output, rounded. Rows are those of memory: any of a batch
// entry's where they are contracted.
JAXFP4_HD float GlobalScale(const DotArgs& a, uint32_t lhs_row, uint32_t rhs_row) {
  return a.lhs.global[a.lhs.rows_per_global.Divide(lhs_row)] *
         a.rhs.global[a.rhs.rows_per_global.Divide(rhs_row)];
}

// What multiplies all sums over the rows of rhs in a batch entry: scales that these share.
struct EntryScale {
  float row, global;

  JAXFP4_HD EntryScale(const DotArgs& a, uint32_t batch) {
    const uint32_t first = EntryOf(a, batch).rhs_row;
    row = a.scales_in_lhs ? 1.0f : OuterScale(a.rhs, RowOf(a.rhs, first), 0);
    global = a.rhs.global[a.rhs.rows_per_global.Divide(first)];
  }
  JAXFP4_HD float Of(float sum) const { return (sum * row) * global; }
};

JAXFP4_HD void StoreAt(const DotArgs& a, int64_t index, float y) {
  StoreNarrowed(a.out_dtype, y, static_cast<unsigned char*>(a.out) + index * SizeOf(a.out_dtype));
}
JAXFP4_HD void StoreOutput(const DotArgs& a, uint32_t lhs_row, uint32_t col, float y) {
  StoreAt(a, int64_t{lhs_row} * a.cols + col, y);
}
// Wherever the result wants it.
JAXFP4_HD void StoreOutput(const DotArgs& a, uint32_t batch, uint32_t row, uint32_t col, float y) {
  StoreAt(a,
          a.out_transposed ? (int64_t{batch} * a.cols + col) * a.rows + row
                           : (int64_t{batch} * a.rows + row) * a.cols + col,
          y);
}

}  // namespace jaxfp4::cuda
