// Calls of scaled_dot for its CUDA kernels on the host: operands in memory, and their products in
// float64 to check results against. Include it after cc/test/cuda_simt.h.
#pragma once

#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "cc/cuda/dot_describe.h"
#include "cc/test/check.h"
#include "cc/test/oracle.h"

namespace jaxfp4 {

using Random = std::mt19937;

// 16-byte aligned, its end guarded by the sanitizers.
struct Memory {
  explicit Memory(int64_t bytes)
      : size(static_cast<size_t>(bytes)),
        data(
            static_cast<unsigned char*>(operator new[](size + (size == 0), std::align_val_t(16)))) {
    std::memset(data, 0xee, size);
  }
  ~Memory() { operator delete[](data, std::align_val_t(16)); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  size_t size;
  unsigned char* data;
};

struct Spec {
  std::string name;
  bool coded;
  Dtype dtype;
  BlockFormat format;
};

inline std::vector<Spec> CodedSpecs() {
  constexpr ScaleType f32 = ScaleType::kFloat32, e4m3 = ScaleType::kE4M3, e8m0 = ScaleType::kE8M0;
  const auto coded = [](const char* name, BlockFormat format) {
    return Spec{name, true, Dtype::kF32, format};
  };
  return {coded("nvfp4", {Element::kE2M1, e4m3, 1, 16}),
          coded("nvfp4 16x16", {Element::kE2M1, e4m3, 16, 16}),
          coded("mxfp4", {Element::kE2M1, e8m0, 1, 32}),
          coded("mxfp6 e2m3", {Element::kE2M3, e8m0, 1, 32}),
          coded("mxfp6 e3m2", {Element::kE3M2, e8m0, 32, 32}),
          coded("mxfp8 e4m3", {Element::kE4M3, e8m0, 1, 32}),
          coded("mxfp8 e5m2", {Element::kE5M2, e8m0, 32, 32}),
          coded("fp8 tensor", {Element::kE4M3, f32, 0, 0}),
          coded("fp8 channel", {Element::kE5M2, f32, 1, 0}),
          coded("fp8 1x128", {Element::kE4M3, f32, 1, 128}),
          coded("fp8 128x128", {Element::kE4M3, f32, 128, 128}),
          coded("fp4 1x48", {Element::kE2M1, f32, 1, 48})};
}
inline std::vector<Spec> LhsSpecs() {
  std::vector<Spec> specs = CodedSpecs();
  specs.push_back({"float32", false, Dtype::kF32, {}});
  specs.push_back({"bfloat16", false, Dtype::kBF16, {}});
  specs.push_back({"float16", false, Dtype::kF16, {}});
  return specs;
}

// What tensor cores that apply block scales multiply: NVFP4 or MXFP4 by its like, MXFP8 by MXFP8.
inline bool AreForBlockScaling(const Spec& a, const Spec& b) {
  const auto byte_scales = [](const Spec& s) {
    return s.coded && s.format.scale_type != ScaleType::kFloat32;
  };
  const int bits = oracle::TypeOf(a.format.element).bits;
  return byte_scales(a) && byte_scales(b) && bits == oracle::TypeOf(b.format.element).bits &&
         bits != 6 && a.format.scale_type == b.format.scale_type;
}

inline int64_t BitsOf(const Spec& s) {
  return s.coded ? oracle::TypeOf(s.format.element).bits : s.dtype == Dtype::kF32 ? 32 : 16;
}

// An operand in memory, and its values in float64 without global scales.
struct Operand {
  Spec spec;
  int64_t batch, rows, depth;
  std::vector<double> values;
  std::vector<float> global;
  std::vector<int64_t> offsets;
  std::unique_ptr<Memory> data, scale;

