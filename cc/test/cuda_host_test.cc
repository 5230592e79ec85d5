// The CUDA kernels, run thread by thread on the host: quantize_blocks, fake_quantize,
// dequantize_blocks, amax and hadamard give the bits of the CPU's scalar target, over formats,
// scale rules, arithmetics, roundings, float types and awkward shapes, and a sample of tiles those
// of the oracle.
#include <cmath>
#include <random>
#include <string>

#include "cc/test/cuda_simt.h"

#include "cc/cuda/amax.cu"
#include "cc/cuda/dequantize_blocks.cu"
#include "cc/cuda/fake_quantize.cu"
#include "cc/cuda/hadamard.cu"
#include "cc/cuda/quantize_blocks.cu"

#include "cc/cpu/run.h"
#include "cc/cpu/targets.h"
#include "cc/test/check.h"
#include "cc/test/oracle.h"

namespace jaxfp4 {
namespace {

using Random = std::mt19937;
using Bytes = std::vector<unsigned char>;

// Device memory: 16-byte aligned, its end guarded by the sanitizers.
template <class T>
struct Memory {
  explicit Memory(int64_t count, int fill = 0xee)
      : size(static_cast<size_t>(count)), data(new (std::align_val_t(16)) T[size + (size == 0)]) {
    std::memset(static_cast<void*>(data), fill, size * sizeof(T));
  }
  ~Memory() { operator delete[](data, std::align_val_t(16)); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  bool operator==(const Memory& other) const {
    return size == other.size && std::memcmp(data, other.data, size * sizeof(T)) == 0;
  }
  size_t size;
  T* data;
};

int64_t WidthOf(Dtype dtype) { return dtype == Dtype::kF32 ? 4 : 2; }

// Elements of every kind: each run of 16 is ordinary, ties, zeros, tiny, huge, or has specials.
float MakeElement(unsigned kind, Random* random) {
  std::normal_distribution<float> normal;
  const float sign = (*random)() & 1 ? -1.0f : 1.0f;
  switch (kind) {
    case 0: return sign * static_cast<float>((*random)() % 25) * 0.25f;
    case 1: return sign * 0.0f;
    case 2: return sign * oracle::FloatOf((*random)() % (3u << 23));
    case 3: return sign * oracle::FloatOf((252u << 23) + (*random)() % (3u << 23));
    case 4: return (*random)() % 16 == 0 ? NAN : normal(*random);
    case 5: return (*random)() % 16 == 0 ? sign * INFINITY : normal(*random);
    case 6: return std::ldexp(sign, static_cast<int>((*random)() % 40) - 20);
    case 7: return normal(*random) * 1e-4f;
    default: return normal(*random);
  }
}

void FillElements(Dtype dtype, int64_t n, Random* random, Bytes* plain, unsigned char* out) {
  plain->resize(static_cast<size_t>(n) * 4);
  unsigned kind = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (i % 16 == 0) kind = (*random)() % 12;
    const float x = oracle::Narrowed(dtype, MakeElement(kind, random));
    std::memcpy(plain->data() + 4 * i, &x, 4);
    if (dtype == Dtype::kF32) {
      std::memcpy(out + 4 * i, &x, 4);
    } else {
      uint16_t half = oracle::NarrowedBits(dtype, x);
      if (dtype == Dtype::kBF16 && std::isnan(x)) half = 0x7fc0;
      std::memcpy(out + 2 * i, &half, 2);
    }
  }
}

struct Case {
  QuantizeProblem p;
  std::string name;
};

// Bit for bit, but that a NaN may be any.
void SameFloats(Dtype dtype, const Memory<unsigned char>& got,
                const Memory<unsigned char>& expected, const std::string& name) {
  const uint32_t infinity = dtype == Dtype::kF32    ? kInfinity
                            : dtype == Dtype::kBF16 ? 0x7f80
                                                    : 0x7c00;
  const uint32_t magnitude = dtype == Dtype::kF32 ? ~kSignBit : 0x7fff;
  const auto width = static_cast<size_t>(WidthOf(dtype));
  for (size_t i = 0; i < got.size; i += width) {
    uint32_t a = 0, b = 0;
    std::memcpy(&a, got.data + i, width);
    std::memcpy(&b, expected.data + i, width);
    const bool nan = (b & magnitude) > infinity;
    Check(nan ? (a & magnitude) > infinity : a == b, "%s: element %zu is %x, expected %x",
          name.c_str(), i / width, a, b);
  }
}

// ---- against the oracle

std::vector<std::vector<float>> TileElements(const QuantizeProblem& p, const Bytes& plain,
                                             int64_t r0, int64_t r1, int64_t c0) {
  std::vector<std::vector<float>> tile;
  for (int64_t r = r0; r < r1; ++r) {
    std::vector<float> row(static_cast<size_t>(p.format.block_cols));
    std::memcpy(row.data(), plain.data() + 4 * (r * p.cols + c0), row.size() * 4);
    tile.push_back(row);
  }
  return tile;
}

void CheckOracle(const Case& c, const Bytes& plain, const Memory<unsigned char>& data,
                 const Memory<unsigned char>& scale) {
  const QuantizeProblem& p = c.p;
  if (p.format.block_cols == 0) return;
  const oracle::Type t = oracle::TypeOf(p.format.element);
  const int64_t down = cuda::CeilDiv(p.rows, p.format.block_rows),
                across = p.cols / p.format.block_cols;
  for (int64_t tile = 0; tile < p.batch * down * across; tile += 7) {
    const int64_t batch = tile / across / down, row = tile / across % down * p.format.block_rows;
    const int64_t r0 = batch * p.rows + row, c0 = tile % across * p.format.block_cols;
    const int64_t r1 = batch * p.rows + std::min(p.rows, row + p.format.block_rows);
    const auto x = TileElements(p, plain, r0, r1, c0);
    const float* outer = p.outer + 2 * (r0 / (p.batch * p.rows / p.outer_count));
    const oracle::Scale s = oracle::TileScale(p, x, {outer[0], outer[1]});
    uint32_t stored = 0;
    const size_t width = p.format.scale_type == ScaleType::kFloat32 ? 4 : 1;
    std::memcpy(&stored, scale.data + static_cast<size_t>(tile) * width, width);
    Check(stored == s.stored, "%s: scale of tile %ld is %x, the oracle says %x", c.name.c_str(),
          static_cast<long>(tile), stored, s.stored);
    if (p.rounding != Rounding::kNearest) continue;
    for (int64_t col = 0; col < p.format.block_cols; ++col) {
      const int64_t bit = (r0 * p.cols + c0 + col) * t.bits;
      uint32_t code = data.data[bit / 8];
      if (bit % 8 + t.bits > 8) code |= uint32_t{data.data[bit / 8 + 1]} << 8;
      code = code >> (bit % 8) & ((1u << t.bits) - 1);
      const float v = oracle::Scaled(s, p.format.scale_type, x[0][static_cast<size_t>(col)]);
      Check(static_cast<int>(code) == oracle::Encode(t, v), "%s: code %ld of tile %ld is %x",
            c.name.c_str(), static_cast<long>(col), static_cast<long>(tile), code);
    }
  }
}

// ---- against the CPU

void CheckDequantize(const Case& c, const Memory<unsigned char>& data,
                     const Memory<unsigned char>& scale) {
  const QuantizeProblem& p = c.p;
  DequantizeProblem d = {};
  d.format = p.format;
  d.dtype = p.dtype;
  const bool blocks = p.format.block_cols != 0;
  // Without blocks the scales follow `outer`: run it as one batch entry for each of them.
  d.batch = blocks ? p.batch : p.outer_count;
  d.rows = p.batch * p.rows / d.batch;
  d.cols = p.cols;
  d.data = data.data;
  d.scale = scale.data;
  d.scale_cols = blocks ? p.cols / p.format.block_cols : 1;
  d.scale_row_stride = blocks ? d.scale_cols : 0;
  std::vector<int64_t> offsets;
  const int64_t tiles = blocks ? cuda::CeilDiv(p.rows, p.format.block_rows) : 1;
  for (int64_t b = 0; b < d.batch; ++b) offsets.push_back(b * tiles * d.scale_cols);
  std::vector<float> g;
  for (int64_t i = 0; i < p.outer_count; ++i) g.push_back(p.outer[2 * i + 1]);
  d.scale_batch_offset = offsets.data();
  d.global_count = p.outer_count;
  d.global_scale = g.data();
  const int64_t size = p.batch * p.rows * p.cols * WidthOf(p.dtype);
  Memory<unsigned char> expected(size), got(size);
  Serial serial;
  d.out = expected.data;
  RunDequantizeBlocks(d, serial);
  d.out = got.data;
  const cuda::Status status = cuda::DequantizeBlocks(d, nullptr);
  Check(status == nullptr, "%s: dequantize: %s", c.name.c_str(), status);
  SameFloats(p.dtype, got, expected, c.name + " dequantize");
}

void RunCase(Case c, Random* random) {
  QuantizeProblem& p = c.p;
  const int64_t rows = p.batch * p.rows, size = rows * p.cols;
  Memory<unsigned char> x(size * WidthOf(p.dtype));
  Bytes plain;
  FillElements(p.dtype, size, random, &plain, x.data);
  std::vector<float> outer;
  for (int64_t i = 0; i < p.outer_count; ++i) {
    const float G = std::ldexp(1.0f + static_cast<float>((*random)() % 1000) * 1e-3f,
                               static_cast<int>((*random)() % 16) - 4);
    outer.insert(outer.end(), {G, 1.0f / G});
  }
  std::vector<uint32_t> seeds, columns;
  for (int64_t i = 0; i < 2 * rows; ++i) seeds.push_back((*random)());
  for (int64_t i = 0; i < p.col_index_count; ++i) columns.push_back((*random)() % 1000);
  p.x = x.data;
  p.outer = outer.data();
  p.row_seed = seeds.data();
  p.col_index = columns.data();

  const int64_t bits = oracle::TypeOf(p.format.element).bits;
  const int64_t tiles =
      p.format.block_cols == 0
          ? p.outer_count
          : p.batch * cuda::CeilDiv(p.rows, p.format.block_rows) * (p.cols / p.format.block_cols);
  const int64_t scale_bytes = tiles * (p.format.scale_type == ScaleType::kFloat32 ? 4 : 1);
  Memory<unsigned char> data(size * bits / 8), cpu_data(size * bits / 8);
  Memory<unsigned char> scale(scale_bytes), cpu_scale(scale_bytes);
  Memory<unsigned char> out(size * WidthOf(p.dtype)), cpu_out(size * WidthOf(p.dtype));
  Serial serial;
  p.data = cpu_data.data, p.scale = cpu_scale.data, p.out = cpu_out.data;
  RunQuantizeBlocks(p, serial);
  RunFakeQuantize(p, serial);
  p.data = data.data, p.scale = scale.data, p.out = out.data;
  const cuda::Status quantized = cuda::QuantizeBlocks(p, nullptr);
  const cuda::Status faked = cuda::FakeQuantize(p, nullptr);
  Check(quantized == nullptr && faked == nullptr, "%s: a launch failed", c.name.c_str());
  Check(data == cpu_data, "%s: codes differ from the CPU's", c.name.c_str());
  Check(scale == cpu_scale, "%s: scales differ from the CPU's", c.name.c_str());
  SameFloats(p.dtype, out, cpu_out, c.name + " fake");
  CheckOracle(c, plain, data, scale);
  CheckDequantize(c, data, scale);
}

struct Format {
  const char* name;
  BlockFormat format;
  ScaleRule rule;
  Arithmetic arithmetic;
};

std::vector<Format> Formats() {
  constexpr auto te = Arithmetic::kTE;
  constexpr auto e4m3 = ScaleType::kE4M3, e8m0 = ScaleType::kE8M0, f32 = ScaleType::kFloat32;
  constexpr auto e2m1 = Element::kE2M1;
  constexpr auto nearest = ScaleRule::kNearest;
  std::vector<Format> formats = {
      {"modelopt", {e2m1, e4m3, 1, 16}, nearest, Arithmetic::kModelOpt},
      {"compressed", {e2m1, e4m3, 1, 16}, nearest, Arithmetic::kCompressedTensors},
      {"compressed 2d", {e2m1, e4m3, 16, 16}, nearest, Arithmetic::kCompressedTensors},
      {"nvfp4 48", {e2m1, e4m3, 1, 48}, nearest, te},
      {"nvfp4 40 rows", {e2m1, e4m3, 40, 16}, ScaleRule::kFourOverSix, te},
  };
  for (const ScaleRule rule :
       {nearest, ScaleRule::kUp, ScaleRule::kFourOverSix, ScaleRule::kFourOverSixVariance}) {
    formats.push_back({"nvfp4", {e2m1, e4m3, 1, 16}, rule, te});
    formats.push_back({"nvfp4 2d", {e2m1, e4m3, 16, 16}, rule, te});
  }
  for (const ScaleRule rule :
       {ScaleRule::kFloor, ScaleRule::kEven, ScaleRule::kRceil, ScaleRule::kCeil}) {
    for (const Element element :
         {e2m1, Element::kE2M3, Element::kE3M2, Element::kE4M3, Element::kE5M2}) {
      formats.push_back({"mx", {element, e8m0, 1, 32}, rule, te});
    }
    formats.push_back({"mx 2d", {Element::kE4M3, e8m0, 32, 32}, rule, te});
  }
  for (const Element element : {Element::kE4M3, Element::kE5M2}) {
    formats.push_back({"fp8 tensor", {element, f32, 0, 0}, nearest, te});
    formats.push_back({"fp8 channel", {element, f32, 1, 0}, nearest, te});
    formats.push_back({"fp8 1x128", {element, f32, 1, 128}, nearest, te});
    formats.push_back({"fp8 128x128", {element, f32, 128, 128}, nearest, te});
  }
  formats.push_back({"e2m1 tensor", {e2m1, f32, 0, 0}, nearest, te});
  formats.push_back({"e2m3 tensor", {Element::kE2M3, f32, 0, 0}, nearest, te});
  return formats;
}

struct Shape {
  int64_t batch, rows, cols;
};

std::vector<Shape> Shapes(const BlockFormat& f) {
  if (f.block_cols == 0) return {{1, 1, 8}, {2, 3, 52}, {2, 2, 1040}};
  if (f.block_rows > 1) return {{1, 3, 3 * f.block_cols}, {2, f.block_rows + 5, 5 * f.block_cols}};
  return {{1, 1, f.block_cols}, {2, 3, 5 * f.block_cols}, {1, 40, 13 * f.block_cols}};
}

void TestFormats() {
  Random random(1);
  int number = 0;
  for (const Format& f : Formats()) {
    for (int rounding = 0; rounding < 3; ++rounding) {
      for (const Shape& s : Shapes(f.format)) {
        ++number;
        Case c = {};
        c.p.format = f.format;
        c.p.rule = f.rule;
        c.p.arithmetic = f.arithmetic;
        c.p.rounding = static_cast<Rounding>(rounding);
        c.p.dtype = static_cast<Dtype>(number % 3);
        c.p.batch = s.batch, c.p.rows = s.rows, c.p.cols = s.cols;
        const bool per_row = f.format.block_rows == 1 && (f.format.block_cols == 0 || number % 2);
        c.p.outer_count = per_row ? s.batch * s.rows : s.batch;
        const int64_t runs[] = {1, s.cols / 4, s.cols / 2, s.cols};
        c.p.col_index_count = runs[number / 3 % 4];
        c.name = std::string(f.name) + " element " +
                 std::to_string(static_cast<int>(f.format.element)) + " rule " +
                 std::to_string(static_cast<int>(f.rule)) + " rounding " +
                 std::to_string(rounding) + " dtype " + std::to_string(number % 3) + " [" +
                 std::to_string(s.batch) + ", " + std::to_string(s.rows) + ", " +
                 std::to_string(s.cols) + "]";
        RunCase(c, &random);
      }
    }
  }
}

// More tiles than the largest grid has teams: every team takes several.
void TestRounds() {
  Random random(2);
  Case c = {};
  c.name = "rounds";
  c.p.format = {Element::kE2M1, ScaleType::kE4M3, 1, 16};
  c.p.batch = 1, c.p.rows = 300, c.p.cols = 1024;
  c.p.outer_count = 1;
  RunCase(c, &random);
}

void TestEmpty() {
  QuantizeProblem p = {};
  p.format = {Element::kE2M1, ScaleType::kE4M3, 1, 16};
  simt::launches = 0;
  Check(cuda::QuantizeBlocks(p, nullptr) == nullptr, "an empty quantize_blocks fails");
  Check(cuda::FakeQuantize(p, nullptr) == nullptr, "an empty fake_quantize fails");
  Check(cuda::DequantizeBlocks({}, nullptr) == nullptr, "an empty dequantize_blocks fails");
  Check(cuda::Hadamard({}, nullptr) == nullptr, "an empty hadamard fails");
  Check(cuda::Amax({}, nullptr) == nullptr, "an empty amax fails");
  Check(simt::launches == 0, "empty operations launch %d kernels", simt::launches);
}

void TestAmax() {
  Random random(3);
  for (const Dtype dtype : {Dtype::kF32, Dtype::kBF16, Dtype::kF16}) {
    for (const Shape& s : {Shape{3, 0, 0}, Shape{3, 0, 1}, Shape{3, 0, 33}, Shape{70, 0, 160},
                           Shape{1, 0, 70001}, Shape{2, 0, 131072}}) {
      Memory<unsigned char> x(s.batch * s.cols * WidthOf(dtype));
      Bytes plain;
      FillElements(dtype, s.batch * s.cols, &random, &plain, x.data);
      Memory<float> out(s.batch), expected(s.batch);
      Serial serial;
      RunAmax({dtype, s.batch, s.cols, x.data, expected.data}, serial);
      Check(cuda::Amax({dtype, s.batch, s.cols, x.data, out.data}, nullptr) == nullptr,
            "amax fails");
      Check(out == expected, "amax of %ld x %ld, dtype %d", static_cast<long>(s.batch),
            static_cast<long>(s.cols), static_cast<int>(dtype));
    }
  }
}

void TestHadamard() {
  Random random(4);
  std::normal_distribution<float> normal;
  for (int64_t n = 2; n <= 1024; n *= 2) {
    for (int variant = 0; variant < 6; ++variant) {
      HadamardProblem p = {};
      p.dtype = static_cast<Dtype>(variant % 3);
      p.count = n * (variant < 3 ? 1 : 21);
      p.n = n;
      p.inverse = variant % 2 != 0;
      Memory<unsigned char> x(p.count * WidthOf(p.dtype)), out(p.count * WidthOf(p.dtype)),
          expected(p.count * WidthOf(p.dtype));
      for (int64_t i = 0; i < p.count; ++i) {
        const float v = oracle::Narrowed(p.dtype, normal(random));
        const uint16_t half = oracle::NarrowedBits(p.dtype, v);
        if (p.dtype == Dtype::kF32) std::memcpy(x.data + 4 * i, &v, 4);
        if (p.dtype != Dtype::kF32) std::memcpy(x.data + 2 * i, &half, 2);
      }
      std::vector<float> signs;
      for (int64_t i = 0; i < n; ++i) signs.push_back(random() & 1 ? -1.0f : 1.0f);
      p.x = x.data;
      p.signs = signs.data();
      Serial serial;
      p.out = expected.data;
      RunHadamard(p, serial);
      p.out = out.data;
      Check(cuda::Hadamard(p, nullptr) == nullptr, "hadamard fails");
      Check(out == expected, "hadamard %ld, dtype %d", static_cast<long>(n), variant % 3);
    }
  }
}

// ---- the parts

void TestDivider() {
  Random random(5);
  for (int i = 0; i < 200000; ++i) {
    const uint32_t d = 1 + (random() >> (1 + random() % 31)) % 0x7fffffffu;
    const uint32_t n = random() >> (1 + random() % 31);
    const cuda::Divider divider(d);
    for (const uint32_t m :
         {n, n / d * d, n / d * d - (n >= d), 0x7fffffffu, 0x7fffffffu / d * d}) {
      Check(divider.Divide(m) == m / d, "%u / %u is %u", m, d, divider.Divide(m));
    }
  }
}

// Tables of arrays that broadcast along some axes.
void TestStrided() {
  Random random(6);
  for (int i = 0; i < 2000; ++i) {
    std::vector<int64_t> table = {0};
    int64_t stride = 1 + random() % 5;
    const int axes = static_cast<int>(random() % 5);
    for (int axis = 0; axis < axes; ++axis) {  // from the last
      const auto size = static_cast<int64_t>(1 + random() % 4);
      const int64_t step = random() % 2 ? stride : 0;
      std::vector<int64_t> larger;
      for (int64_t j = 0; j < size; ++j) {
        for (const int64_t offset : table) larger.push_back(offset + j * step);
      }
      if (step != 0) stride *= size;
      table = larger;
    }
    cuda::Strided strided;
    if (!strided.Fit(table.data(), static_cast<int64_t>(table.size()))) {
      Check(false, "a table of %zu offsets does not fit", table.size());
      continue;
    }
    for (size_t j = 0; j < table.size(); ++j) {
      Check(strided.At(static_cast<uint32_t>(j)) == table[j], "offset %zu", j);
    }
  }
}

template <class E>
void TestValues() {
  for (uint32_t code = 0; code < (1u << E::kBits); ++code) {
    const float got = cuda::ValueOf<E>(code), expected = Decode<E, ScalarLanes>(code);
    Check(std::isnan(expected) ? std::isnan(got) : oracle::BitsOf(got) == oracle::BitsOf(expected),
          "value of %d-bit code %x is %a", E::kBits, code, got);
  }
}

void TestAll() {
  const ScopedFlushToZero flush;
  ForceTarget("scalar");
  TestDivider();
  TestStrided();
  TestValues<E2M1>();
  TestValues<E2M3>();
  TestValues<E3M2>();
  TestValues<E4M3>();
  TestValues<E5M2>();
  TestEmpty();
  TestFormats();
  TestRounds();
  for (const bool descending : {false, true}) {
    simt::descending = descending;
    TestAmax();
    TestHadamard();
  }
}

}  // namespace
}  // namespace jaxfp4

int main() {
  jaxfp4::TestAll();
  return jaxfp4::Finish("cuda_host_test");
}
