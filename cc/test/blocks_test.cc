// quantize_blocks, fake_quantize and dequantize_blocks of every supported target, bit for bit
// against the oracle, over formats, scale rules, arithmetics, roundings, float types and awkward
// shapes.
#include <cmath>
#include <cstring>
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

struct Shape {
  int64_t batch, rows, cols;
};

struct Case {
  QuantizeProblem p;  // without pointers
  std::string name;
};

// A buffer whose ends are guarded by the sanitizers.
template <class T>
using Buffer = std::vector<T>;

// Elements of every kind: each run of 16 is ordinary, ties, zeros, tiny, huge, or has specials.
Buffer<float> MakeElements(int64_t n, Dtype dtype, std::mt19937* random) {
  Buffer<float> x(static_cast<size_t>(n));
  std::normal_distribution<float> normal;
  const auto sign = [&] { return (*random)() & 1 ? -1.0f : 1.0f; };
  for (size_t start = 0; start < x.size(); start += 16) {
    const auto kind = (*random)() % 12;
    for (size_t i = start; i < start + 16 && i < x.size(); ++i) {
      switch (kind) {
        case 0: x[i] = sign() * static_cast<float>((*random)() % 25) * 0.25f; break;
        case 1: x[i] = sign() * 0.0f; break;
        case 2: x[i] = oracle::FloatOf((*random)() % (3u << 23) | ((*random)() << 31)); break;
        case 3: x[i] = sign() * oracle::FloatOf((252u << 23) + (*random)() % (3u << 23)); break;
        case 4: x[i] = (*random)() % 16 == 0 ? NAN : normal(*random); break;
        case 5: x[i] = (*random)() % 16 == 0 ? sign() * INFINITY : normal(*random); break;
        case 6: x[i] = std::ldexp(sign(), static_cast<int>((*random)() % 40) - 20); break;
        case 7: x[i] = normal(*random) * 1e-4f; break;
        default: x[i] = normal(*random);
      }
    }
  }
  for (float& v : x) v = oracle::Narrowed(dtype, v);
  return x;
}

// The memory of elements in a float type.
Buffer<uint8_t> Stored(const Buffer<float>& x, Dtype dtype) {
  const size_t width = dtype == Dtype::kF32 ? 4 : 2;
  Buffer<uint8_t> memory(x.size() * width);
  for (size_t i = 0; i < x.size(); ++i) {
    if (dtype == Dtype::kF32) {
      std::memcpy(memory.data() + 4 * i, &x[i], 4);
    } else {
      uint16_t half = oracle::NarrowedBits(dtype, x[i]);
      if (dtype == Dtype::kBF16 && std::isnan(x[i])) half = 0x7fc0;
      std::memcpy(memory.data() + 2 * i, &half, 2);
    }
  }
  return memory;
}

bool SameElement(const uint8_t* got, float expected, Dtype dtype) {
  if (dtype == Dtype::kF32) {
    float x;
    std::memcpy(&x, got, 4);
    return std::isnan(expected) ? std::isnan(x) : oracle::BitsOf(x) == oracle::BitsOf(expected);
  }
  uint16_t bits;
  std::memcpy(&bits, got, 2);
  if (std::isnan(expected)) return (bits & 0x7fff) > (dtype == Dtype::kBF16 ? 0x7f80 : 0x7c00);
  return bits == oracle::NarrowedBits(dtype, expected);
}

struct Expected {
  Buffer<int> codes;
  Buffer<uint32_t> scales;
  Buffer<float> values;
};

struct Inputs {
  Buffer<float> x;
  Buffer<oracle::Outer> outer;
  Buffer<uint32_t> seeds, columns;
};

uint32_t LogicalColumn(const QuantizeProblem& p, const Inputs& in, int64_t col) {
  const int64_t run = p.cols / p.col_index_count;
  return in.columns[static_cast<size_t>(col / run)] * static_cast<uint32_t>(run) +
         static_cast<uint32_t>(col % run);
}