  int64_t ScaleCols() const { return spec.format.block_cols ? depth / spec.format.block_cols : 1; }
  int64_t ScaleRows() const {
    return spec.format.block_rows ? cuda::CeilDiv(rows, spec.format.block_rows) : 1;
  }
  DotOperand Describe() const {
    DotOperand x = {};
    x.coded = spec.coded;
    x.dtype = spec.dtype;
    x.format = spec.format;
    x.data = data->data;
    x.scale = scale->data;
    x.scale_offset = offsets.data();
    x.rows_per_offset = rows;
    x.scale_row_stride = ScaleRows() == 1 ? 0 : ScaleCols();
    x.scale_cols = ScaleCols();
    x.global_scale = global.data();
    x.global_count = static_cast<int64_t>(global.size());
    return x;
  }
};

inline void FillFloats(Operand* x, Random* random) {
  std::normal_distribution<float> normal;
  for (size_t i = 0; i < x->values.size(); ++i) {
    const float v = oracle::Narrowed(x->spec.dtype, normal(*random));
    const uint16_t half = oracle::NarrowedBits(x->spec.dtype, v);
    if (x->spec.dtype == Dtype::kF32) std::memcpy(x->data->data + 4 * i, &v, 4);
    if (x->spec.dtype != Dtype::kF32) std::memcpy(x->data->data + 2 * i, &half, 2);
    x->values[i] = static_cast<double>(v);
  }
}

inline std::vector<double> FillScales(Operand* x, Random* random) {
  std::normal_distribution<float> normal;
  std::vector<double> scales;
  const int64_t count = x->batch * x->ScaleRows() * x->ScaleCols();
  const bool wide = x->spec.format.scale_type == ScaleType::kFloat32;
  x->scale = std::make_unique<Memory>(count * (wide ? 4 : 1));
  for (int64_t i = 0; i < count; ++i) {
    if (wide) {
      const float s = std::exp(normal(*random));
      std::memcpy(x->scale->data + 4 * i, &s, 4);
      scales.push_back(static_cast<double>(s));
    } else if (x->spec.format.scale_type == ScaleType::kE4M3) {
      x->scale->data[i] = static_cast<uint8_t>((*random)() % 0x7f);
      scales.push_back(
          static_cast<double>(oracle::Value(oracle::TypeOf(Element::kE4M3), x->scale->data[i])));
    } else {
      x->scale->data[i] = static_cast<uint8_t>(117 + (*random)() % 20);
      scales.push_back(std::ldexp(1.0, x->scale->data[i] - 127));
    }
  }
  return scales;
}

inline void FillCodes(Operand* x, Random* random) {
  const oracle::Type t = oracle::TypeOf(x->spec.format.element);
  const std::vector<double> scales = FillScales(x, random);
  std::memset(x->data->data, 0, x->data->size);
  for (int64_t i = 0; i < x->batch * x->rows * x->depth; ++i) {
    auto code = static_cast<int>((*random)() % (1u << t.bits));
    const int magnitude = code & ((1 << (t.bits - 1)) - 1);
    if (magnitude > t.max_code || t.bits == 8) code &= ~0x60;  // no specials, no wide ranges
    const int64_t bit = i * t.bits;
    x->data->data[bit / 8] |= static_cast<uint8_t>(code << (bit % 8));
    if (bit % 8 + t.bits > 8) {
      x->data->data[bit / 8 + 1] |= static_cast<uint8_t>(code >> (8 - bit % 8));
    }
    const int64_t k = i % x->depth, row = i / x->depth % x->rows, b = i / x->depth / x->rows;
    const BlockFormat& f = x->spec.format;
    const int64_t scale_row = b * x->ScaleRows() + (f.block_rows ? row / f.block_rows : 0);
    const int64_t scale_col = f.block_cols ? k / f.block_cols : 0;
    x->values[static_cast<size_t>(i)] =
        static_cast<double>(oracle::Value(t, code)) *
        scales[static_cast<size_t>(scale_row * x->ScaleCols() + scale_col)];
  }
}

inline Operand Make(const Spec& spec, int64_t batch, int64_t rows, int64_t depth, Random* random) {
  Operand x{spec, batch, rows, depth, {}, {1.0f}, {}, nullptr, std::make_unique<Memory>(0)};
  x.values.resize(static_cast<size_t>(batch * rows * depth));
  x.data = std::make_unique<Memory>(batch * rows * depth * BitsOf(spec) / 8);
  if (!spec.coded) {
    FillFloats(&x, random);
    return x;
  }
  FillCodes(&x, random);
  for (int64_t b = 0; b < batch; ++b) x.offsets.push_back(b * x.ScaleRows() * x.ScaleCols());
  if ((*random)() % 2) {
    x.global.clear();
    for (int64_t b = 0; b < batch; ++b) x.global.push_back(0.5f + static_cast<float>(b));
  }
  return x;
}

inline ScaledDotProblem ProblemOf(const Operand& lhs, const Operand& rhs, Dtype dtype, void* out) {
  ScaledDotProblem p = {};
  p.batch = lhs.batch;
  p.rows = lhs.rows;
  p.cols = p.out_stride = rhs.rows;
  p.depth = lhs.depth;
  p.lhs = lhs.Describe();
  p.rhs = rhs.Describe();
  p.out_dtype = dtype;
  p.out = out;
  return p;
}

inline double OutputAt(Dtype dtype, const Memory& out, int64_t i) {
  if (dtype == Dtype::kF32) {
    float x;
    std::memcpy(&x, out.data + 4 * i, 4);
    return static_cast<double>(x);
  }
  uint16_t half;
  std::memcpy(&half, out.data + 2 * i, 2);
  return static_cast<double>(dtype == Dtype::kBF16 ? FromBF16<ScalarLanes>(half)
                                                   : FromF16<ScalarLanes>(half));
}

// (K / 16 + 4) 2^-23 of the sum of the magnitudes, and the rounding of the output type.
inline void CheckOutputs(const Operand& lhs, const Operand& rhs, Dtype dtype, const Memory& out,
                  const std::string& name) {
  const double tolerance = static_cast<double>(lhs.depth / 16 + 4) * std::ldexp(1.0, -23);
  const double rounding =
      dtype == Dtype::kF32 ? 0 : std::ldexp(1.0, dtype == Dtype::kBF16 ? -8 : -11);
  for (int64_t i = 0; i < lhs.batch * lhs.rows * rhs.rows; ++i) {
    const int64_t n = i % rhs.rows, m = i / rhs.rows % lhs.rows, b = i / rhs.rows / lhs.rows;
    double sum = 0, magnitude = 0;
    const double* x = lhs.values.data() + (b * lhs.rows + m) * lhs.depth;
    const double* y = rhs.values.data() + (b * rhs.rows + n) * lhs.depth;
    for (int64_t k = 0; k < lhs.depth; ++k) {
      sum += x[k] * y[k];
      magnitude += std::fabs(x[k] * y[k]);
    }
    const auto global = [&](const Operand& o) {
      return static_cast<double>(o.global[o.global.size() == 1 ? 0 : static_cast<size_t>(b)]);
    };
    const double g = global(lhs) * global(rhs);
    const double got = OutputAt(dtype, out, i), expected = sum * g;
    if (dtype == Dtype::kF16 && (std::fabs(expected) > 6e4 || std::fabs(got - expected) < 1e-7))
      continue;
    const double bound = tolerance * magnitude * g + rounding * std::fabs(expected) * 1.01;
    Check(std::fabs(got - expected) <= bound,
          "%s: out[%ld, %ld, %ld] is %g, expected %g, %g bounds off", name.c_str(),
          static_cast<long>(b), static_cast<long>(m), static_cast<long>(n), got, expected,
          std::fabs(got - expected) / bound);
  }
}

inline std::string NameOf(const Operand& lhs, const Operand& rhs, const char* route) {
  return std::string(route) + ": " + lhs.spec.name + " x " + rhs.spec.name +
         " B=" + std::to_string(lhs.batch) + " M=" + std::to_string(lhs.rows) +
         " N=" + std::to_string(rhs.rows) + " K=" + std::to_string(lhs.depth);
}

using Runner = cuda::Status (*)(const ScaledDotProblem&, cuda::DotArgs*, cuda::Stream);

// The same call through a given kernel, as the table would make it.
inline cuda::Status RunWith(Runner runner, const ScaledDotProblem& p) {
  cuda::DotArgs args;
  const cuda::Status status = cuda::Describe(p, &args);
  return status != nullptr ? status : runner(p, &args, nullptr);
}

inline int64_t Unit(const Spec& a, const Spec& b) {
  const auto of = [](const Spec& s) {
    return s.coded && s.format.block_cols ? s.format.block_cols : 16;
  };
  int64_t unit = of(a);
  while (unit % of(b) != 0) unit += of(a);
  return unit;
}

// Emulation is slow, and under the sanitizers slower still: there, one case in so many.
#if defined(__SANITIZE_ADDRESS__)
constexpr int kEvery = 7;
#else
constexpr int kEvery = 1;
#endif

}  // namespace jaxfp4
