#include "cc/ffi/scaled_dot_problem.h"

#include <string>

#include "cc/ffi/problems.h"

namespace jaxfp4 {
namespace {

constexpr char kScaledDot[] = "jaxfp4_scaled_dot";
constexpr char kRaggedDot[] = "jaxfp4_ragged_dot";

// An operand's names in errors, and what comes with the data.
struct Source {
  const char* op;
  const char* format_name;  // the operation and operand, for errors about the format
  const char* data_name;
  const char* scale_name;
  const char* global_name;
  const ffi::AnyBuffer& data;
  const ffi::AnyBuffer& scale;
  const ffi::AnyBuffer& global;
  int64_t element, scale_type, block_rows, block_cols;

  Subject Of(const char* operand) const { return {op, operand}; }
};

// The shape of the values: [leading..., K].
ffi::Error ReadValues(const Source& source, DotOperand* x, Dims* dims) {
  *dims = DimsOf(source.data);
  if (dims->size() < 2) {
    return Invalid(source.Of(source.data_name),
                   "has shape " + Text(*dims) + ", expected rank 2 or more");
  }
  x->data = source.data.untyped_data();
  x->coded = source.element != -1;
  if (!x->coded) return ReadFloatDtype(source.Of(source.data_name), source.data, &x->dtype);
  JAXFP4_RETURN_IF_ERROR(ReadBlockFormat(source.format_name, source.element, source.scale_type,
                                         source.block_rows, source.block_cols, &x->format));
  JAXFP4_RETURN_IF_ERROR(ExpectDtype(source.Of(source.data_name), source.data, ffi::DataType::U8));
  const int64_t bits = BitsOf(x->format.element), bytes = dims->back();
  dims->back() = bytes * 8 / bits;
  if (bytes * 8 % bits != 0) {
    return Invalid(source.Of(source.data_name),
                   "has " + std::to_string(bytes) + " bytes in a row, expected whole groups of " +
                       std::to_string(bits) + "-bit codes");
  }
  if (x->format.block_cols != 0 && dims->back() % x->format.block_cols != 0) {
    return Invalid(source.Of(source.data_name),
                   "has K = " + std::to_string(dims->back()) +
                       ", expected a multiple of the block's " +
                       std::to_string(x->format.block_cols));
  }
  return ffi::Error::Success();
}

// The scale shape without broadcasting: rows stand for one scale each, or ceil(rows / block_rows).
Dims FullScaleShape(const BlockFormat& format, const Dims& values) {
  Dims full = values;
  const size_t row = values.size() - 2;
  if (format.block_rows > 1) full[row] = CeilDiv(full[row], format.block_rows);
  full.back() = format.block_cols == 0 ? 1 : full.back() / format.block_cols;
  return full;
}

// Where scales start for each of the leading `axes` axes of the values; axes of one scale
// broadcast.
Dims ScaleOffsets(const Dims& values, const Dims& scale, size_t axes) {
  Dims offsets = {0};
  for (size_t axis = 0; axis < axes; ++axis) {
    const int64_t stride = scale[axis] == 1 ? 0 : Product(Slice(scale, axis + 1, scale.size()));
    Dims next;
    next.reserve(offsets.size() * static_cast<size_t>(values[axis]));
    for (const int64_t offset : offsets) {
      for (int64_t i = 0; i < values[axis]; ++i) next.push_back(offset + i * stride);
    }
    offsets.swap(next);
  }
  return offsets;
}

// Blocks of several rows and rhs (of any number of rows) step through the rows of a batch entry;
// other rows have an offset each, so that any of their axes may broadcast.
ffi::Error ReadScale(const Source& source, const Dims& values, size_t batch_rank, bool each_row,
                     DotOperand* x, Dims* offsets) {
  const BlockFormat& format = x->format;
  JAXFP4_RETURN_IF_ERROR(
      ExpectDtype(source.Of(source.scale_name), source.scale, DataTypeOf(format.scale_type)));
  if (format.block_rows > 1 && values.size() != batch_rank + 2) {
    return Invalid(source.Of(source.data_name),
                   "has values of shape " + Text(values) +
                       ", expected one axis of rows for blocks of " +
                       std::to_string(format.block_rows) + " rows");
  }
  const Dims full = FullScaleShape(format, values);
  const Dims got = DimsOf(source.scale);
  bool fits = got.size() == full.size() && got.back() == full.back();
  for (size_t i = 0; fits && i + 1 < full.size(); ++i) {
    const bool blocked = i == batch_rank && format.block_rows > 1;
    fits = got[i] == full[i] || (got[i] == 1 && !blocked);
  }
  if (!fits) {
    return Invalid(source.Of(source.scale_name),
                   "has shape " + Text(got) + ", expected " + Text(full) + " (blocks of " +
                       std::to_string(format.block_rows) + " x " +
                       std::to_string(format.block_cols) + " for values " + Text(values) +
                       "; axes before the last may be 1" +
                       (format.block_rows > 1 ? " but for the rows)" : ")"));
  }
  const size_t row = values.size() - 2;
  x->scale = source.scale.untyped_data();
  x->scale_cols = got.back();
  x->scale_row_stride = got[row] == 1 ? 0 : got.back();
  const bool tabled = each_row && format.block_rows <= 1;
  x->rows_per_offset = tabled ? 1 : values[row];
  *offsets = ScaleOffsets(values, got, tabled ? row + 1 : batch_rank);
  x->scale_offset = offsets->data();
  return ffi::Error::Success();
}

ffi::Error ReadGlobal(const Source& source, const Dims& values, size_t most, DotOperand* x) {
  const Subject subject = source.Of(source.global_name);
  JAXFP4_RETURN_IF_ERROR(ExpectDtype(subject, source.global, ffi::DataType::F32));
  x->global_scale = static_cast<const float*>(source.global.untyped_data());
  x->global_count = Product(DimsOf(source.global));
  if (x->global_count == 1) return ffi::Error::Success();
  return ExpectLeading(subject, source.global, values, most, {});
}

ffi::Error CheckContraction(const Source& left, const Dims& lhs, const Dims& rhs,
                            size_t batch_rank) {
  const bool fits = lhs.size() > batch_rank && lhs.back() == rhs.back() &&
                    Slice(lhs, 0, batch_rank) == Slice(rhs, 0, batch_rank);
  if (fits) return ffi::Error::Success();
  Dims expected = Slice(rhs, 0, batch_rank);
  expected.push_back(rhs.back());
  return Invalid(left.Of("lhs"), "has values of shape " + Text(lhs) + ", expected the axes " +
                                     Text(expected) + " of rhs " + Text(rhs) +
                                     " with axes of rows before the last");
}

ffi::Error ReadLayout(const Source& right, int64_t layout, const Dims& scale,
                      ScaledDotProblem* problem) {
  ScaledDotProblem& p = *problem;
  JAXFP4_RETURN_IF_ERROR(ExpectAttribute(right.Of("rhs_layout"), layout, 0, 1));
  p.rhs_layout = static_cast<Layout>(layout);
  if (layout == 0) return ffi::Error::Success();
  const BlockFormat& format = p.rhs.format;
  const bool full = scale[scale.size() - 2] == CeilDiv(p.cols, format.block_rows);
  const bool nvfp4 = format.scale_type == ScaleType::kE4M3 && format.block_cols == 16;
  const bool mxfp4 = format.scale_type == ScaleType::kE8M0 && format.block_cols == 32;
  if (format.element == Element::kE2M1 && (nvfp4 || mxfp4) && p.cols % 16 == 0 && full) {
    return ffi::Error::Success();
  }
  return Invalid(right.Of("rhs_layout"),
                 "is 1, which needs e2m1 codes with e4m3 scales of 16 or e8m0 scales of 32, and "
                 "rows of rhs (" + std::to_string(p.cols) + ") in multiples of 16");
}

// The operands of a product, whatever the axes of their rows: formats and shapes.
ffi::Error ReadOperands(const Source& left, const Source& right, ScaledDotProblem* p, Dims* lhs,
                        Dims* rhs) {
  if (right.element == -1) {
    return Invalid(right.Of("rhs_element"),
                   "is -1 (floats), expected the element type of codes, 0 to 4");
  }
  JAXFP4_RETURN_IF_ERROR(ReadValues(left, &p->lhs, lhs));
  return ReadValues(right, &p->rhs, rhs);
}

// Of lhs the axes but the last are rows, in rhs `batch_rank` axes come before those of a matrix.
ffi::Error ReadScales(const Source& left, const Dims& lhs, size_t lhs_batch_rank,
                      const Source& right, const Dims& rhs, size_t rhs_batch_rank,
                      ScaledDotProblem* p, ScaledDotOffsets* offsets) {
  if (p->lhs.coded) {
    JAXFP4_RETURN_IF_ERROR(ReadScale(left, lhs, lhs_batch_rank, true, &p->lhs, &offsets->lhs));
  }
  JAXFP4_RETURN_IF_ERROR(ReadScale(right, rhs, rhs_batch_rank, false, &p->rhs, &offsets->rhs));
  JAXFP4_RETURN_IF_ERROR(ReadGlobal(left, lhs, lhs.size() - 1, &p->lhs));
  return ReadGlobal(right, rhs, rhs_batch_rank, &p->rhs);
}

ffi::Error ReadOut(const Source& left, const ffi::AnyBuffer& out, const Dims& lhs,
                   ScaledDotProblem* p) {
  Dims result = Slice(lhs, 0, lhs.size() - 1);
  result.push_back(p->cols);
  JAXFP4_RETURN_IF_ERROR(
      ExpectShape(left.Of("out"), out, result, "the axes of lhs but the last, then rows of rhs"));
  JAXFP4_RETURN_IF_ERROR(ReadFloatDtype(left.Of("out"), out, &p->out_dtype));
  p->out = out.untyped_data();
  p->out_stride = p->cols;
  return ffi::Error::Success();
}

Source LhsOf(const char* op, const char* format_name, const ffi::AnyBuffer& lhs,
             const ffi::AnyBuffer& scale, const ffi::AnyBuffer& global,
             const ScaledDotAttributes& a) {
  return {op, format_name, "lhs", "lhs scale", "lhs global scale", lhs, scale, global,
          a.lhs_element, a.lhs_scale_type, a.lhs_block_rows, a.lhs_block_cols};
}
Source RhsOf(const char* op, const char* format_name, const ffi::AnyBuffer& rhs,
             const ffi::AnyBuffer& scale, const ffi::AnyBuffer& global,
             const ScaledDotAttributes& a) {
  return {op, format_name, "rhs", "rhs scale", "rhs global scale", rhs, scale, global,
          a.rhs_element, a.rhs_scale_type, a.rhs_block_rows, a.rhs_block_cols};
}

}  // namespace

ffi::Error ReadScaledDot(const ffi::AnyBuffer& lhs, const ffi::AnyBuffer& lhs_scale,
                         const ffi::AnyBuffer& lhs_global, const ffi::AnyBuffer& rhs,
                         const ffi::AnyBuffer& rhs_scale, const ffi::AnyBuffer& rhs_global,
                         const ffi::AnyBuffer& out, const ScaledDotAttributes& a,
                         ScaledDotProblem* problem, ScaledDotOffsets* offsets) {
  ScaledDotProblem& p = *problem;
  p = {};
  const Source left =
      LhsOf(kScaledDot, "jaxfp4_scaled_dot: lhs", lhs, lhs_scale, lhs_global, a);
  const Source right =
      RhsOf(kScaledDot, "jaxfp4_scaled_dot: rhs", rhs, rhs_scale, rhs_global, a);
  Dims l, r;
  JAXFP4_RETURN_IF_ERROR(ReadOperands(left, right, &p, &l, &r));
  const size_t batch_rank = r.size() - 2;
  JAXFP4_RETURN_IF_ERROR(CheckContraction(left, l, r, batch_rank));
  JAXFP4_RETURN_IF_ERROR(ReadScales(left, l, batch_rank, right, r, batch_rank, &p, offsets));
  p.batch = Product(Slice(r, 0, batch_rank));
  p.rows = Product(Slice(l, batch_rank, l.size() - 1));
  p.cols = r[batch_rank];
  p.depth = r.back();
  JAXFP4_RETURN_IF_ERROR(ReadLayout(right, a.rhs_layout, DimsOf(rhs_scale), &p));
  JAXFP4_RETURN_IF_ERROR(ExpectAttribute(right.Of("exact"), a.exact, 0, 1));
  p.exact = a.exact;
  return ReadOut(left, out, l, &p);
}

ffi::Error ReadRaggedDot(const ffi::AnyBuffer& lhs, const ffi::AnyBuffer& lhs_scale,
                         const ffi::AnyBuffer& lhs_global, const ffi::AnyBuffer& rhs,
                         const ffi::AnyBuffer& rhs_scale, const ffi::AnyBuffer& rhs_global,
                         const ffi::AnyBuffer& group_sizes, const ffi::AnyBuffer& out,
                         const ScaledDotAttributes& a, RaggedDotProblem* problem,
                         ScaledDotOffsets* offsets) {
  *problem = {};
  ScaledDotProblem& p = problem->dot;
  const Source left =
      LhsOf(kRaggedDot, "jaxfp4_ragged_dot: lhs", lhs, lhs_scale, lhs_global, a);
  const Source right =
      RhsOf(kRaggedDot, "jaxfp4_ragged_dot: rhs", rhs, rhs_scale, rhs_global, a);
  Dims l, r;
  JAXFP4_RETURN_IF_ERROR(ReadOperands(left, right, &p, &l, &r));
  const size_t rank = r.size(), batch_rank = l.size() - 2;
  const bool fits = rank >= 3 && rank - 3 <= batch_rank && l.back() == r.back() &&
                    Slice(l, 0, rank - 3) == Slice(r, 0, rank - 3);
  if (!fits) {
    return Invalid(left.Of("lhs"), "has values of shape " + Text(l) + " and rhs of " + Text(r) +
                                       ", expected [B..., M, K] and [B..., G, N, K]");
  }
  if (p.lhs.coded && p.lhs.format.block_rows > 1) {
    return Invalid(left.Of("lhs"), "is in blocks of " + std::to_string(p.lhs.format.block_rows) +
                                       " rows, expected blocks of one, which no group cuts");
  }
  JAXFP4_RETURN_IF_ERROR(ReadScales(left, l, batch_rank, right, r, rank - 2, &p, offsets));
  p.batch = Product(Slice(l, 0, batch_rank));
  p.rows = l[batch_rank];
  p.cols = r[rank - 2];
  p.depth = r.back();
  problem->rhs_batch = Product(Slice(r, 0, rank - 3));
  problem->groups = r[rank - 3];
  JAXFP4_RETURN_IF_ERROR(ReadLayout(right, a.rhs_layout, DimsOf(rhs_scale), &p));
  Dims sizes = Slice(l, 0, batch_rank);
  sizes.push_back(problem->groups);
  const Subject subject = left.Of("group_sizes");
  JAXFP4_RETURN_IF_ERROR(ExpectDtype(subject, group_sizes, ffi::DataType::S32));
  JAXFP4_RETURN_IF_ERROR(
      ExpectShape(subject, group_sizes, sizes, "batch axes of lhs, then matrices of rhs"));
  problem->group_sizes = static_cast<const int32_t*>(group_sizes.untyped_data());
  JAXFP4_RETURN_IF_ERROR(ExpectAttribute(right.Of("exact"), a.exact, 0, 1));
  p.exact = a.exact;
  return ReadOut(left, out, l, &p);
}

ffi::Error CheckGroupSizes(const RaggedDotProblem& p) {
  const Subject subject = {kRaggedDot, "group_sizes"};
  for (int64_t b = 0; b < p.dot.batch; ++b) {
    int64_t sum = 0;
    for (int64_t g = 0; g < p.groups; ++g) {
      const int64_t size = p.group_sizes[b * p.groups + g];
      if (size < 0) {
        return Invalid(subject, "has " + std::to_string(size) + " rows in group " +
                                    std::to_string(g) + ", expected 0 or more");
      }
      sum += size;
    }
    if (sum > p.dot.rows) {
      return Invalid(subject, "has " + std::to_string(sum) + " rows in all, expected at most the " +
                                  std::to_string(p.dot.rows) + " rows of lhs");
    }
  }
  return ffi::Error::Success();
}

ffi::Error ReadScaledDotTransposed(const ffi::AnyBuffer& lhs, const ffi::AnyBuffer& rhs,
                                   const ffi::AnyBuffer& rhs_scale,
                                   const ffi::AnyBuffer& rhs_global, const ffi::AnyBuffer& out,
                                   const ScaledDotTransposedAttributes& a,
                                   ScaledDotProblem* problem, ScaledDotOffsets* offsets) {
  constexpr char kTransposed[] = "jaxfp4_scaled_dot_transposed";
  ScaledDotProblem& p = *problem;
  p = {};
  const Source right = {kTransposed, kTransposed, "rhs", "rhs scale", "rhs global scale",
                        rhs, rhs_scale, rhs_global,
                        a.element, a.scale_type, a.block_rows, a.block_cols};
  Dims values;
  if (a.element == -1) return ExpectAttribute(right.Of("element"), a.element, 0, 4);
  JAXFP4_RETURN_IF_ERROR(ReadValues(right, &p.rhs, &values));
  const int64_t rank = static_cast<int64_t>(values.size());
  JAXFP4_RETURN_IF_ERROR(ExpectAttribute(right.Of("batch_rank"), a.batch_rank, 0, rank - 2));
  JAXFP4_RETURN_IF_ERROR(
      ExpectAttribute(right.Of("contracted_first"), a.contracted_first, 0, 1));
  JAXFP4_RETURN_IF_ERROR(ExpectAttribute(right.Of("out_transposed"), a.out_transposed, 0, 1));
  const size_t batch_rank = static_cast<size_t>(a.batch_rank);
  JAXFP4_RETURN_IF_ERROR(ReadScale(right, values, batch_rank, true, &p.rhs, &offsets->rhs));
  JAXFP4_RETURN_IF_ERROR(ReadGlobal(right, values, batch_rank, &p.rhs));

  const Dims batch = Slice(values, 0, batch_rank);
  const Dims contracted = Slice(values, batch_rank, values.size() - 1);
  const Dims dims = DimsOf(lhs);
  Dims expected = batch, free;
  if (dims.size() >= batch.size() + contracted.size()) {
    const size_t begin = batch_rank + (a.contracted_first ? contracted.size() : 0);
    free = Slice(dims, begin, begin + dims.size() - batch.size() - contracted.size());
  }
  for (const Dims& part : {a.contracted_first ? contracted : free,
                           a.contracted_first ? free : contracted}) {
    expected.insert(expected.end(), part.begin(), part.end());
  }
  JAXFP4_RETURN_IF_ERROR(ReadFloatDtype(right.Of("lhs"), lhs, &p.lhs.dtype));
  JAXFP4_RETURN_IF_ERROR(ExpectShape(right.Of("lhs"), lhs, expected,
                                     "batch axes, and the rows of rhs " + Text(values) +
                                         " beside free axes"));
  static constexpr float kOne = 1.0f;
  p.lhs.data = lhs.untyped_data();
  p.lhs.global_scale = &kOne;
  p.lhs.global_count = 1;
  p.lhs.transposed = a.contracted_first;
  p.rhs.transposed = true;

  p.batch = Product(batch);
  p.rows = Product(free);
  p.cols = values.back();
  p.depth = Product(contracted);
  p.out_transposed = a.out_transposed;
  Dims result = batch;
  if (p.out_transposed) result.push_back(p.cols);
  result.insert(result.end(), free.begin(), free.end());
  if (!p.out_transposed) result.push_back(p.cols);
  JAXFP4_RETURN_IF_ERROR(ExpectShape(right.Of("out"), out, result,
                                     "batch axes, then free axes of lhs and columns of rhs"));
  JAXFP4_RETURN_IF_ERROR(ReadFloatDtype(right.Of("out"), out, &p.out_dtype));
  p.out = out.untyped_data();
  p.out_stride = p.cols;
  return ffi::Error::Success();
}

}  // namespace jaxfp4