// One tile: rows [r0, r1) and columns [c0, c1) of the batch * rows by cols matrix.
void ExpectTile(const QuantizeProblem& p, const Inputs& in, int64_t r0, int64_t r1, int64_t c0,
                int64_t c1, Expected* expected) {
  const oracle::Type t = oracle::TypeOf(p.format.element);
  const int64_t rows_per_outer = p.batch * p.rows / p.outer_count;
  const oracle::Outer outer = in.outer[static_cast<size_t>(r0 / rows_per_outer)];
  oracle::Scale scale;
  if (p.format.block_cols == 0) {
    scale.value = scale.factor = outer.g;
    scale.divide = true;
  } else {
    std::vector<std::vector<float>> tile;
    for (int64_t r = r0; r < r1; ++r) {
      const auto begin = in.x.begin() + r * p.cols;
      tile.emplace_back(begin + c0, begin + c1);
    }
    scale = oracle::TileScale(p, tile, outer);
    expected->scales.push_back(scale.stored);
  }
  for (int64_t r = r0; r < r1; ++r) {
    for (int64_t c = c0; c < c1; ++c) {
      const auto i = static_cast<size_t>(r * p.cols + c);
      uint32_t random = 0;
      if (p.rounding != Rounding::kNearest) {
        const auto row = static_cast<size_t>(2 * r);
        random = oracle::Random(p.rounding, in.seeds[row], in.seeds[row + 1],
                                LogicalColumn(p, in, c));
      }
      const float v = oracle::Scaled(scale, p.format.scale_type, in.x[i]);
      expected->codes[i] = oracle::Encode(t, v, p.rounding, random);
      expected->values[i] = oracle::Narrowed(
          p.dtype,
          oracle::Decoded(t, p.format.scale_type, scale, outer.g, expected->codes[i]));
    }
  }
}

__attribute__((noinline)) Expected Expect(const QuantizeProblem& p, const Inputs& in) {
  Expected expected;
  expected.codes.resize(in.x.size());
  expected.values.resize(in.x.size());
  const int64_t tile_rows = p.format.block_rows > 0 ? p.format.block_rows : 1;
  const int64_t tile_cols = p.format.block_cols > 0 ? p.format.block_cols : p.cols;
  for (int64_t b = 0; b < p.batch; ++b) {
    for (int64_t r = 0; r < p.rows; r += tile_rows) {
      const int64_t r0 = b * p.rows + r;
      const int64_t r1 = b * p.rows + (r + tile_rows < p.rows ? r + tile_rows : p.rows);
      for (int64_t c = 0; c < p.cols; c += tile_cols) {
        ExpectTile(p, in, r0, r1, c, c + tile_cols, &expected);
      }
    }
  }
  if (p.format.block_cols == 0) {
    for (const oracle::Outer& o : in.outer) expected.scales.push_back(oracle::BitsOf(o.g));
  }
  return expected;
}

int CodeAt(const Buffer<uint8_t>& data, int64_t row, int64_t col, int64_t cols, int bits) {
  int code = 0;
  for (int b = 0; b < bits; ++b) {
    const int64_t bit = row * cols * bits + col * bits + b;
    code |= (data[static_cast<size_t>(bit / 8)] >> (bit % 8) & 1) << b;
  }
  return code;
}

