// The operations as plain data: what a handler fills in and a kernel reads. The values of the
// enumerations are those of the int64 attributes of the FFI targets.
#pragma once

#include <cstdint>

namespace jaxfp4 {

enum class Dtype : int64_t { kF32 = 0, kBF16 = 1, kF16 = 2 };
enum class Element : int64_t { kE2M1 = 0, kE2M3 = 1, kE3M2 = 2, kE4M3 = 3, kE5M2 = 4 };
enum class ScaleType : int64_t { kFloat32 = 0, kE4M3 = 1, kE8M0 = 2 };
enum class ScaleRule : int64_t {
  kNearest = 0,
  kUp = 1,
  kFourOverSix = 2,
  kFourOverSixVariance = 3,
  kFloor = 4,
  kEven = 5,
  kRceil = 6,
  kCeil = 7,
};
enum class Arithmetic : int64_t { kTE = 0, kModelOpt = 1, kCompressedTensors = 2 };
enum class Rounding : int64_t { kNearest = 0, kStochastic8 = 1, kStochastic24 = 2 };

// An element type, the type of its block scales, and how many elements share one.
// block_cols == 0: no block along the columns (one scale per row, or per tensor).
struct BlockFormat {
  Element element;
  ScaleType scale_type;
  int64_t block_rows;
  int64_t block_cols;
};

// quantize_blocks and fake_quantize: x is [batch, rows, cols]. Row i of outer (G on encode, g on
// decode) serves the i-th of `outer_count` equal runs of the batch * rows rows of x.
struct QuantizeProblem {
  BlockFormat format;
  ScaleRule rule;
  Arithmetic arithmetic;
  Rounding rounding;
  Dtype dtype;
  int64_t batch, rows, cols;
  int64_t outer_count;
  const void* x;
  const float* outer;          // [outer_count, 2]
  const uint32_t* row_seed;    // [batch * rows, 2], stochastic rounding only
  const uint32_t* col_index;   // [col_index_count], stochastic rounding only
  int64_t col_index_count;     // divides cols
  // Results: quantize_blocks has data [batch, rows, cols * bits / 8] and scale [batch,
  // ceil(rows / block_rows), cols / block_cols]; fake_quantize has out, like x.
  uint8_t* data;
  void* scale;
  void* out;
};

// dequantize_blocks: data [batch, rows, cols * bits / 8] -> out [batch, rows, cols].
// The scale of row r of batch entry b starts at scale + scale_batch_offset[b] + (r / block_rows) *
// scale_row_stride (in elements); its columns are scale_cols (1 = one scale for the whole row).
struct DequantizeProblem {
  BlockFormat format;
  Dtype dtype;
  int64_t batch, rows, cols;
  const uint8_t* data;
  const void* scale;
  const int64_t* scale_batch_offset;  // [batch]
  int64_t scale_row_stride;
  int64_t scale_cols;
  int64_t global_count;       // global_scale serves equal runs of rows, as outer does above
  const float* global_scale;  // [global_count]
  void* out;
};

// amax: out[i] = max |finite x[i, :]|, x is [batch, size].
struct AmaxProblem {
  Dtype dtype;
  int64_t batch, size;
  const void* x;
  float* out;
};

// hadamard: every group of n consecutive elements of x [count] (n divides count).
struct HadamardProblem {
  Dtype dtype;
  int64_t count;
  int64_t n;
  bool inverse;
  const void* x;
  const float* signs;  // [n]
  void* out;
};

// How the codes of rhs lie in memory.
enum class Layout : int64_t {
  kLogical = 0,
  // For e2m1 with e4m3 scales of 16 or e8m0 scales of 32, and rows in multiples of 16. Sixteen rows
  // are interleaved, four bytes (eight codes) of each at a time; so are scales of one row, byte by
  // byte:
  //   data.reshape(N / 16, 16, K / 8, 4).transpose(0, 2, 1, 3)
  //   scale.reshape(N / 16, 16, K / block_cols).transpose(0, 2, 1)
  // Scales of blocks of several rows stay as they are.
  kInterleaved16 = 1,
};

// An operand of shape [batch, rows, depth], as floats or as codes with scales; or transposed, its
// contracted axis before the other: [batch, depth, rows].
//
// The scale of row r (counted through the batch) starts, in elements, at
//   scale_offset[r / rows_per_offset] + (r % rows_per_offset) / block_rows * scale_row_stride
// and has scale_cols columns: depth / block_cols, or 1 for the whole row. Rows and depth are here
// those of memory, whatever is contracted.
struct DotOperand {
  bool coded;
  bool transposed;
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

// out[b, m, n] = sum over k of lhs[b, m, k] * rhs[b, n, k], times the global scales. Transposed are
// a float lhs, and codes of rhs under a float lhs in the logical layout; and then out, which is
// [batch, cols, rows] if it is.
struct ScaledDotProblem {
  int64_t batch, rows, cols, depth;  // B, M, N, K
  DotOperand lhs, rhs;
  Layout rhs_layout;
  bool exact;  // sums of float32's precision are asked for: kernels with fewer bits stand back
  bool out_transposed;
  Dtype out_dtype;
  void* out;
  int64_t out_stride;  // from a row of out to the next; of CPUs only, others have it be cols
  void* scratch;  // for the kernel's own use while it runs: scratch_bytes of it, maybe none
  int64_t scratch_bytes;
  bool* out_of_memory;  // set, by any thread, if scratch memory cannot be had; out is then garbage
};

// ragged_dot: rhs has a matrix for each group of rows of lhs, [rhs_batch, groups, cols, depth]. The
// rows of a batch entry are its groups, one after the other, as many of each as group_sizes says;
// rows after the last group give zeros. Equal runs of batch entries share an entry of rhs.
struct RaggedDotProblem {
  ScaledDotProblem dot;  // its rhs has rhs_batch * groups entries instead of batch; nothing is
                         // transposed, and blocks of lhs have one row
  int64_t rhs_batch, groups;
  const int32_t* group_sizes;  // [batch, groups]; on a GPU they are there

  // The entry of rhs that group g of batch entry b has.
  constexpr int64_t Matrix(int64_t b, int64_t g) const {
    return b / (dot.batch / rhs_batch) * groups + g;
  }
};

}  // namespace jaxfp4
