// From the operands and attributes of a scaled product to a problem, or an error that says what is
// wrong. Nothing here knows the platform.
#pragma once

#include <cstdint>

#include "cc/problem.h"
#include "cc/ffi/buffers.h"

namespace jaxfp4 {

struct ScaledDotAttributes {
  int64_t lhs_element, lhs_scale_type, lhs_block_rows, lhs_block_cols;
  int64_t rhs_element, rhs_scale_type, rhs_block_rows, rhs_block_cols;
  int64_t rhs_layout;
  int64_t exact;
};

// What problem->*.scale_offset point into.
struct ScaledDotOffsets {
  Dims lhs, rhs;
};

ffi::Error ReadScaledDot(const ffi::AnyBuffer& lhs, const ffi::AnyBuffer& lhs_scale,
                         const ffi::AnyBuffer& lhs_global, const ffi::AnyBuffer& rhs,
                         const ffi::AnyBuffer& rhs_scale, const ffi::AnyBuffer& rhs_global,
                         const ffi::AnyBuffer& out, const ScaledDotAttributes& attributes,
                         ScaledDotProblem* problem, ScaledDotOffsets* offsets);

// The same attributes, for a matrix of rhs for each group of rows. Group sizes may be elsewhere:
// none is read.
ffi::Error ReadRaggedDot(const ffi::AnyBuffer& lhs, const ffi::AnyBuffer& lhs_scale,
                         const ffi::AnyBuffer& lhs_global, const ffi::AnyBuffer& rhs,
                         const ffi::AnyBuffer& rhs_scale, const ffi::AnyBuffer& rhs_global,
                         const ffi::AnyBuffer& group_sizes, const ffi::AnyBuffer& out,
                         const ScaledDotAttributes& attributes, RaggedDotProblem* problem,
                         ScaledDotOffsets* offsets);

// Where they can be read: none is negative, and there are rows for all.
ffi::Error CheckGroupSizes(const RaggedDotProblem& problem);

struct ScaledDotTransposedAttributes {
  int64_t element, scale_type, block_rows, block_cols;
  int64_t batch_rank, contracted_first, out_transposed;
};

// Floats times the rows of rhs: lhs and out of the problem may be transposed, rhs is.
ffi::Error ReadScaledDotTransposed(const ffi::AnyBuffer& lhs, const ffi::AnyBuffer& rhs,
                                   const ffi::AnyBuffer& rhs_scale,
                                   const ffi::AnyBuffer& rhs_global, const ffi::AnyBuffer& out,
                                   const ScaledDotTransposedAttributes& attributes,
                                   ScaledDotProblem* problem, ScaledDotOffsets* offsets);

}  // namespace jaxfp4
