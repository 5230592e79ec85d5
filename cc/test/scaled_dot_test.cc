// scaled_dot on every target against a float64 product of the decoded operands.
#include "cc/cpu/scaled_dot.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <initializer_list>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "cc/cpu/run.h"
#include "cc/cpu/targets.h"
#include "cc/test/check.h"
#include "cc/test/oracle.h"
#include "cc/test/thread_parallel.h"

namespace jaxfp4 {
namespace {

// ---- independent decoding

double Value(Element e, unsigned code) {
  return oracle::Value(oracle::TypeOf(e), static_cast<int>(code));
}
int Bits(Element e) { return oracle::TypeOf(e).bits; }

double ScaleValue(ScaleType type, const void* scale, int64_t i) {
  if (type == ScaleType::kFloat32) return static_cast<const float*>(scale)[i];
  const uint8_t code = static_cast<const uint8_t*>(scale)[i];
  if (type == ScaleType::kE4M3) return Value(Element::kE4M3, code);
  return code == 255 ? NAN : std::ldexp(1.0, code - 127);
}
unsigned CodeAt(const uint8_t* row, int bits, int64_t k) {
  const int64_t at = k * bits;
  unsigned word = row[at / 8];
  if (at % 8 + bits > 8) word |= unsigned{row[at / 8 + 1]} << 8;
  return (word >> (at % 8)) & ((1u << bits) - 1);
}
float HalfToFloat(uint16_t h, Dtype dtype) {
  if (dtype == Dtype::kBF16) {
    const uint32_t bits = uint32_t{h} << 16;
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
  }
  const int exponent = (h >> 10) & 31, mantissa = h & 1023;
  const float sign = h >> 15 ? -1.0f : 1.0f;
  if (exponent == 31) return mantissa ? NAN : sign * INFINITY;
  return sign * (exponent ? std::ldexp(1024.0f + static_cast<float>(mantissa), exponent - 25)
                          : std::ldexp(static_cast<float>(mantissa), -24));
}
double At(Dtype dtype, const void* data, int64_t i) {
  if (dtype == Dtype::kF32) return static_cast<const float*>(data)[i];
  return HalfToFloat(static_cast<const uint16_t*>(data)[i], dtype);
}

// ---- operands

struct Spec {
  std::string name;
  bool coded;
  Dtype dtype;
  BlockFormat format;
};

struct Operand {
  Spec spec;
  int64_t batch, rows, depth;
  std::vector<uint8_t> data, scale;
  std::vector<int64_t> offsets;
  std::vector<float> global;