void RunTarget(const Case& c, const Inputs& in, const Expected& expected, Parallel& parallel) {
  const char* target = ActiveKernels().name;
  QuantizeProblem p = c.p;
  const oracle::Type t = oracle::TypeOf(p.format.element);
  const int64_t rows = p.batch * p.rows;
  const bool float_scale = p.format.scale_type == ScaleType::kFloat32;
  const size_t width = p.dtype == Dtype::kF32 ? 4 : 2;
  Buffer<uint8_t> data(static_cast<size_t>(rows * p.cols * t.bits / 8), 0xee);
  Buffer<uint8_t> scale(expected.scales.size() * (float_scale ? 4 : 1), 0xee);
  Buffer<uint8_t> x = Stored(in.x, p.dtype), out(x.size(), 0xee);
  p.x = x.data();
  p.outer = reinterpret_cast<const float*>(in.outer.data());
  p.row_seed = in.seeds.data();
  p.col_index = in.columns.data();
  p.data = data.data();
  p.scale = scale.data();
  p.out = out.data();
  RunQuantizeBlocks(p, parallel);
  RunFakeQuantize(p, parallel);

  for (size_t i = 0; i < expected.scales.size(); ++i) {
    uint32_t got = 0;
    std::memcpy(&got, scale.data() + i * (float_scale ? 4 : 1), float_scale ? 4 : 1);
    Check(got == expected.scales[i], "%s %s: scale %zu is %x, expected %x", target, c.name.c_str(),
          i, got, expected.scales[i]);
  }
  for (int64_t i = 0; i < rows * p.cols; ++i) {
    const auto at = static_cast<size_t>(i);
    const int code = CodeAt(data, i / p.cols, i % p.cols, p.cols, t.bits);
    Check(code == expected.codes[at], "%s %s: code %ld of %a is %x, expected %x", target,
          c.name.c_str(), static_cast<long>(i), in.x[at], code, expected.codes[at]);
    Check(SameElement(out.data() + at * width, expected.values[at], p.dtype),
          "%s %s: fake value %ld of %a, expected %a", target, c.name.c_str(), static_cast<long>(i),
          in.x[at], expected.values[at]);
  }

  DequantizeProblem d = {};
  d.format = p.format;
  d.dtype = p.dtype;
  d.batch = p.batch;
  d.rows = p.rows;
  d.cols = p.cols;
  d.data = data.data();
  d.scale = scale.data();
  // Without inner blocks the scales follow `outer`: run it as one batch entry for each of them.
  if (p.format.block_cols == 0) {
    d.batch = p.outer_count;
    d.rows = rows / p.outer_count;
    d.scale_cols = 1;
  } else {
    d.scale_cols = p.cols / p.format.block_cols;
    d.scale_row_stride = d.scale_cols;
  }
  const int64_t tiles =
      p.format.block_cols == 0 ? 1 : (p.rows + p.format.block_rows - 1) / p.format.block_rows;
  Buffer<int64_t> offsets;
  for (int64_t b = 0; b < d.batch; ++b) offsets.push_back(b * tiles * d.scale_cols);
  Buffer<float> g;
  for (const oracle::Outer& o : in.outer) g.push_back(o.g);
  d.scale_batch_offset = offsets.data();
  d.global_count = p.outer_count;
  d.global_scale = g.data();
  Buffer<uint8_t> decoded(x.size(), 0xee);
  d.out = decoded.data();
  RunDequantizeBlocks(d, parallel);
  for (size_t i = 0; i < in.x.size(); ++i) {
    Check(SameElement(decoded.data() + i * width, expected.values[i], p.dtype),
          "%s %s: value %zu, expected %a", target, c.name.c_str(), i, expected.values[i]);
  }
}

void RunCase(const Case& c, std::mt19937* random) {
  const QuantizeProblem& p = c.p;
  Inputs in;
  in.x = MakeElements(p.batch * p.rows * p.cols, p.dtype, random);
  for (int64_t i = 0; i < p.outer_count; ++i) {
    const float G = std::ldexp(1.0f + static_cast<float>((*random)() % 1000) * 1e-3f,
                               static_cast<int>((*random)() % 16) - 4);
    in.outer.push_back({G, 1.0f / G});
  }
  for (int64_t i = 0; i < 2 * p.batch * p.rows; ++i) in.seeds.push_back((*random)());
  for (int64_t i = 0; i < p.col_index_count; ++i) in.columns.push_back((*random)() % 1000);
  const ScopedFlushToZero flush;
  const Expected expected = Expect(p, in);
  Serial serial;
  for (const Kernels* kernels : SupportedTargets()) {
    ForceTarget(kernels->name);
    RunTarget(c, in, expected, serial);
  }
  ForceTarget("");
  Threads threads(3);
  RunTarget(c, in, expected, threads);
}

struct Format {
  const char* name;
  Element element;
  ScaleType scale_type;
  ScaleRule rule;
  Arithmetic arithmetic;
  int64_t block_rows, block_cols;
};

