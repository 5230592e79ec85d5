#include "cc/ffi/problems.h"

#include <string>

#include "cc/cpu/plan.h"

namespace jaxfp4 {
namespace {

constexpr int64_t kLanes = 16;

// x [L..., rows, cols]
struct Matrix {
  Dims leading;
  int64_t batch, rows, cols;
};

ffi::Error ReadMatrix(const Subject& subject, const ffi::AnyBuffer& buffer, Matrix* matrix) {
  const Dims dims = DimsOf(buffer);
  if (dims.size() < 2) {
    return Invalid(subject, "has shape " + Text(dims) + ", expected rank 2 or more");
  }
  const size_t rank = dims.size();
  matrix->leading = Slice(dims, 0, rank - 2);
  matrix->batch = Product(matrix->leading);
  matrix->rows = dims[rank - 2];
  matrix->cols = dims[rank - 1];
  return ffi::Error::Success();
}

ffi::Error CheckScaleRule(const char* op, const QuantizeProblem& p) {
  const auto rule = static_cast<int64_t>(p.rule);
  const Subject subject{op, "scale_rule"};
  switch (p.format.scale_type) {
    case ScaleType::kFloat32:
      return ExpectAttribute(subject, rule, 0, 0);
    case ScaleType::kE8M0:
      return ExpectAttribute(subject, rule, static_cast<int64_t>(ScaleRule::kFloor),
                             static_cast<int64_t>(ScaleRule::kCeil));
    case ScaleType::kE4M3:
      break;
  }
  JAXFP4_RETURN_IF_ERROR(
      ExpectAttribute(subject, rule, 0, static_cast<int64_t>(ScaleRule::kFourOverSixVariance)));
  if (p.rule != ScaleRule::kNearest && p.arithmetic != Arithmetic::kTE) {
    return Invalid(subject, "is " + std::to_string(rule) +
                                ", expected 0 (nearest): other rules need the te arithmetic");
  }
  if (IsFourOverSix(p.rule) && p.format.block_cols != kLanes) {
    return Invalid(subject, "is " + std::to_string(rule) +
                                " (four over six), expected block_cols 16, got " +
                                std::to_string(p.format.block_cols));
  }
  return ffi::Error::Success();
}

ffi::Error CheckColumns(const Subject& subject, int64_t cols, const BlockFormat& format) {
  const std::string has = "has " + std::to_string(cols) + " columns, expected a multiple of ";
  if (format.block_cols != 0 && cols % format.block_cols != 0) {
    return Invalid(subject, has + "the block's " + std::to_string(format.block_cols));
  }
  const int64_t bits = BitsOf(format.element);
  if (cols * bits % 8 != 0) {
    return Invalid(subject, has + std::to_string(bits == 4 ? 2 : 4) + ", to pack " +
                                std::to_string(bits) + "-bit codes into bytes");
  }
  return ffi::Error::Success();
}

// The shape of the stored scales of a matrix under a format with inner blocks.
Dims ScaleShape(const Matrix& m, const BlockFormat& format) {
  Dims shape = m.leading;
  shape.push_back(CeilDiv(m.rows, format.block_rows));
  shape.push_back(m.cols / format.block_cols);
  return shape;
}

ffi::Error CheckRandom(const char* op, const Matrix& m, const ffi::AnyBuffer& row_seed,
                       const ffi::AnyBuffer& col_index) {
  JAXFP4_RETURN_IF_ERROR(ExpectDtype({op, "row_seed"}, row_seed, ffi::DataType::U32));
  JAXFP4_RETURN_IF_ERROR(ExpectDtype({op, "col_index"}, col_index, ffi::DataType::U32));
  Dims seeds = m.leading;
  seeds.push_back(m.rows);
  seeds.push_back(2);
  JAXFP4_RETURN_IF_ERROR(
      ExpectShape({op, "row_seed"}, row_seed, seeds, "two words a row for stochastic rounding"));
  const Dims index = DimsOf(col_index);
  const bool divides = index.size() == 1 && (index[0] > 0 ? m.cols % index[0] == 0 : m.cols == 0);
  if (!divides) {
    return Invalid({op, "col_index"}, "has shape " + Text(index) +
                                          ", expected one dimension that divides the " +
                                          std::to_string(m.cols) + " columns of x");
  }
  return ffi::Error::Success();
}

}  // namespace

ffi::Error ReadBlockFormat(const char* op, int64_t element, int64_t scale_type, int64_t block_rows,
                           int64_t block_cols, BlockFormat* format) {
  JAXFP4_RETURN_IF_ERROR(ExpectAttribute({op, "element"}, element, 0, 4));
  JAXFP4_RETURN_IF_ERROR(ExpectAttribute({op, "scale_type"}, scale_type, 0, 2));
  JAXFP4_RETURN_IF_ERROR(ExpectAttribute({op, "block_cols"}, block_cols, 0, kPanelCols));
  *format = {static_cast<Element>(element), static_cast<ScaleType>(scale_type), block_rows,
             block_cols};
  if (block_cols == 0) {
    if (format->scale_type != ScaleType::kFloat32) {
      return Invalid({op, "block_cols"}, "is 0, expected blocks along the columns: only float32 "
                                         "scales go without");
    }
    return ExpectAttribute({op, "block_rows"}, block_rows, 0, 1);
  }
  if (block_cols % kLanes != 0) {
    return Invalid({op, "block_cols"},
                   "is " + std::to_string(block_cols) + ", expected a multiple of 16");
  }
  return ExpectAttribute({op, "block_rows"}, block_rows, 1, int64_t{1} << 30);
}

ffi::Error ReadQuantize(const char* op, const ffi::AnyBuffer& x, const ffi::AnyBuffer& outer,
                        const ffi::AnyBuffer& row_seed, const ffi::AnyBuffer& col_index,
                        const QuantizeAttributes& a, QuantizeProblem* problem) {
  QuantizeProblem& p = *problem;
  p = {};
  JAXFP4_RETURN_IF_ERROR(
      ReadBlockFormat(op, a.element, a.scale_type, a.block_rows, a.block_cols, &p.format));
  JAXFP4_RETURN_IF_ERROR(ExpectAttribute({op, "scale_rule"}, a.scale_rule, 0, 7));
  JAXFP4_RETURN_IF_ERROR(ExpectAttribute({op, "arithmetic"}, a.arithmetic, 0, 2));
  JAXFP4_RETURN_IF_ERROR(ExpectAttribute({op, "rounding"}, a.rounding, 0, 2));
  p.rule = static_cast<ScaleRule>(a.scale_rule);
  p.arithmetic = static_cast<Arithmetic>(a.arithmetic);
  p.rounding = static_cast<Rounding>(a.rounding);
  if (p.format.scale_type == ScaleType::kE4M3 && p.format.element != Element::kE2M1) {
    return Invalid({op, "element"}, "is " + std::to_string(a.element) +
                                        ", expected 0 (e2m1) with e4m3 scales");
  }
  JAXFP4_RETURN_IF_ERROR(CheckScaleRule(op, p));

  Matrix m;
  JAXFP4_RETURN_IF_ERROR(ReadFloatDtype({op, "x"}, x, &p.dtype));
  JAXFP4_RETURN_IF_ERROR(ReadMatrix({op, "x"}, x, &m));
  JAXFP4_RETURN_IF_ERROR(CheckColumns({op, "x"}, m.cols, p.format));
  p.batch = m.batch;
  p.rows = m.rows;
  p.cols = m.cols;
  p.x = x.untyped_data();

  // A tile of several rows has one global scale.
  const size_t most = m.leading.size() + (p.format.block_rows > 1 ? 0 : 1);
  JAXFP4_RETURN_IF_ERROR(ExpectDtype({op, "outer"}, outer, ffi::DataType::F32));
  JAXFP4_RETURN_IF_ERROR(ExpectLeading({op, "outer"}, outer, DimsOf(x), most, {2}));
  p.outer_count = static_cast<int64_t>(outer.element_count()) / 2;
  p.outer = static_cast<const float*>(outer.untyped_data());

  if (p.rounding != Rounding::kNearest) {
    JAXFP4_RETURN_IF_ERROR(CheckRandom(op, m, row_seed, col_index));
    p.row_seed = static_cast<const uint32_t*>(row_seed.untyped_data());
    p.col_index = static_cast<const uint32_t*>(col_index.untyped_data());
    p.col_index_count = static_cast<int64_t>(col_index.element_count());
  }
  return ffi::Error::Success();
}

ffi::Error ReadQuantizeBlocks(const ffi::AnyBuffer& x, const ffi::AnyBuffer& outer,
                              const ffi::AnyBuffer& row_seed, const ffi::AnyBuffer& col_index,
                              const ffi::AnyBuffer& data, const ffi::AnyBuffer& scale,
                              const QuantizeAttributes& attributes, QuantizeProblem* problem) {
  const char* op = "jaxfp4_quantize_blocks";
  JAXFP4_RETURN_IF_ERROR(ReadQuantize(op, x, outer, row_seed, col_index, attributes, problem));
  const BlockFormat& format = problem->format;
  Matrix m;
  JAXFP4_RETURN_IF_ERROR(ReadMatrix({op, "x"}, x, &m));

  Dims packed = DimsOf(x);
  packed.back() = m.cols * BitsOf(format.element) / 8;
  const std::string of_x = "for x " + Text(DimsOf(x));
  JAXFP4_RETURN_IF_ERROR(ExpectDtype({op, "data"}, data, ffi::DataType::U8));
  JAXFP4_RETURN_IF_ERROR(ExpectShape({op, "data"}, data, packed, "packed codes " + of_x));

  Dims scales;
  if (format.block_cols == 0) {
    scales = Slice(DimsOf(outer), 0, outer.dimensions().size() - 1);
    scales.resize(x.dimensions().size(), 1);
  } else {
    scales = ScaleShape(m, format);
  }
  JAXFP4_RETURN_IF_ERROR(ExpectDtype({op, "scale"}, scale, DataTypeOf(format.scale_type)));
  JAXFP4_RETURN_IF_ERROR(ExpectShape({op, "scale"}, scale, scales,
                                     "blocks of " + Text({format.block_rows, format.block_cols}) +
                                         " " + of_x));
  problem->data = static_cast<uint8_t*>(data.untyped_data());
  problem->scale = scale.untyped_data();
  return ffi::Error::Success();
}

ffi::Error ReadFakeQuantize(const ffi::AnyBuffer& x, const ffi::AnyBuffer& outer,
                            const ffi::AnyBuffer& row_seed, const ffi::AnyBuffer& col_index,
                            const ffi::AnyBuffer& out, const QuantizeAttributes& attributes,
                            QuantizeProblem* problem) {
  const char* op = "jaxfp4_fake_quantize";
  JAXFP4_RETURN_IF_ERROR(ReadQuantize(op, x, outer, row_seed, col_index, attributes, problem));
  JAXFP4_RETURN_IF_ERROR(ExpectDtype({op, "result"}, out, x.element_type()));
  JAXFP4_RETURN_IF_ERROR(ExpectShape({op, "result"}, out, DimsOf(x), "the shape of x"));
  problem->out = out.untyped_data();
  return ffi::Error::Success();
}

namespace {

// Whether the scales of a matrix have the shape `full`, any dimension of which may be 1 instead.
bool Broadcasts(const Dims& dims, const Dims& full) {
  if (dims.size() != full.size()) return false;
  for (size_t i = 0; i < dims.size(); ++i) {
    if (dims[i] != full[i] && dims[i] != 1) return false;
  }
  return true;
}

// Where the scales of each batch entry start.
std::vector<int64_t> BatchOffsets(const Dims& leading, const Dims& scale_dims) {
  std::vector<int64_t> offsets = {0};
  int64_t stride = Product(scale_dims);
  for (size_t axis = 0; axis < leading.size(); ++axis) {
    if (scale_dims[axis] > 0) stride /= scale_dims[axis];
    const int64_t step = scale_dims[axis] == 1 ? 0 : stride;
    std::vector<int64_t> next;
    next.reserve(offsets.size() * static_cast<size_t>(leading[axis]));
    for (const int64_t offset : offsets) {
      for (int64_t i = 0; i < leading[axis]; ++i) next.push_back(offset + i * step);
    }
    offsets = std::move(next);
  }
  return offsets;
}

}  // namespace

ffi::Error ReadDequantizeBlocks(const ffi::AnyBuffer& data, const ffi::AnyBuffer& scale,
                                const ffi::AnyBuffer& global_scale, const ffi::AnyBuffer& out,
                                int64_t element, int64_t scale_type, int64_t block_rows,
                                int64_t block_cols, DequantizeProblem* problem,
                                std::vector<int64_t>* offsets) {
  const char* op = "jaxfp4_dequantize_blocks";
  DequantizeProblem& p = *problem;
  p = {};
  JAXFP4_RETURN_IF_ERROR(
      ReadBlockFormat(op, element, scale_type, block_rows, block_cols, &p.format));

  Matrix m;
  JAXFP4_RETURN_IF_ERROR(ReadFloatDtype({op, "result"}, out, &p.dtype));
  JAXFP4_RETURN_IF_ERROR(ReadMatrix({op, "result"}, out, &m));
  JAXFP4_RETURN_IF_ERROR(CheckColumns({op, "result"}, m.cols, p.format));
  p.batch = m.batch;
  p.rows = m.rows;
  p.cols = m.cols;
  p.out = out.untyped_data();

  const std::string of_out = "for the result " + Text(DimsOf(out));
  Dims packed = DimsOf(out);
  packed.back() = m.cols * BitsOf(p.format.element) / 8;
  JAXFP4_RETURN_IF_ERROR(ExpectDtype({op, "data"}, data, ffi::DataType::U8));
  JAXFP4_RETURN_IF_ERROR(ExpectShape({op, "data"}, data, packed, "packed codes " + of_out));
  p.data = static_cast<const uint8_t*>(data.untyped_data());

  Dims full = DimsOf(out);
  full[full.size() - 2] = block_rows == 0 ? 1 : CeilDiv(m.rows, block_rows);
  full.back() = block_cols == 0 ? 1 : m.cols / block_cols;
  const Dims dims = DimsOf(scale);
  JAXFP4_RETURN_IF_ERROR(ExpectDtype({op, "scale"}, scale, DataTypeOf(p.format.scale_type)));
  if (!Broadcasts(dims, full)) {
    return Invalid({op, "scale"}, "has shape " + Text(dims) + ", expected " + Text(full) +
                                      " with any dimension 1 instead (blocks of " +
                                      Text({block_rows, block_cols}) + " " + of_out + ")");
  }
  *offsets = BatchOffsets(m.leading, dims);
  p.scale = scale.untyped_data();
  p.scale_batch_offset = offsets->data();
  p.scale_cols = dims.back();
  p.scale_row_stride = dims[dims.size() - 2] == 1 ? 0 : dims.back();

  JAXFP4_RETURN_IF_ERROR(ExpectDtype({op, "global_scale"}, global_scale, ffi::DataType::F32));
  JAXFP4_RETURN_IF_ERROR(ExpectLeading({op, "global_scale"}, global_scale, DimsOf(out),
                                       m.leading.size() + 1, {}));
  p.global_count = static_cast<int64_t>(global_scale.element_count());
  p.global_scale = static_cast<const float*>(global_scale.untyped_data());
  return ffi::Error::Success();
}

ffi::Error ReadAmax(const ffi::AnyBuffer& x, const ffi::AnyBuffer& out, AmaxProblem* problem) {
  const char* op = "jaxfp4_amax";
  const Dims dims = DimsOf(x);
  JAXFP4_RETURN_IF_ERROR(ReadFloatDtype({op, "x"}, x, &problem->dtype));
  JAXFP4_RETURN_IF_ERROR(ExpectDtype({op, "result"}, out, ffi::DataType::F32));
  JAXFP4_RETURN_IF_ERROR(ExpectLeading({op, "result"}, out, dims, dims.size(), {}));
  problem->batch = static_cast<int64_t>(out.element_count());
  problem->size = Product(Slice(dims, out.dimensions().size(), dims.size()));
  problem->x = x.untyped_data();
  problem->out = static_cast<float*>(out.untyped_data());
  return ffi::Error::Success();
}

ffi::Error ReadHadamard(const ffi::AnyBuffer& x, const ffi::AnyBuffer& signs,
                        const ffi::AnyBuffer& out, int64_t inverse, HadamardProblem* problem) {
  const char* op = "jaxfp4_hadamard";
  HadamardProblem& p = *problem;
  JAXFP4_RETURN_IF_ERROR(ReadFloatDtype({op, "x"}, x, &p.dtype));
  JAXFP4_RETURN_IF_ERROR(ExpectDtype({op, "signs"}, signs, ffi::DataType::F32));
  JAXFP4_RETURN_IF_ERROR(ExpectAttribute({op, "inverse"}, inverse, 0, 1));
  const Dims dims = DimsOf(x), n = DimsOf(signs);
  if (n.size() != 1 || n[0] < 2 || n[0] > 1024 || (n[0] & (n[0] - 1)) != 0) {
    return Invalid({op, "signs"},
                   "has shape " + Text(n) + ", expected one power of two from 2 to 1024");
  }
  if (dims.empty() || dims.back() % n[0] != 0) {
    return Invalid({op, "x"}, "has shape " + Text(dims) +
                                  ", expected a last dimension divisible by " +
                                  std::to_string(n[0]) + ", the size of the transform");
  }
  JAXFP4_RETURN_IF_ERROR(ExpectDtype({op, "result"}, out, x.element_type()));
  JAXFP4_RETURN_IF_ERROR(ExpectShape({op, "result"}, out, dims, "the shape of x"));
  p.count = Product(dims);
  p.n = n[0];
  p.inverse = inverse != 0;
  p.x = x.untyped_data();
  p.signs = static_cast<const float*>(signs.untyped_data());
  p.out = out.untyped_data();
  return ffi::Error::Success();
}

}  // namespace jaxfp4