  int64_t BlockRows() const { return spec.format.block_rows; }
  int64_t ScaleRows() const {
    return BlockRows() == 0 ? 1 : (rows + BlockRows() - 1) / BlockRows();
  }
  int64_t ScaleCols() const {
    return spec.format.block_cols == 0 ? 1 : depth / spec.format.block_cols;
  }
  int64_t RowBytes() const {
    return depth * (spec.coded ? Bits(spec.format.element)
                               : spec.dtype == Dtype::kF32 ? 32 : 16) / 8;
  }
  double Scale(int64_t b, int64_t r, int64_t k) const {
    if (!spec.coded) return 1;
    const int64_t row = BlockRows() == 0 ? 0 : r / BlockRows();
    const int64_t col = spec.format.block_cols == 0 ? 0 : k / spec.format.block_cols;
    return ScaleValue(spec.format.scale_type, scale.data(),
                      (b * ScaleRows() + row) * ScaleCols() + col);
  }
  double Get(int64_t b, int64_t r, int64_t k) const {
    const uint8_t* row = data.data() + (b * rows + r) * RowBytes();
    if (!spec.coded) return At(spec.dtype, row, k);
    const Element e = spec.format.element;
    return Value(e, CodeAt(row, Bits(e), k)) * Scale(b, r, k);
  }
  // All of them, row by row: decoded once, since sums take each many times.
  std::vector<double> Values() const {
    std::vector<double> values;
    for (int64_t i = 0; i < batch * rows * depth; ++i) {
      values.push_back(Get(i / depth / rows, i / depth % rows, i % depth));
    }
    return values;
  }
  double Global(int64_t b) const { return RowGlobal(b * rows); }
  double RowGlobal(int64_t row) const {  // counted through the batch
    return global[static_cast<size_t>(row * static_cast<int64_t>(global.size()) / (batch * rows))];
  }
  DotOperand Describe() const {
    DotOperand x{};
    x.coded = spec.coded;
    x.dtype = spec.dtype;
    x.format = spec.format;
    x.data = data.data();
    x.scale = scale.data();
    x.scale_offset = offsets.data();
    x.rows_per_offset = rows;
    x.scale_row_stride = ScaleCols();
    x.scale_cols = ScaleCols();
    x.global_scale = global.data();
    x.global_count = static_cast<int64_t>(global.size());
    return x;
  }
};

using Random = std::mt19937;

Operand Make(const Spec& spec, int64_t batch, int64_t rows, int64_t depth, Random& random) {
  Operand x{spec, batch, rows, depth, {}, {}, {}, {}};
  std::normal_distribution<float> normal;
  x.data.resize(static_cast<size_t>(batch * rows * x.RowBytes()));
  if (!spec.coded) {
    const int64_t n = batch * rows * depth;
    for (int64_t i = 0; i < n; ++i) {
      const float v = normal(random);
      uint32_t bits;
      std::memcpy(&bits, &v, 4);
      if (spec.dtype == Dtype::kF32) std::memcpy(&x.data[static_cast<size_t>(4 * i)], &bits, 4);
      uint16_t half = static_cast<uint16_t>(bits >> 16);
      if (spec.dtype == Dtype::kF16) {
        half = static_cast<uint16_t>(random() % 0x4c00 | random() << 15);
      }
      if (spec.dtype != Dtype::kF32) std::memcpy(&x.data[static_cast<size_t>(2 * i)], &half, 2);
    }
    x.global = {1.0f};
    return x;
  }
  for (uint8_t& byte : x.data) byte = static_cast<uint8_t>(random());
  if (spec.format.element == Element::kE4M3 || spec.format.element == Element::kE5M2) {
    for (uint8_t& byte : x.data) {
      if ((byte & 0x7f) > 0x78) byte = static_cast<uint8_t>(byte & 0x8f);
    }
  }
  const int64_t scales = batch * x.ScaleRows() * x.ScaleCols();
  for (int64_t i = 0; i < scales; ++i) {
    if (spec.format.scale_type == ScaleType::kFloat32) {
      const float s = std::exp(normal(random));
      const auto* bytes = reinterpret_cast<const uint8_t*>(&s);
      x.scale.insert(x.scale.end(), bytes, bytes + 4);
    } else if (spec.format.scale_type == ScaleType::kE4M3) {
      x.scale.push_back(static_cast<uint8_t>(random() % 0x7f));
    } else {
      x.scale.push_back(static_cast<uint8_t>(117 + random() % 20));
    }
  }
  for (int64_t b = 0; b < batch; ++b) x.offsets.push_back(b * x.ScaleRows() * x.ScaleCols());
  const int64_t globals = random() % 2 ? batch : 1;
  for (int64_t i = 0; i < globals; ++i) x.global.push_back(std::exp(normal(random)));
  return x;
}

// With a global scale for each row, now and then.
Operand MakeLhs(const Spec& spec, int64_t batch, int64_t rows, int64_t depth, Random& random) {
  Operand x = Make(spec, batch, rows, depth, random);
  if (!spec.coded || random() % 3 != 0) return x;
  x.global.clear();
  std::normal_distribution<float> normal;
  for (int64_t i = 0; i < batch * rows; ++i) x.global.push_back(std::exp(normal(random)));
  return x;
}

struct Run {
  std::vector<uint8_t> out;
  Dtype dtype;
  double At(int64_t i) const { return jaxfp4::At(dtype, out.data(), i); }
};

ScaledDotProblem ProblemOf(const Operand& lhs, const DotOperand& rhs, int64_t rows, int64_t cols,
                           int64_t depth, std::vector<uint8_t>* out, Dtype dtype) {
  ScaledDotProblem p{};
  p.batch = lhs.batch;
  p.rows = rows;
  p.cols = p.out_stride = cols;
  p.depth = depth;
  p.lhs = lhs.Describe();
  p.rhs = rhs;
  p.out_dtype = dtype;
  p.out = out->data();
  return p;
}

Run Dot(const Operand& lhs, const DotOperand& rhs, int64_t cols, Dtype dtype, Layout layout,
        const Kernels& kernels, Parallel& parallel) {
  Run run{std::vector<uint8_t>(static_cast<size_t>(lhs.batch * lhs.rows * cols) *
                               (dtype == Dtype::kF32 ? 4 : 2)), dtype};
  bool out_of_memory = false;
  ScaledDotProblem p = ProblemOf(lhs, rhs, lhs.rows, cols, lhs.depth, &run.out, dtype);
  p.rhs_layout = layout;
  p.out_of_memory = &out_of_memory;
  kernels.scaled_dot(p, parallel);
  Check(!out_of_memory, "out of memory");
  return run;
}
Run Dot(const Operand& lhs, const Operand& rhs, Dtype dtype, const Kernels& kernels,
        Parallel& parallel) {
  return Dot(lhs, rhs.Describe(), rhs.rows, dtype, Layout::kLogical, kernels, parallel);
}

void Fail(const Kernels& kernels, const Operand& lhs, const Operand& rhs, const std::string& what) {
  Check(false, "%s: %s x %s, B=%lld M=%lld N=%lld K=%lld: %s", kernels.name, lhs.spec.name.c_str(),
        rhs.spec.name.c_str(), static_cast<long long>(lhs.batch), static_cast<long long>(lhs.rows),
        static_cast<long long>(rhs.rows), static_cast<long long>(lhs.depth), what.c_str());
}

struct Exact {
  double sum, magnitude;
};
// Of values that are a step apart: a row or a column.
struct Line {
  const double* values;
  int64_t step;
};
Exact ExactDot(Line x, Line y, int64_t depth, double global) {
  Exact e{0, 0};
  for (int64_t k = 0; k < depth; ++k) {
    const double term = x.values[k * x.step] * y.values[k * y.step];
    e.sum += term;
    e.magnitude += std::fabs(term);
  }
  return {e.sum * global, e.magnitude * global};
}

bool IsFP4(const Operand& x) { return x.spec.coded && x.spec.format.element == Element::kE2M1; }

bool OfOneFP4(const Operand& lhs, const Operand& rhs) {
  const ScaleType type = lhs.spec.format.scale_type;
  return IsFP4(lhs) && IsFP4(rhs) && type != ScaleType::kFloat32 &&
         type == rhs.spec.format.scale_type;
}

// Times sum |terms|. Of two operands of one FP4 format, products of blocks are exact, so K / block
// of them take K / block - 1 roundings of 2^-24, and the global scales two more: K / block * 2^-23
// is enough. Others are allowed what partial sums of 16 would have.
double Tolerance(const Operand& lhs, const Operand& rhs) {
  const int64_t terms =
      OfOneFP4(lhs, rhs) ? lhs.depth / lhs.spec.format.block_cols : lhs.depth / 16 + 2;
  return static_cast<double>(terms) * std::ldexp(1.0, -23);
}

std::vector<Exact> ExactDots(const Operand& lhs, const Operand& rhs) {
  const std::vector<double> x = lhs.Values(), y = rhs.Values();
  std::vector<Exact> exact;
  for (int64_t i = 0; i < lhs.batch * lhs.rows * rhs.rows; ++i) {
    const int64_t row = i / rhs.rows, b = row / lhs.rows, col = b * rhs.rows + i % rhs.rows;
    exact.push_back(ExactDot({x.data() + row * lhs.depth, 1}, {y.data() + col * rhs.depth, 1},
                             lhs.depth, lhs.RowGlobal(row) * rhs.Global(b)));
  }
  return exact;
}

void CheckAccuracy(const Operand& lhs, const Operand& rhs, const std::vector<Exact>& exact,
                   const Run& run, const Kernels& kernels, double slack = 1) {
  const double rounding = run.dtype == Dtype::kF32    ? 0
                          : run.dtype == Dtype::kBF16 ? std::ldexp(1.0, -8) : std::ldexp(1.0, -11);
  const double tolerance = slack * Tolerance(lhs, rhs);
  for (int64_t i = 0; i < lhs.batch * lhs.rows * rhs.rows; ++i) {
    const int64_t n = i % rhs.rows, m = i / rhs.rows % lhs.rows, b = i / rhs.rows / lhs.rows;
    const Exact e = exact[static_cast<size_t>(i)];
    const double got = run.At(i);
    const double sum_bound = tolerance * e.magnitude;
    const double bound = sum_bound + rounding * (std::fabs(e.sum) + sum_bound);
    if (run.dtype == Dtype::kF16 && std::fabs(e.sum) > 6e4) continue;
    if (run.dtype == Dtype::kF16 && std::fabs(got - e.sum) < 1e-7) continue;
    if (!(std::fabs(got - e.sum) <= bound)) {
      return Fail(kernels, lhs, rhs, "out[" + std::to_string(b) + ", " + std::to_string(m) + ", " +
                                         std::to_string(n) + "] = " + std::to_string(got) +
                                         ", expected " + std::to_string(e.sum) + ", off by " +
                                         std::to_string(std::fabs(got - e.sum) / bound) +
                                         " bounds");
    }
  }
}

// ---- layouts

bool Prepackable(const Operand& rhs) {
  return IsFP4(rhs) && rhs.spec.format.scale_type != ScaleType::kFloat32 && rhs.rows % 16 == 0;
}

Operand Interleaved(const Operand& x) {
  Operand y = x;
  const int64_t row_bytes = x.RowBytes(), cols = x.ScaleCols();
  for (int64_t r = 0; r < x.batch * x.rows; ++r) {
    const int64_t group = r / 16, i = r % 16;
    for (int64_t c = 0; c < row_bytes; ++c) {
      y.data[static_cast<size_t>(group * 16 * row_bytes + c / 4 * 64 + i * 4 + c % 4)] =
          x.data[static_cast<size_t>(r * row_bytes + c)];
    }
    for (int64_t c = 0; x.BlockRows() == 1 && c < cols; ++c) {
      y.scale[static_cast<size_t>((group * cols + c) * 16 + i)] =
          x.scale[static_cast<size_t>(r * cols + c)];
    }
  }
  return y;
}

// ---- tests

std::vector<Spec> CodedSpecs() {
  const auto coded = [](const char* name, Element e, ScaleType s, int64_t r, int64_t c) {
    return Spec{name, true, Dtype::kF32, {e, s, r, c}};
  };
  constexpr ScaleType f32 = ScaleType::kFloat32, e4m3 = ScaleType::kE4M3, e8m0 = ScaleType::kE8M0;
  return {coded("nvfp4", Element::kE2M1, e4m3, 1, 16),
          coded("nvfp4 16x16", Element::kE2M1, e4m3, 16, 16),
          coded("mxfp4", Element::kE2M1, e8m0, 1, 32),
          coded("mxfp4 32x32", Element::kE2M1, e8m0, 32, 32),
          coded("mxfp6 e2m3", Element::kE2M3, e8m0, 1, 32),
          coded("mxfp6 e3m2", Element::kE3M2, e8m0, 1, 32),
          coded("mxfp8 e4m3", Element::kE4M3, e8m0, 1, 32),
          coded("mxfp8 e5m2", Element::kE5M2, e8m0, 32, 32),
          coded("fp8 tensor", Element::kE4M3, f32, 0, 0),
          coded("fp8 channel", Element::kE5M2, f32, 1, 0),
          coded("fp8 1x128", Element::kE4M3, f32, 1, 128),
          coded("fp8 128x128", Element::kE4M3, f32, 128, 128),
          coded("fp4 channel", Element::kE2M1, f32, 1, 0)};
}
std::vector<Spec> LhsSpecs() {
  std::vector<Spec> specs = CodedSpecs();
  specs.push_back({"float32", false, Dtype::kF32, {}});
  specs.push_back({"bfloat16", false, Dtype::kBF16, {}});
  specs.push_back({"float16", false, Dtype::kF16, {}});
  return specs;
}

int64_t Unit(const Spec& spec) {
  return spec.coded && spec.format.block_cols ? spec.format.block_cols : 4;
}

int64_t Depth(const Spec& a, const Spec& b, Random& random) {
  const int64_t unit = std::max(Unit(a), Unit(b));
  const int64_t most[] = {200, 700, 1600};
  const int64_t units = std::max<int64_t>(1, most[random() % 3] / unit);
  return unit * static_cast<int64_t>(1 + random() % static_cast<uint64_t>(units));
}

void TestPairs() {
  Random random(1);
  Serial serial;
  const int64_t rows[] = {1, 2, 3, 4, 5, 8, 9, 12, 16, 17, 40};
  const int64_t cols[] = {1, 15, 16, 17, 48, 50, 64, 96};
  for (const Spec& a : LhsSpecs()) {
    for (const Spec& b : CodedSpecs()) {
      for (int i = 0; i < 6; ++i) {
        if (!Selected()) continue;
        const int64_t batch = 1 + random() % 2, depth = Depth(a, b, random);
        const int64_t m = i == 0 ? 1 : rows[random() % 11];
        const Operand lhs = MakeLhs(a, batch, m, depth, random);
        const Operand rhs = Make(b, batch, cols[random() % 8], depth, random);
        const Dtype dtype = static_cast<Dtype>(i < 3 ? 0 : i - 3);
        const std::vector<Exact> exact = ExactDots(lhs, rhs);
        for (const Kernels* kernels : SupportedTargets()) {
          const Run run = Dot(lhs, rhs, dtype, *kernels, serial);
          CheckAccuracy(lhs, rhs, exact, run, *kernels);
          if (!Prepackable(rhs)) continue;
          const Operand packed = Interleaved(rhs);
          const Run again = Dot(lhs, packed.Describe(), rhs.rows, dtype, Layout::kInterleaved16,
                                *kernels, serial);
          if (again.out != run.out) Fail(*kernels, lhs, rhs, "layouts differ");
        }
      }
    }
  }
}

// More rows, columns, threads or batch entries around it do not change an output.
void TestInvariance() {
  Random random(2);
  Serial serial;
  Threads threads(3);
  for (const Spec& a : LhsSpecs()) {
    for (const Spec& b : CodedSpecs()) {
      const int64_t depth = Depth(a, b, random);
      for (const int64_t m : {int64_t{3}, int64_t{90}, int64_t{600}}) {
        if (!Selected() || (m == 600 && random() % 8 != 0)) continue;
        const Operand lhs = Make(a, 1, m, depth, random);
        const Operand rhs = Make(b, 1, 16 * 9, depth, random);
        for (const Kernels* kernels : SupportedTargets()) {
          const Run run = Dot(lhs, rhs, Dtype::kF32, *kernels, serial);
          if (Dot(lhs, rhs, Dtype::kF32, *kernels, threads).out != run.out) {
            Fail(*kernels, lhs, rhs, "threads change results");
          }
          Operand fewer = lhs;
          // Two operands of one FP4 format have the same bits from the kernels of few and of many.
          const int64_t kept = OfOneFP4(lhs, rhs) ? 1 : m == 3 ? 2 : m - 5;
          if (a.coded && a.format.block_rows != 1) continue;
          fewer.rows = kept;
          Run part = Dot(fewer, rhs, Dtype::kF32, *kernels, serial);
          if (std::memcmp(part.out.data(), run.out.data(), part.out.size()) != 0) {
            Fail(*kernels, lhs, rhs, "other rows change results");
          }
          const Run narrow =
              Dot(lhs, rhs.Describe(), 37, Dtype::kF32, Layout::kLogical, *kernels, serial);
          for (int64_t r = 0; r < m; ++r) {
            if (std::memcmp(narrow.out.data() + r * 37 * 4, run.out.data() + r * rhs.rows * 4,
                            37 * 4) != 0) {
              Fail(*kernels, lhs, rhs, "other columns change results");
              break;
            }
          }
        }
      }
    }
  }
}

// So many rows that each thread has rows of its own: on the best target, which all tall products
// share with it.
void TestTall() {
  Random random(11);
  Serial serial;
  Threads threads(2);
  const Kernels& kernels = ActiveKernels();
  for (const Spec& a : LhsSpecs()) {
    if (a.coded && a.format.block_rows > 1) continue;
    for (const Spec& b : CodedSpecs()) {
      if (!Selected() || random() % 8 != 0) continue;
      const int64_t m = 4 * 2 * 512 + 77, unit = std::max(Unit(a), Unit(b));
      const Operand lhs = Make(a, 1, m, unit, random), rhs = Make(b, 1, 33, unit, random);
      const Run run = Dot(lhs, rhs, Dtype::kF32, kernels, threads);
      CheckAccuracy(lhs, rhs, ExactDots(lhs, rhs), run, kernels, 2);
      if (Dot(lhs, rhs, Dtype::kF32, kernels, serial).out != run.out) {
        Fail(kernels, lhs, rhs, "threads with rows of their own change results");
      }
    }
  }
}

// So deep that few rows of lhs do not fit the first-level cache, and a last part that is no whole one.
void TestDeep() {
  Random random(12);
  Serial serial;
  for (const Spec& a : LhsSpecs()) {
    for (const Spec& b : CodedSpecs()) {
      for (const int64_t m : {int64_t{1}, int64_t{2}, int64_t{4}}) {
        if (!Selected() || random() % 8 != 0) continue;
        const int64_t unit = std::max(Unit(a), Unit(b)), depth = (17000 / unit + 1) * unit;
        const Operand lhs = Make(a, 1, m, depth, random), rhs = Make(b, 1, 16, depth, random);
        const std::vector<Exact> exact = ExactDots(lhs, rhs);
        for (const Kernels* kernels : SupportedTargets()) {
          const Run run = Dot(lhs, rhs, Dtype::kF32, *kernels, serial);
          CheckAccuracy(lhs, rhs, exact, run, *kernels);
          if (!Prepackable(rhs)) continue;
          const Run again = Dot(lhs, Interleaved(rhs).Describe(), rhs.rows, Dtype::kF32,
                                Layout::kInterleaved16, *kernels, serial);
          if (again.out != run.out) Fail(*kernels, lhs, rhs, "layouts differ");
        }
      }
    }
  }
}

// Sums near the largest number stay finite, in every layout.
void TestLargestSums() {
  Random random(13);
  Serial serial;
  for (const Spec& a : LhsSpecs()) {
    if (a.coded || a.dtype == Dtype::kF16) continue;
    for (const Spec& b : CodedSpecs()) {
      if (!Prepackable(Make(b, 1, 16, Unit(b), random))) continue;
      for (const int64_t m : {int64_t{1}, int64_t{5}, int64_t{20}}) {
        Operand lhs = Make(a, 1, m, 256, random), rhs = Make(b, 1, 16, 256, random);
        const bool power = b.format.scale_type == ScaleType::kE8M0;
        std::fill(rhs.scale.begin(), rhs.scale.end(), static_cast<uint8_t>(power ? 127 : 0x38));
        std::fill(rhs.data.begin(), rhs.data.end(), uint8_t{0});
        for (int64_t n = 0; n < 16; ++n) rhs.data[static_cast<size_t>(n * 128 + 7 * n)] = 2;  // 1
        std::fill(lhs.global.begin(), lhs.global.end(), 1.0f);
        std::fill(rhs.global.begin(), rhs.global.end(), 1.0f);
        const float x = 0x1.9p127f;
        uint32_t bits;
        std::memcpy(&bits, &x, 4);
        const size_t size = a.dtype == Dtype::kF32 ? 4 : 2;
        bits >>= a.dtype == Dtype::kF32 ? 0 : 16;
        for (size_t i = 0; i < lhs.data.size(); i += size) {
          std::memcpy(&lhs.data[i], &bits, size);
        }
        const Operand packed = Interleaved(rhs);
        for (const Kernels* kernels : SupportedTargets()) {
          const Run runs[] = {Dot(lhs, rhs, Dtype::kF32, *kernels, serial),
                              Dot(lhs, packed.Describe(), 16, Dtype::kF32, Layout::kInterleaved16,
                                  *kernels, serial)};
          for (const Run& run : runs) {
            for (int64_t i = 0; i < m * 16; ++i) {
              if (run.At(i) == double{x}) continue;
              Fail(*kernels, lhs, rhs, "the largest sums: got " + std::to_string(run.At(i)));
              break;
            }
          }
        }
      }
    }
  }
}

// NaN and infinity reach the outputs that they should, and no others.
void TestSpecials() {
  Random random(3);
  Serial serial;
  for (const Spec& a : LhsSpecs()) {
    for (const Spec& b : CodedSpecs()) {
      if (b.format.block_rows != 1 || b.format.scale_type == ScaleType::kFloat32) continue;
      const int64_t depth = std::max(Unit(a), Unit(b)) * 3;
      for (const int64_t m : {int64_t{2}, int64_t{20}}) {
        if (!Selected()) continue;
        const Operand lhs = Make(a, 1, m, depth, random);
        Operand rhs = Make(b, 1, 32, depth, random);
        const int64_t bad = random() % 32;
        rhs.scale[static_cast<size_t>(bad * rhs.ScaleCols() + 1)] =
            b.format.scale_type == ScaleType::kE4M3 ? 0x7f : 0xff;
        for (const Kernels* kernels : SupportedTargets()) {
          const Run run = Dot(lhs, rhs, Dtype::kF32, *kernels, serial);
          for (int64_t i = 0; i < m * 32; ++i) {
            if (std::isnan(run.At(i)) != (i % 32 == bad)) {
              Fail(*kernels, lhs, rhs, "NaN scale of row " + std::to_string(bad) + ", out[" +
                                           std::to_string(i / 32) + ", " + std::to_string(i % 32) +
                                           "] = " + std::to_string(run.At(i)));
              break;
            }
          }
        }
      }
    }
  }
}

// A NaN or infinity of a float lhs reaches the outputs of its row, with the sign it should have,
// and NaN codes of rhs those of theirs.
void TestSpecialElements() {
  Random random(6);
  Serial serial;
  const Spec lhs_specs[] = {{"float32", false, Dtype::kF32, {}},
                            {"bfloat16", false, Dtype::kBF16, {}}};
  for (const Spec& a : lhs_specs) {
    for (const Spec& b : CodedSpecs()) {
      const int64_t depth = Unit(b) * 2 + (b.format.block_cols ? 0 : 96);
      const int64_t size = a.dtype == Dtype::kF32 ? 4 : 2;
      for (const int64_t m : {int64_t{3}, int64_t{20}}) {
        Operand lhs = Make(a, 1, m, depth, random);
        Operand rhs = Make(b, 1, 19, depth, random);
        for (uint8_t& byte : rhs.data) byte &= 0x77;  // no negative codes (nor odd large ones)
        for (uint8_t& byte : rhs.data) byte |= 0x22;  // nor zeros, of any number of bits
        if (b.format.element == Element::kE2M3 || b.format.element == Element::kE3M2) {
          for (size_t i = 0; i < rhs.data.size(); ++i) {
            const uint8_t positive[3] = {0xdf, 0xf7, 0x7d};
            const uint8_t nonzero[3] = {0x41, 0x10, 0x04};
            rhs.data[i] = static_cast<uint8_t>((rhs.data[i] & positive[i % 3]) | nonzero[i % 3]);
          }
        }
        for (uint8_t& s : rhs.scale) {
          if (b.format.scale_type == ScaleType::kE4M3 && s == 0) s = 0x38;
        }
        const auto set = [&](int64_t row, int64_t k, uint32_t bits) {
          const uint16_t half = static_cast<uint16_t>(bits >> 16);
          const size_t at = static_cast<size_t>((row * depth + k) * size);
          std::memcpy(&lhs.data[at], size == 4 ? static_cast<const void*>(&bits) : &half,
                      static_cast<size_t>(size));
        };
        set(0, depth - 1, 0x7fc00000);
        set(1, 5, 0x7f800000);
        set(2, 0, 0xff800000);
        const bool has_nan = b.format.element == Element::kE4M3;
        if (has_nan) rhs.data[static_cast<size_t>(7 * depth + 9)] = 0x7f;
        for (const Kernels* kernels : SupportedTargets()) {
          const Run run = Dot(lhs, rhs, Dtype::kF32, *kernels, serial);
          for (int64_t i = 0; i < m * 19; ++i) {
            const int64_t row = i / 19;
            const double y = run.At(i);
            const bool nan = row == 0 || (has_nan && i % 19 == 7);
            const bool right = nan        ? std::isnan(y)
                               : row == 1 ? y == INFINITY
                               : row == 2 ? y == -INFINITY : std::isfinite(y);
            if (!right) {
              Fail(*kernels, lhs, rhs, "special elements: out[" + std::to_string(row) + ", " +
                                           std::to_string(i % 19) + "] = " + std::to_string(y));
              break;
            }
          }
        }
      }
    }
  }
}

// ---- transposed operands

// Floats times the rows of codes: [batch, rows, depth] x [batch, depth, cols], or with the floats
// transposed too.
struct Transposed {
  Operand lhs, rhs;
  bool lhs_transposed, out_transposed = false;
  int64_t rows, cols, depth;

