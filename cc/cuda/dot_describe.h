// A call of scaled_dot as its kernels see it.
#pragma once

#include "cc/cuda/dot_operand.h"
#include "cc/cuda/launch.h"

namespace jaxfp4::cuda {

inline int BitsOf(const DotOperand& x) {
  if (!x.coded) return SizeOf(x.dtype) * 8;
  switch (x.format.element) {
    case Element::kE2M1: return E2M1::kBits;
    case Element::kE2M3: return E2M3::kBits;
    case Element::kE3M2: return E3M2::kBits;
    case Element::kE4M3: return E4M3::kBits;
    case Element::kE5M2: break;
  }
  return E5M2::kBits;
}

// Rows and their lengths are those of memory.
inline Status Describe(const DotOperand& x, int64_t rows, int64_t length, bool interleaved,
                       Operand* out) {
  Operand& o = *out;
  o = {};
  o.data = static_cast<const uint8_t*>(x.data);
  o.global = x.global_scale;
  o.rows_per_global = Divider(rows / x.global_count);
  o.coded = x.coded;
  o.transposed = x.transposed;
  o.dtype = x.dtype;
  o.bits = BitsOf(x);
  o.row_bytes = length * o.bits / 8;
  if (!x.coded) return nullptr;
  o.interleaved = interleaved;
  o.element = x.format.element;
  o.scale_type = x.format.scale_type;
  o.scale = x.scale;
  o.scale_row_stride = x.scale_row_stride;
  o.scale_cols = static_cast<uint32_t>(x.scale_cols);
  o.rows_per_offset = Divider(x.rows_per_offset);
  o.rows_share_scales = x.format.block_rows > 1;
  o.block_rows = Divider(x.format.block_rows > 1 ? x.format.block_rows : 1);
  o.units_per_scale = Divider(x.format.block_cols > 0 ? x.format.block_cols / kUnit : 1);
  return o.scale_offset.Fit(x.scale_offset, rows / x.rows_per_offset) ? nullptr : kTooManyAxes;
}

// Whether rows of codes that are contracted have float32 scales of their own, so that no sum can be
// multiplied by them.
inline bool ScalesGoIntoLhs(const ScaledDotProblem& p) {
  const DotOperand& x = p.rhs;
  if (!x.transposed || x.format.scale_type != ScaleType::kFloat32) return false;
  if (x.scale_cols > 1 || x.scale_row_stride > 0) return true;
  for (int64_t row = 0; row < p.batch * p.depth; ++row) {
    const int64_t first = row / p.depth * p.depth;
    if (x.scale_offset[row / x.rows_per_offset] != x.scale_offset[first / x.rows_per_offset]) {
      return true;
    }
  }
  return false;
}

// `matrices`: entries of rhs.
inline Status Describe(const ScaledDotProblem& p, int64_t matrices, DotArgs* args) {
  if (p.batch * p.rows > kMostItems || matrices * p.cols > kMostItems || p.depth > kMostItems ||
      (p.rhs.transposed && p.batch * p.depth > kMostItems)) {
    return kTooLarge;
  }
  *args = {};
  args->batch = static_cast<uint32_t>(p.batch);
  args->rows = static_cast<uint32_t>(p.rows);
  args->cols = static_cast<uint32_t>(p.cols);
  args->depth = static_cast<uint32_t>(p.depth);
  args->scales_in_lhs = ScalesGoIntoLhs(p);
  args->out_transposed = p.out_transposed;
  args->out_dtype = p.out_dtype;
  args->out = p.out;
  const bool interleaved = p.rhs_layout == Layout::kInterleaved16;
  const auto describe = [&](const DotOperand& x, int64_t entries, int64_t outputs,
                            bool is_interleaved, Operand* o) {
    return x.transposed ? Describe(x, entries * p.depth, outputs, is_interleaved, o)
                        : Describe(x, entries * outputs, p.depth, is_interleaved, o);
  };
  if (const Status s = describe(p.lhs, p.batch, p.rows, false, &args->lhs)) return s;
  return describe(p.rhs, matrices, p.cols, interleaved, &args->rhs);
}
inline Status Describe(const ScaledDotProblem& p, DotArgs* args) {
  return Describe(p, p.batch, args);
}

}  // namespace jaxfp4::cuda