std::vector<Format> Formats() {
  const auto te = Arithmetic::kTE, ct = Arithmetic::kCompressedTensors;
  const auto e4m3 = ScaleType::kE4M3, e8m0 = ScaleType::kE8M0, f32 = ScaleType::kFloat32;
  const auto e2m1 = Element::kE2M1;
  std::vector<Format> formats = {
      {"nvfp4 modelopt", e2m1, e4m3, ScaleRule::kNearest, Arithmetic::kModelOpt, 1, 16},
      {"nvfp4 compressed", e2m1, e4m3, ScaleRule::kNearest, ct, 1, 16},
      {"nvfp4 compressed 2d", e2m1, e4m3, ScaleRule::kNearest, ct, 16, 16},
      {"nvfp4 wide", e2m1, e4m3, ScaleRule::kUp, te, 1, 32},
  };
  for (const ScaleRule rule : {ScaleRule::kNearest, ScaleRule::kUp, ScaleRule::kFourOverSix,
                               ScaleRule::kFourOverSixVariance}) {
    formats.push_back({"nvfp4", e2m1, e4m3, rule, te, 1, 16});
    formats.push_back({"nvfp4 2d", e2m1, e4m3, rule, te, 16, 16});
  }
  for (const ScaleRule rule :
       {ScaleRule::kFloor, ScaleRule::kEven, ScaleRule::kRceil, ScaleRule::kCeil}) {
    for (const Element element : {e2m1, Element::kE2M3, Element::kE3M2, Element::kE4M3,
                                  Element::kE5M2}) {
      formats.push_back({"mx", element, e8m0, rule, te, 1, 32});
    }
    formats.push_back({"mx 2d", e2m1, e8m0, rule, te, 32, 32});
    formats.push_back({"mx 2d", Element::kE4M3, e8m0, rule, te, 32, 32});
  }
  for (const Element element : {Element::kE4M3, Element::kE5M2}) {
    formats.push_back({"fp8 tensor", element, f32, ScaleRule::kNearest, te, 0, 0});
    formats.push_back({"fp8 channel", element, f32, ScaleRule::kNearest, te, 1, 0});
    formats.push_back({"fp8 1x128", element, f32, ScaleRule::kNearest, te, 1, 128});
    formats.push_back({"fp8 128x128", element, f32, ScaleRule::kNearest, te, 128, 128});
  }
  formats.push_back({"e2m1 tensor", e2m1, f32, ScaleRule::kNearest, te, 0, 0});
  formats.push_back({"e2m3 tensor", Element::kE2M3, f32, ScaleRule::kNearest, te, 0, 0});
  return formats;
}

// Shapes for a format: one block, odd counts, more than a panel, ragged tiles, columns that fill no
// vector where there are no blocks.
std::vector<Shape> Shapes(const Format& f) {
  if (f.block_cols == 0) return {{1, 1, 8}, {2, 3, 52}, {2, 2, 2068}};
  const int64_t c = f.block_cols;
  if (f.block_rows > 1) return {{1, 3, 3 * c}, {2, f.block_rows + 5, 512 + c}};
  return {{1, 1, c}, {2, 3, 5 * c}, {2, 2, 2048 + 3 * c}, {1, 1, 17 * c}};
}

int64_t OuterCount(const Format& f, const Shape& s) {
  if (f.block_rows == 1 && f.block_cols == 0) return s.batch * s.rows;  // one per channel
  return s.batch;
}

void TestFormats() {
  std::mt19937 random(1);
  int number = 0;
  for (const Format& f : Formats()) {
    for (const Rounding rounding :
         {Rounding::kNearest, Rounding::kStochastic8, Rounding::kStochastic24}) {
      for (const Shape& s : Shapes(f)) {
        // Every float type and cut of the columns in turn.
        ++number;
        if (!Selected()) continue;
        Case c = {};
        QuantizeProblem& p = c.p;
        p.format = {f.element, f.scale_type, f.block_rows, f.block_cols};
        p.rule = f.rule;
        p.arithmetic = f.arithmetic;
        p.rounding = rounding;
        p.dtype = static_cast<Dtype>(number % 3);
        p.batch = s.batch;
        p.rows = s.rows;
        p.cols = s.cols;
        p.outer_count = OuterCount(f, s);
        const int64_t runs[] = {1, s.cols / 4, s.cols / 2, s.cols};
        p.col_index_count = runs[number / 3 % 4];
        c.name = std::string(f.name) + " element " + std::to_string(static_cast<int>(f.element)) +
                 " rule " + std::to_string(static_cast<int>(f.rule)) + " rounding " +
                 std::to_string(static_cast<int>(rounding)) + " dtype " +
                 std::to_string(number % 3) + " [" + std::to_string(s.batch) + ", " +
                 std::to_string(s.rows) + ", " +
                 std::to_string(s.cols) + "]";
        RunCase(c, &random);
      }
    }
  }
}

// Enough work to be shared out: the same bits as from one thread.
void TestThreads() {
  std::mt19937 random(2);
  for (const Shape& s : {Shape{1, 1, 1 << 19}, Shape{3, 700, 256}}) {
    Case c = {};
    c.name = "threads";
    c.p.format = {Element::kE2M1, ScaleType::kE4M3, 1, 16};
    c.p.rounding = Rounding::kStochastic8;
    c.p.batch = s.batch;
    c.p.rows = s.rows;
    c.p.cols = s.cols;
    c.p.outer_count = s.batch;
    c.p.col_index_count = 1;
    RunCase(c, &random);
  }
}