  Transposed(const Spec& a, const Spec& b, bool lhs_transposed, int64_t batch, int64_t rows,
             int64_t cols, int64_t depth, Random& random)
      : lhs(lhs_transposed ? Make(a, batch, depth, rows, random)
                           : Make(a, batch, rows, depth, random)),
        rhs(Make(b, batch, depth, cols, random)),
        lhs_transposed(lhs_transposed), rows(rows), cols(cols), depth(depth) {}

  std::vector<Exact> ExactDots() const {
    const std::vector<double> x = lhs.Values(), y = rhs.Values();
    std::vector<Exact> exact;
    for (int64_t i = 0; i < lhs.batch * rows * cols; ++i) {
      const int64_t b = i / cols / rows, m = i / cols % rows, n = i % cols;
      const double* matrix = x.data() + b * rows * depth;
      const Line row = lhs_transposed ? Line{matrix + m, rows} : Line{matrix + m * depth, 1};
      exact.push_back(ExactDot(row, {y.data() + b * depth * cols + n, cols}, depth, rhs.Global(b)));
    }
    return exact;
  }
  Run Dot(Dtype dtype, const Kernels& kernels, Parallel& parallel) const {
    Run run{std::vector<uint8_t>(static_cast<size_t>(lhs.batch * rows * cols) *
                                 (dtype == Dtype::kF32 ? 4 : 2)), dtype};
    bool out_of_memory = false;
    ScaledDotProblem p = ProblemOf(lhs, rhs.Describe(), rows, cols, depth, &run.out, dtype);
    p.out_transposed = out_transposed;
    p.out_of_memory = &out_of_memory;
    p.lhs.transposed = lhs_transposed;
    p.rhs.transposed = true;
    kernels.scaled_dot(p, parallel);
    Check(!out_of_memory, "out of memory");
    return run;
  }
};

std::vector<Spec> FloatSpecs() {
  const std::vector<Spec> all = LhsSpecs();
  return {all.end() - 3, all.end()};
}

void TestTransposed() {
  Random random(7);
  Serial serial;
  Threads threads(3);
  const int64_t rows[] = {1, 3, 16, 17, 40, 90};
  for (const Spec& a : FloatSpecs()) {
    for (const Spec& b : CodedSpecs()) {
      for (int i = 0; i < 6; ++i) {
        if (!Selected()) continue;
        const int64_t cols = Unit(b) * static_cast<int64_t>(1 + random() % 5);
        const int64_t depth = 1 + static_cast<int64_t>(random() % (i == 0 ? 700 : 80));
        const Transposed t(a, b, i % 2, 1 + random() % 2, rows[random() % 6], cols, depth, random);
        const Dtype dtype = static_cast<Dtype>(i < 4 ? 0 : i - 3);
        const std::vector<Exact> exact = t.ExactDots();
        for (const Kernels* kernels : SupportedTargets()) {
          const Run run = t.Dot(dtype, *kernels, serial);
          if (t.Dot(dtype, *kernels, threads).out != run.out) {
            Fail(*kernels, t.lhs, t.rhs, "transposed: threads change results");
          }
          Transposed swapped = t;
          swapped.out_transposed = true;
          const Run columns = swapped.Dot(dtype, *kernels, threads);
          for (int64_t j = 0; j < t.lhs.batch * t.rows * cols; ++j) {
            const int64_t b = j / cols / t.rows, m = j / cols % t.rows, n = j % cols;
            const double other = columns.At((b * cols + n) * t.rows + m);
            if (other != run.At(j) && !std::isnan(run.At(j))) {
              Fail(*kernels, t.lhs, t.rhs, "transposed: out[" + std::to_string(j) + "] is " +
                                               std::to_string(other) + " in a transposed out");
              break;
            }
          }
          for (int64_t j = 0; j < t.lhs.batch * t.rows * cols; ++j) {
            const Exact e = exact[static_cast<size_t>(j)];
            const double sums = static_cast<double>(depth + 4) * 0x1p-24 * e.magnitude;
            const double rounding = dtype == Dtype::kF32    ? 0
                                    : dtype == Dtype::kBF16 ? 0x1p-8 : 0x1p-11;
            if (dtype == Dtype::kF16 && std::fabs(e.sum) > 6e4) continue;
            const double bound = sums + rounding * (std::fabs(e.sum) + sums) +
                                 (dtype == Dtype::kF16 ? 1e-7 : 0);
            if (!(std::fabs(run.At(j) - e.sum) <= bound)) {
              Fail(*kernels, t.lhs, t.rhs,
                   "transposed: out[" + std::to_string(j) + "] = " + std::to_string(run.At(j)) +
                       ", expected " + std::to_string(e.sum));
              break;
            }
          }
        }
      }
    }
  }
}

// A NaN of lhs reaches its row of outputs, one of a block the columns of the block.
void TestTransposedSpecials() {
  Random random(8);
  Serial serial;
  const Spec f32 = FloatSpecs()[0];
  for (const Spec& b : CodedSpecs()) {
    if (b.format.block_rows != 1 || b.format.scale_type == ScaleType::kFloat32) continue;
    for (const bool lhs_transposed : {false, true}) {
      Transposed t(f32, b, lhs_transposed, 1, 20, 64, 50, random);
      const uint32_t nan = 0x7fc00000;
      const int64_t at = lhs_transposed ? 33 * 20 + 7 : 7 * 50 + 33;
      std::memcpy(&t.lhs.data[static_cast<size_t>(4 * at)], &nan, 4);
      for (const Kernels* kernels : SupportedTargets()) {
        const Run run = t.Dot(Dtype::kF32, *kernels, serial);
        for (int64_t j = 0; j < 20 * 64; ++j) {
          if (std::isnan(run.At(j)) != (j / 64 == 7)) {
            Fail(*kernels, t.lhs, t.rhs, "transposed: a NaN of lhs, out " + std::to_string(j));
            break;
          }
        }
      }
      t.rhs.scale[static_cast<size_t>(12 * t.rhs.ScaleCols() + 1)] =
          b.format.scale_type == ScaleType::kE4M3 ? 0x7f : 0xff;
      const int64_t block = b.format.block_cols;
      for (const Kernels* kernels : SupportedTargets()) {
        const Run run = t.Dot(Dtype::kF32, *kernels, serial);
        for (int64_t j = 0; j < 20 * 64; ++j) {
          if (std::isnan(run.At(j)) != (j / 64 == 7 || j % 64 / block == 1)) {
            Fail(*kernels, t.lhs, t.rhs, "transposed: a NaN scale, out " + std::to_string(j));
            break;
          }
        }
      }
    }
  }
}

// Scales at the ends of their ranges: byte 0 of e8m0 is a subnormal, and so are seven codes of
// e4m3.
void TestExtremeScales() {
  Random random(4);
  Serial serial;
  const Spec f32{"float32", false, Dtype::kF32, {}};
  for (const Spec& b : CodedSpecs()) {
    if (b.format.scale_type == ScaleType::kFloat32) continue;
    for (const Spec& a : {f32, b}) {
      for (const int64_t m : {int64_t{1}, int64_t{20}}) {
        const bool power = b.format.scale_type == ScaleType::kE8M0;
        Operand lhs = Make(a, 1, m, 64, random), rhs = Make(b, 1, 16, 64, random);
        for (uint8_t& s : rhs.scale) s = static_cast<uint8_t>(power ? 0 : random() % 8);
        if (power && a.coded) {
          for (uint8_t& s : lhs.scale) s = 200;
        }
        if (power && !a.coded) {
          for (int64_t i = 0; i < m * 64; ++i) {
            float x;
            std::memcpy(&x, &lhs.data[static_cast<size_t>(4 * i)], 4);
            x *= 0x1p60f;
            std::memcpy(&lhs.data[static_cast<size_t>(4 * i)], &x, 4);
          }
        }
        const std::vector<double> lhs_values = lhs.Values(), rhs_values = rhs.Values();
        for (const Kernels* kernels : SupportedTargets()) {
          const Run run = Dot(lhs, rhs, Dtype::kF32, *kernels, serial);
          for (int64_t i = 0; i < m * 16; ++i) {
            Exact e{0, 0};
            double flushed = 0;
            for (int64_t k = 0; k < 64; ++k) {
              const double x = lhs_values[static_cast<size_t>(i / 16 * 64 + k)];
              const double w = rhs_values[static_cast<size_t>(i % 16 * 64 + k)];
              e.sum += x * w;
              e.magnitude += std::fabs(x * w);
              if (std::fabs(w) < 0x1p-126) flushed += std::fabs(x * w);
            }
            const double g = double{lhs.global[0]} * rhs.global[0];
            const double bound = g * (e.magnitude * std::ldexp(1.0, -20) + flushed);
            if (!(std::fabs(run.At(i) - g * e.sum) <= bound)) {
              Fail(*kernels, lhs, rhs, "extreme scales: got " + std::to_string(run.At(i) * 0x1p60) +
                                           ", expected " + std::to_string(g * e.sum * 0x1p60) +
                                           " (times 2^60)");
              break;
            }
          }
        }
      }
    }
  }
}

std::vector<uint8_t> Part(const std::vector<uint8_t>& x, int64_t begin, int64_t end) {
  return {x.begin() + begin, x.begin() + end};
}

// Rows of an operand of one batch entry, which cut no block of rows but the first and the last.
Operand Rows(const Operand& x, int64_t row, int64_t rows) {
  Operand part = x;
  part.rows = rows;
  part.data = Part(x.data, row * x.RowBytes(), (row + rows) * x.RowBytes());
  if (!x.spec.coded || x.BlockRows() == 0) return part;
  const int64_t bytes = static_cast<int64_t>(x.scale.size()) / x.ScaleRows();
  const int64_t last = (row + rows - 1) / x.BlockRows();
  part.scale = Part(x.scale, row / x.BlockRows() * bytes, (last + 1) * bytes);
  return part;
}

bool SameButForNaN(double x, double y) {
  return std::isnan(x) ? std::isnan(y) : x == y && std::signbit(x) == std::signbit(y);
}

// Every code times scales around all bounds, each picked out by a row with one element that is not
// zero. Sixteen rows of rhs have such a scale together, and one among fifteen others.
void TestElements() {
  Random random(14);
  Serial serial;
  for (const Spec& b : CodedSpecs()) {
    const ScaleType type = b.format.scale_type;
    if (b.format.element != Element::kE2M1 || b.format.block_rows != 1 || type == ScaleType::kFloat32) {
      continue;
    }
    const bool power = type == ScaleType::kE8M0;
    const std::vector<uint8_t> odd =
        power ? std::vector<uint8_t>{0, 1, 2, 3, 100, 250, 251, 252, 253, 254, 255}
              : std::vector<uint8_t>{0, 1, 7, 8, 9, 0x3d, 0x7d, 0x7e, 0x7f, 0x80, 0x81, 0xb9, 0xff};
    const int64_t kinds = static_cast<int64_t>(odd.size()), cols = 2 * kinds * 16, depth = 160;
    Operand rhs = Make(b, 1, cols, depth, random);
    rhs.global = {1.0f};
    for (int64_t n = 0; n < cols; ++n) {
      const int64_t kind = n / 16 % kinds;
      const bool is_odd = n / 16 < kinds || n % 16 == kind;
      const uint8_t scale = is_odd ? odd[static_cast<size_t>(kind)] : power ? 127 : 0x38;
      for (int64_t i = 0; i < rhs.ScaleCols(); ++i) {
        rhs.scale[static_cast<size_t>(n * rhs.ScaleCols() + i)] = scale;
      }
      for (int64_t i = 0; i < depth / 2; ++i) {  // none that would be an infinity
        uint8_t& codes = rhs.data[static_cast<size_t>(n * depth / 2 + i)];
        codes = static_cast<uint8_t>(2 * i + n % 8 + ((2 * i + 1 + n % 8) << 4));
        if (power && scale >= 253) codes &= 0xbb;
      }
    }
    const std::vector<double> values = rhs.Values();
    for (const Spec& a : LhsSpecs()) {
      if (a.coded || a.dtype == Dtype::kF16) continue;
      for (const int64_t m : {int64_t{8}, int64_t{32}}) {
        if (!Selected()) continue;
        Operand lhs = Make(a, 1, m, depth, random);
        const auto place = [&](int64_t r) { return r < m / 2 ? r : depth - m + r; };
        std::fill(lhs.data.begin(), lhs.data.end(), uint8_t{0});
        for (int64_t r = 0; r < m; ++r) {
          const size_t size = a.dtype == Dtype::kF32 ? 4 : 2;
          const float one = 1.0f;
          std::memcpy(&lhs.data[static_cast<size_t>(r * depth + place(r)) * size],
                      reinterpret_cast<const uint8_t*>(&one) + 4 - size, size);
        }
        for (const Kernels* kernels : SupportedTargets()) {
          for (const bool interleaved : {false, true}) {
            const Operand stored = interleaved ? Interleaved(rhs) : rhs;
            const Run run = Dot(lhs, stored.Describe(), cols, Dtype::kF32,
                                interleaved ? Layout::kInterleaved16 : Layout::kLogical, *kernels,
                                serial);
            for (int64_t i = 0; i < m * cols; ++i) {
              const double value = values[static_cast<size_t>(i % cols * depth + place(i / cols))];
              const double expected = std::fabs(value) < 0x1p-126 ? 0 : value;
              if (run.At(i) == expected || (std::isnan(run.At(i)) && std::isnan(expected))) continue;
              Fail(*kernels, lhs, rhs, "an element: got " + std::to_string(run.At(i)) +
                                           ", expected " + std::to_string(expected) + " of scale " +
                                           std::to_string(rhs.scale[static_cast<size_t>(
                                               i % cols * rhs.ScaleCols())]));
              break;
            }
          }
        }
      }
    }
  }
}

// Scale bytes of every kind, and around the bounds at which kernels change their ways: the products
// of one FP4 format are the same bits for one row as for many.
void TestScaleBytes() {
  Random random(9);
  Serial serial;
  struct Range {
    unsigned begin, size;
  };
  const Range kinds[] = {{0, 256}, {0, 255}, {117, 20}, {60, 6},   {175, 6},
                         {0, 40},  {222, 9}, {228, 6},  {225, 31}, {125, 9}, {250, 5}};
  const auto fill = [&](Operand& x, Range bytes) {
    for (uint8_t& s : x.scale) s = static_cast<uint8_t>(bytes.begin + random() % bytes.size);
  };
  // One odd scale in the row that is looked at.
  const auto spoil = [&](Operand& x, int64_t r) {
    const uint8_t odd[] = {0, 1, 254, 255};
    const int64_t at = r / x.BlockRows() * x.ScaleCols() + static_cast<int64_t>(
        random() % static_cast<uint64_t>(x.ScaleCols()));
    if (random() % 4 == 0) x.scale[static_cast<size_t>(at)] = odd[random() % 4];
  };
  for (const Spec& spec : CodedSpecs()) {
    if (spec.format.element != Element::kE2M1 || spec.format.block_cols == 0) continue;
    for (const Range& of_lhs : kinds) {
      for (const Range& of_rhs : kinds) {
        for (const int64_t m : {20, 41}) {
          if (!Selected()) continue;
          const int64_t depth = 32 * (1 + static_cast<int64_t>(random() % 34));
          Operand lhs = Make(spec, 1, m, depth, random), rhs = Make(spec, 1, 33, depth, random);
          const int64_t r = static_cast<int64_t>(random() % static_cast<uint64_t>(m));
          fill(lhs, of_lhs);
          fill(rhs, of_rhs);
          spoil(lhs, r);
          spoil(rhs, 7);
          for (const Kernels* kernels : SupportedTargets()) {
            const Run run = Dot(lhs, rhs, Dtype::kF32, *kernels, serial);
            const Run alone = Dot(Rows(lhs, r, 1), rhs, Dtype::kF32, *kernels, serial);
            for (int64_t i = 0; i < rhs.rows; ++i) {
              const double x = run.At(r * rhs.rows + i), y = alone.At(i);
              if (SameButForNaN(x, y)) continue;
              Fail(*kernels, lhs, rhs, "scale bytes from " + std::to_string(of_lhs.begin) +
                                           " and " + std::to_string(of_rhs.begin) + ": " +
                                           std::to_string(x) + ", alone " + std::to_string(y));
              break;
            }
          }
        }
      }
    }
  }
}

// ---- groups of rows, each with a matrix of its own

// A batch entry of an operand.
Operand Entry(const Operand& x, int64_t b) {
  Operand entry = x;
  entry.batch = 1;
  entry.data = Part(x.data, b * x.rows * x.RowBytes(), (b + 1) * x.rows * x.RowBytes());
  const int64_t bytes = static_cast<int64_t>(x.scale.size()) / x.batch;
  entry.scale = Part(x.scale, b * bytes, (b + 1) * bytes);
  entry.offsets = {0};
  if (x.global.size() > 1) entry.global = {x.global[static_cast<size_t>(b)]};
  return entry;
}

// One batch entry of rows and of matrices for the groups of `sizes`, of columns in `layout`.
Run Ragged(const Operand& lhs, const Operand& rhs, const std::vector<int32_t>& sizes, Layout layout,
           Parallel& parallel) {
  Run run{std::vector<uint8_t>(static_cast<size_t>(lhs.rows * rhs.rows) * 4, 0xff), Dtype::kF32};
  bool out_of_memory = false;
  RaggedDotProblem p{
      ProblemOf(lhs, rhs.Describe(), lhs.rows, rhs.rows, lhs.depth, &run.out, run.dtype), 1,
      rhs.batch, sizes.data()};
  p.dot.rhs_layout = layout;
  p.dot.out_of_memory = &out_of_memory;
  std::vector<int64_t> offsets;  // of every row, as handlers have them
  for (int64_t row = 0; row < lhs.rows; ++row) {
    offsets.push_back(lhs.BlockRows() == 0 ? 0 : row * lhs.ScaleCols());
  }
  p.dot.lhs.scale_offset = offsets.data();
  p.dot.lhs.rows_per_offset = 1;
  RunRaggedDot(p, parallel);
  Check(!out_of_memory, "out of memory");
  return run;
}

// The bits of each group's own product, whatever the others are and however many threads there are.
void TestRagged() {
  Random random(7);
  Serial serial;
  Threads two(2), many(40);
  const std::vector<int32_t> cases[] = {
      {1, 0, 2, 1}, {3, 0, 5, 12}, {0, 20, 0, 0}, {0, 0, 0, 0}, {1, 130, 2, 1}};
  for (const Spec& a : LhsSpecs()) {
    if (a.coded && a.format.block_rows > 1) continue;
    for (const Spec& b : CodedSpecs()) {
      for (const std::vector<int32_t>& sizes : cases) {
        if (!Selected()) continue;
        const int64_t depth = std::max(Unit(a), Unit(b)) * 3, cols = random() % 2 ? 416 : 1000;
        const int64_t m = std::accumulate(sizes.begin(), sizes.end(), int64_t{0}) + 3;
        const Operand lhs = Make(a, 1, m, depth, random);
        const Operand rhs = Make(b, 4, cols, depth, random);
        const bool packs = Prepackable(rhs);
        const Operand packed = packs ? Interleaved(rhs) : rhs;
        for (const Kernels* kernels : SupportedTargets()) {
          ForceTarget(kernels->name);
          const Run run = Ragged(lhs, rhs, sizes, Layout::kLogical, serial);
          for (Parallel* parallel : std::initializer_list<Parallel*>{&two, &many}) {
            if (Ragged(lhs, rhs, sizes, Layout::kLogical, *parallel).out != run.out) {
              Fail(*kernels, lhs, rhs, "ragged: threads change results");
            }
          }
          if (packs && Ragged(lhs, packed, sizes, Layout::kInterleaved16, two).out != run.out) {
            Fail(*kernels, lhs, rhs, "ragged: layouts differ");
          }
          std::vector<uint8_t> expected;
          for (int64_t g = 0, row = 0; g < 4; row += sizes[static_cast<size_t>(g++)]) {
            const Run alone = Dot(Rows(lhs, row, sizes[static_cast<size_t>(g)]), Entry(rhs, g),
                                  Dtype::kF32, *kernels, serial);
            expected.insert(expected.end(), alone.out.begin(), alone.out.end());
          }
          expected.resize(run.out.size(), 0);
          if (run.out != expected) Fail(*kernels, lhs, rhs, "ragged: not the groups' own products");
        }
      }
    }
  }
  ForceTarget("");
}

void TestEmpty() {
  Random random(5);
  Serial serial;
  const Spec nvfp4 = CodedSpecs()[0];
  for (const Kernels* kernels : SupportedTargets()) {
    const Operand lhs = Make(nvfp4, 1, 3, 0, random), rhs = Make(nvfp4, 1, 5, 0, random);
    const Run run = Dot(lhs, rhs, Dtype::kF32, *kernels, serial);
    for (int64_t i = 0; i < 15; ++i) {
      if (run.At(i) != 0) Fail(*kernels, lhs, rhs, "an empty sum is not 0");
    }
    const int64_t empty[][3] = {{1, 0, 5}, {1, 3, 0}, {0, 3, 5}};
    for (const auto& [batch, m, n] : empty) {
      const Operand a = Make(nvfp4, batch, m, 32, random), b = Make(nvfp4, batch, n, 32, random);
      Dot(a, b, Dtype::kF32, *kernels, serial);
    }
  }
}

}  // namespace
}  // namespace jaxfp4

int main() {
  jaxfp4::TestPairs();
  jaxfp4::TestInvariance();
  jaxfp4::TestTall();
  jaxfp4::TestDeep();
  jaxfp4::TestLargestSums();
  jaxfp4::TestSpecials();
  jaxfp4::TestSpecialElements();
  jaxfp4::TestTransposed();
  jaxfp4::TestTransposedSpecials();
  jaxfp4::TestExtremeScales();
  jaxfp4::TestElements();
  jaxfp4::TestScaleBytes();
  jaxfp4::TestRagged();
  jaxfp4::TestEmpty();
  return jaxfp4::Finish("scaled_dot_test");
}
