// From the operands and attributes of an FFI call to a problem, or an error that says what is
// wrong. Nothing here knows the platform: the same checks serve CPU and CUDA.
#pragma once

#include <cstdint>
#include <vector>

#include "cc/ffi/buffers.h"

namespace jaxfp4 {

struct QuantizeAttributes {
  int64_t element, scale_type, scale_rule, arithmetic, rounding, block_rows, block_cols;
};

// Everything but the results.
ffi::Error ReadQuantize(const char* op, const ffi::AnyBuffer& x, const ffi::AnyBuffer& outer,
                        const ffi::AnyBuffer& row_seed, const ffi::AnyBuffer& col_index,
                        const QuantizeAttributes& attributes, QuantizeProblem* problem);
ffi::Error ReadQuantizeBlocks(const ffi::AnyBuffer& x, const ffi::AnyBuffer& outer,
                              const ffi::AnyBuffer& row_seed, const ffi::AnyBuffer& col_index,
                              const ffi::AnyBuffer& data, const ffi::AnyBuffer& scale,
                              const QuantizeAttributes& attributes, QuantizeProblem* problem);
ffi::Error ReadFakeQuantize(const ffi::AnyBuffer& x, const ffi::AnyBuffer& outer,
                            const ffi::AnyBuffer& row_seed, const ffi::AnyBuffer& col_index,
                            const ffi::AnyBuffer& out, const QuantizeAttributes& attributes,
                            QuantizeProblem* problem);

// problem->scale_batch_offset points into offsets.
ffi::Error ReadDequantizeBlocks(const ffi::AnyBuffer& data, const ffi::AnyBuffer& scale,
                                const ffi::AnyBuffer& global_scale, const ffi::AnyBuffer& out,
                                int64_t element, int64_t scale_type, int64_t block_rows,
                                int64_t block_cols, DequantizeProblem* problem,
                                std::vector<int64_t>* offsets);

ffi::Error ReadAmax(const ffi::AnyBuffer& x, const ffi::AnyBuffer& out, AmaxProblem* problem);

ffi::Error ReadHadamard(const ffi::AnyBuffer& x, const ffi::AnyBuffer& signs,
                        const ffi::AnyBuffer& out, int64_t inverse, HadamardProblem* problem);

// ---- for other problems over block formats

// The attributes of a block format, in range and consistent with each other.
ffi::Error ReadBlockFormat(const char* op, int64_t element, int64_t scale_type, int64_t block_rows,
                           int64_t block_cols, BlockFormat* format);

}  // namespace jaxfp4