// Scales may be shared along any dimension.
void TestBroadcastScales() {
  Buffer<uint8_t> data(2 * 32 * 32 / 2, 0x21);
  const uint8_t scale[2] = {0x38, 0x40};  // 1 and 2
  const int64_t offsets[2] = {1, 0};
  const float g = 3.0f;
  Buffer<float> out(2 * 32 * 32);
  DequantizeProblem d = {};
  d.format = {Element::kE2M1, ScaleType::kE4M3, 1, 16};
  d.batch = 2;
  d.rows = d.cols = 32;
  d.data = data.data();
  d.scale = scale;
  d.scale_batch_offset = offsets;
  d.scale_cols = 1;
  d.global_count = 1;
  d.global_scale = &g;
  d.out = out.data();
  Serial serial;
  for (const Kernels* kernels : SupportedTargets()) {
    ForceTarget(kernels->name);
    RunDequantizeBlocks(d, serial);
    for (size_t i = 0; i < out.size(); ++i) {
      const float expected = (i % 2 ? 1.0f : 0.5f) * (i < out.size() / 2 ? 2.0f : 1.0f) * g;
      Check(out[i] == expected, "%s broadcast scale: %g, expected %g", kernels->name, out[i],
            expected);
    }
  }
  ForceTarget("");
}

// All codes times scales from one end of float32 to the other: products beyond it are infinite, and
// below it zero, but none that it holds is lost on the way.
void TestExtremeScales() {
  Buffer<float> floats;
  for (int e = -126; e <= 127; ++e) floats.push_back(std::ldexp(e % 2 ? 1.0f : -1.5f, e));
  Buffer<uint8_t> powers;
  for (int byte = 0; byte < 256; ++byte) powers.push_back(static_cast<uint8_t>(byte));
  Serial serial;
  for (const Element element : {Element::kE2M1, Element::kE4M3, Element::kE5M2}) {
    const oracle::Type& type = oracle::TypeOf(element);
    const int64_t codes = int64_t{1} << type.bits;
    for (const bool power : {false, true}) {
      const int64_t rows = static_cast<int64_t>(power ? powers.size() : floats.size());
      Buffer<uint8_t> data;
      for (int64_t i = 0; i < rows * codes * type.bits / 8; ++i) {
        const int64_t code = i * 8 / type.bits % codes;
        data.push_back(static_cast<uint8_t>(type.bits == 4 ? code | (code + 1) << 4 : code));
      }
      const int64_t offset = 0;
      const float one = 1.0f;
      Buffer<float> out(static_cast<size_t>(rows * codes));
      DequantizeProblem d = {};
      d.format = {element, power ? ScaleType::kE8M0 : ScaleType::kFloat32, 1, codes};
      d.batch = 1;
      d.rows = rows;
      d.cols = codes;
      d.data = data.data();
      d.scale = power ? static_cast<const void*>(powers.data()) : floats.data();
      d.scale_batch_offset = &offset;
      d.scale_cols = d.scale_row_stride = 1;
      d.global_count = 1;
      d.global_scale = &one;
      d.out = out.data();
      for (const Kernels* kernels : SupportedTargets()) {
        ForceTarget(kernels->name);
        RunDequantizeBlocks(d, serial);
        for (int64_t i = 0; i < rows * codes; ++i) {
          const auto row = static_cast<size_t>(i / codes);
          const double scale = !power ? floats[row] : row == 255 ? NAN
                                      : std::ldexp(1.0, static_cast<int>(row) - 127);
          const double exact = oracle::Value(type, static_cast<int>(i % codes)) * scale;
          const double held = std::fabs(exact) < 0x1p-126 ? 0 : exact;
          const float got = out[static_cast<size_t>(i)];
          Check(got == static_cast<float>(held) || (std::isnan(got) && std::isnan(held)),
                "%s extreme scales: code %ld times %a is %a", kernels->name,
                static_cast<long>(i % codes), scale, got);
        }
      }
    }
  }
  ForceTarget("");
}

}  // namespace
}  // namespace jaxfp4

int main() {
  jaxfp4::TestFormats();
  jaxfp4::TestThreads();
  jaxfp4::TestBroadcastScales();
  jaxfp4::TestExtremeScales();
  return jaxfp4::Finish("blocks_test");
}
