// scaled_dot's e4m3 kernels of sm_90a, run thread by thread on the host, against float64 products
// of the decoded operands; how they decode MXFP4; and how far sums of the precision that their
// tensor cores are said to have may be off.
#include "cc/test/cuda_simt_async.h"

#include "cc/cuda/dot_fp8_launch.h"

#include "cc/cpu/parallel.h"
#include "cc/test/cuda_dot_cases.h"

namespace jaxfp4 {
namespace {

Spec Fp8(const char* name, int64_t block_rows, int64_t block_cols) {
  return {name, true, Dtype::kF32,
          {Element::kE4M3, ScaleType::kFloat32, block_rows, block_cols}};
}
const Spec kMxfp4 = {"mxfp4", true, Dtype::kF32, {Element::kE2M1, ScaleType::kE8M0, 1, 32}};
std::vector<Spec> Fp8Specs() {
  return {Fp8("tensor", 0, 0), Fp8("row", 1, 0), Fp8("1x128", 1, 128), Fp8("128x128", 128, 128)};
}

// ---- decoding

double ValueOf4(uint32_t code) {
  return static_cast<double>(oracle::Value(oracle::TypeOf(Element::kE2M1), static_cast<int>(code)));
}

// Every code at every place of a word, by every table.
void TestTables() {
  for (uint32_t table = 0; table < cuda::Fp8Window::kTables; ++table) {
    const cuda::Fp8Table t = cuda::Fp8TableOf(table);
    const double power = table == cuda::Fp8Window::kZeros
                             ? 0
                             : std::ldexp(1.0, static_cast<int>(table) - 8);
    for (uint32_t codes = 0; codes < 0x10000u; codes += 0x1111u) {
      for (uint32_t other = 0; other < 16; ++other) {
        const uint32_t four = (codes & 0xff0fu) | other << 4;
        const uint32_t decoded = cuda::DecodeFour(four, t.low, t.high);
        for (int i = 0; i < 4; ++i) {
          const double got = cuda::ValueOfE4M3(decoded >> (8 * i));
          const double expected = ValueOf4(four >> (4 * i) & 15u) * power;
          Check(got == expected, "code %x, table %u: %g, expected %g", four >> (4 * i) & 15u, table,
                got, expected);
        }
      }
    }
  }
}

// Each block in one pass, with its scale.
void CheckPasses(uint32_t codes) {
  cuda::Fp8Scales scales(codes);
  int taken[4] = {};
  bool has_nan = false, first = true;
  for (int i = 0; i < 4; ++i) has_nan |= (codes >> (8 * i) & 255u) == 255;
  while (first || scales.IsAnyLeft()) {
    uint32_t tables;
    const float base = scales.Pass(&tables);
    Check(std::isnan(base) == has_nan, "scales %08x: base %g", codes, base);
    Check(std::isnan(base) || base >= 1.1754944e-38f, "scales %08x: base %g", codes, base);
    bool any = false;
    for (int i = 0; i < 4; ++i) {
      const uint32_t table = tables >> (8 * i) & 255u, code = codes >> (8 * i) & 255u;
      Check(table < cuda::Fp8Window::kTables, "scales %08x: no table %u", codes, table);
      if (table == cuda::Fp8Window::kZeros) continue;
      ++taken[i];
      any = true;
      const double scale = static_cast<double>(base) * std::ldexp(1.0, static_cast<int>(table) - 8);
      Check(has_nan || scale == std::ldexp(1.0, static_cast<int>(code) - 127),
            "scales %08x: block %d has %g", codes, i, scale);
    }
    Check(any || first, "scales %08x: a pass takes nothing", codes);
    first = false;
  }
  for (int i = 0; i < 4; ++i) {
    Check(taken[i] == ((codes >> (8 * i) & 255u) != 255), "scales %08x: block %d in %d passes",
          codes, i, taken[i]);
  }
}
void TestPasses() {
  Random random(1);
  for (const uint32_t codes : {0u, 0xffffffffu, 0xfefefefeu, 0x00fe7f01u, 0x070f1000u, 0xff000000u,
                               0x08090a18u, 0x80808080u, 0x80727170u}) {
    CheckPasses(codes);
  }
  for (int i = 0; i < 20000; ++i) {
    const uint32_t near = random() % 256 * 0x01010101u;
    CheckPasses(i % 2 ? static_cast<uint32_t>(random()) : near ^ (random() & 0x1f1f1f1fu));
  }
}

// ---- products

bool IsMx(const Spec& s) { return s.format.element == Element::kE2M1; }
cuda::Status Run(const ScaledDotProblem& p) {
  return RunWith(p.rhs.format.element == Element::kE2M1 ? cuda::RunFp8ByMxfp4 : cuda::RunFp8, p);
}
bool Takes(const ScaledDotProblem& p) { return cuda::Fp8Takes(p) || cuda::Fp8ByMxfp4Takes(p); }

// MXFP4's scales from `least` on, so many.
void SpreadScales(Operand* x, uint32_t least, uint32_t count, Random* random) {
  for (size_t i = 0; i < x->scale->size; ++i) {
    const auto scale = static_cast<uint8_t>(least + (*random)() % count);
    for (size_t j = 32 * i; j < 32 * i + 32; ++j) {
      x->values[j] = std::ldexp(x->values[j], scale - x->scale->data[i]);
    }
    x->scale->data[i] = scale;
  }
}

void CheckProduct(const Operand& lhs, const Operand& rhs, Dtype dtype, const char* what) {
  Memory out(lhs.batch * lhs.rows * rhs.rows * cuda::SizeOf(dtype));
  const ScaledDotProblem p = ProblemOf(lhs, rhs, dtype, out.data);
  const std::string name = NameOf(lhs, rhs, what);
  Check(Takes(p), "%s: not taken", name.c_str());
  Check(Run(p) == nullptr, "%s fails", name.c_str());
  CheckOutputs(lhs, rhs, dtype, out, name);
}

// Every size of tile, every kind of scales, ragged; several tiles of a block, and parts of one.
void TestProducts() {
  Random random(2);
  int number = 0;
  for (const Spec& a : Fp8Specs()) {
    std::vector<Spec> weights = Fp8Specs();
    weights.push_back(kMxfp4);
    weights.push_back(kMxfp4);  // half of the cases
    weights.push_back(kMxfp4);
    for (const Spec& b : weights) {
      for (const int64_t most : {16, 32, 64, 150}) {
        if (++number % kEvery != 0) continue;
        simt::descending = number % 2 == 0;
        simt::multiprocessors = number % 3 == 0 ? 4 : 2;
        const int64_t rows = std::max<int64_t>(1, most - static_cast<int64_t>(random() % 16));
        const int64_t cols = 2 * (1 + random() % (number % 4 ? 100 : 200));
        const int64_t slabs = number % 4 ? 1 + random() % 5 : 8 + random() % 12;
        const Operand lhs = Make(a, 1 + number % 5 / 4, rows, 128 * slabs, &random);
        Operand rhs = Make(b, lhs.batch, cols, 128 * slabs, &random);
        if (IsMx(b) && number % 2) SpreadScales(&rhs, 100, number % 4 == 1 ? 18 : 60, &random);
        CheckProduct(lhs, rhs, static_cast<Dtype>(random() % 2), "fp8");
      }
    }
  }
  simt::multiprocessors = 2;
}

// The same bits from few rows as from many, within one tile size.
void TestRowsAlone() {
  Random random(3);
  const Operand lhs = Make(Fp8("row", 1, 0), 1, 12, 512, &random);
  Operand rhs = Make(kMxfp4, 1, 40, 512, &random);
  SpreadScales(&rhs, 100, 40, &random);
  Memory all(12 * 40 * 4), part(40 * 4);
  ScaledDotProblem p = ProblemOf(lhs, rhs, Dtype::kF32, all.data);
  Check(Run(p) == nullptr, "twelve rows fail");
  p.rows = p.lhs.rows_per_offset = 1;
  p.out = part.data;
  Check(Run(p) == nullptr, "one row fails");
  Check(std::memcmp(all.data, part.data, part.size) == 0, "other rows matter");
}

// A NaN among scales or codes reaches its row or column, and nothing else.
void TestNaN() {
  Random random(4);
  const int64_t rows = 6, cols = 10, depth = 384;
  for (const bool spread : {false, true}) {
    const Operand lhs = Make(Fp8("1x128", 1, 128), 1, rows, depth, &random);
    Operand rhs = Make(kMxfp4, 1, cols, depth, &random);
    if (spread) SpreadScales(&rhs, 60, 120, &random);
    rhs.scale->data[4 * depth / 32 + 7] = 255;
    lhs.data->data[2 * depth + 5] = 0x7f;
    Memory out(rows * cols * 4);
    Check(Run(ProblemOf(lhs, rhs, Dtype::kF32, out.data)) == nullptr, "NaN fails");
    for (int64_t i = 0; i < rows * cols; ++i) {
      const double y = OutputAt(Dtype::kF32, out, i);
      Check(std::isnan(y) == (i % cols == 4 || i / cols == 2), "out[%ld, %ld] is %g",
            static_cast<long>(i / cols), static_cast<long>(i % cols), y);
    }
  }
}

// The least scales, 2^-127, which float32 has as a subnormal only, and the greatest; by codes of
// lhs with which all sums are normal numbers: large ones, or few and small ones.
void TestExtremes() {
  Random random(5);
  for (const uint32_t least : {0u, 1u, 245u}) {
    const bool small = least < 100;
    Operand lhs = Make(Fp8("tensor", 0, 0), 1, 5, 256, &random);
    Operand rhs = Make(kMxfp4, 1, 16, 256, &random);
    rhs.global = lhs.global = {1.0f};
    const float one = 1;
    std::memcpy(lhs.scale->data, &one, 4);
    for (size_t i = 0; i < lhs.values.size(); ++i) {
      lhs.data->data[i] = small ? 0x7e : i % 64 == 3 ? 1 : 0;
      lhs.values[i] = cuda::ValueOfE4M3(lhs.data->data[i]);
    }
    for (size_t i = 0; i < rhs.data->size; ++i) rhs.data->data[i] &= 0x77;
    for (double& v : rhs.values) v = std::fabs(v);
    SpreadScales(&rhs, least, 10, &random);
    CheckProduct(lhs, rhs, Dtype::kF32, "extreme scales");
  }
}

// Blocks of a cluster share the depth, two, four or eight of them.
void TestParts() {
  Random random(6);
  for (const int parts : {2, 4, 8}) {
    if (kEvery > 1 && parts == 8) continue;
    simt::multiprocessors = parts;
    const int64_t depth = 128 * (4 * parts + 3);
    Check(cuda::Fp8PartsOf(1, depth / 128) == static_cast<unsigned>(parts), "not in %d parts",
          parts);
    const Operand lhs = Make(Fp8("1x128", 1, 128), 1, 9, depth, &random);
    const Operand rhs = Make(parts == 4 ? Fp8("1x128", 1, 128) : kMxfp4, 1, 70, depth, &random);
    CheckProduct(lhs, rhs, Dtype::kBF16, "parts");
  }
  simt::multiprocessors = 132;
  Check(cuda::Fp8PartsOf(16, 32) == 8, "N = 4096, K = 4096");
  Check(cuda::Fp8PartsOf(56, 56) == 2, "N = 14336, K = 7168");
  Check(cuda::Fp8PartsOf(100, 56) == 1, "many tiles");
  simt::multiprocessors = 2;
}

// What sums are off by, at most, if products are cut off 13 bits below the largest: 34 times 2^-13
// for each of four instructions (docs/numerics.md, Products). The float32 bound must not hold, or
// nothing was cut.
void TestCutSums() {
  Random random(7);
  cuda::cuts_sums = true;
  double worst = 0;
  bool beyond_float32 = false;
  for (int round = 0; round < 6; ++round) {
    const int64_t rows = 8, cols = 64, depth = 128 * (1 + 3 * round);
    Operand lhs = Make(Fp8("tensor", 0, 0), 1, rows, depth, &random);
    Operand rhs = Make(round % 2 ? kMxfp4 : Fp8("tensor", 0, 0), 1, cols, depth, &random);
    lhs.global = rhs.global = {1.0f};
    Memory out(rows * cols * 4);
    Check(Run(ProblemOf(lhs, rhs, Dtype::kF32, out.data)) == nullptr, "cut sums fail");
    for (int64_t i = 0; i < rows * cols; ++i) {
      double sum = 0, magnitude = 0;
      for (int64_t k = 0; k < depth; ++k) {
        const double term = lhs.values[static_cast<size_t>(i / cols * depth + k)] *
                            rhs.values[static_cast<size_t>(i % cols * depth + k)];
        sum += term;
        magnitude += std::fabs(term);
      }
      const double off = std::fabs(OutputAt(Dtype::kF32, out, i) - sum) / magnitude;
      worst = std::max(worst, off);
      const double float32 = static_cast<double>(depth / 16 + 4) * std::ldexp(1.0, -23);
      beyond_float32 |= off > float32;
      Check(off <= 4 * 34 * std::ldexp(1.0, -13) + float32, "cut sums are off by %g", off);
    }
  }
  Check(beyond_float32, "sums were not cut: %g at most", worst);
  cuda::cuts_sums = false;
}

void TestTakes() {
  Random random(8);
  const auto takes = [&](const Spec& a, const Spec& b, int64_t cols, int64_t depth) {
    const Operand lhs = Make(a, 1, 4, depth, &random), rhs = Make(b, 1, cols, depth, &random);
    return Takes(ProblemOf(lhs, rhs, Dtype::kF32, nullptr));
  };
  const Spec row = Fp8("row", 1, 0), bf16 = {"bfloat16", false, Dtype::kBF16, {}};
  Check(takes(row, kMxfp4, 6, 256), "rows by mxfp4");
  Check(!takes(row, kMxfp4, 7, 256), "odd columns");
  Check(!takes(row, kMxfp4, 6, 192), "half a slab");
  Check(!takes(bf16, kMxfp4, 6, 256), "bfloat16");
  Check(!takes(kMxfp4, row, 6, 256), "mxfp4 by rows");
  for (const Spec& other : CodedSpecs()) {
    const bool fp8 = other.format.element == Element::kE4M3 &&
                     other.format.scale_type == ScaleType::kFloat32;
    if (other.format.block_cols == 48) continue;
    Check(takes(other, row, 6, 256) == fp8, "%s by rows", other.name.c_str());
    Check(takes(row, other, 6, 256) == (fp8 || other.name == "mxfp4"), "rows by %s",
          other.name.c_str());
  }
}

template <int kRows>
void CheckSharedMemory() {
  for (const int bytes : {cuda::Fp8Shape<kRows, true>::kSharedBytes,
                          cuda::Fp8Shape<kRows, false>::kSharedBytes}) {
    Check(bytes <= 227 * 1024, "%d rows want %d bytes of shared memory", kRows, bytes);
  }
}

void TestAll() {
  const ScopedFlushToZero flush;
  CheckSharedMemory<16>();
  CheckSharedMemory<128>();
  TestTables();
  TestPasses();
  TestTakes();
  TestNaN();
  TestExtremes();
  TestRowsAlone();
  TestCutSums();
  TestParts();
  TestProducts();
}

}  // namespace
}  // namespace jaxfp4

int main() {
  jaxfp4::TestAll();
  return jaxfp4::Finish("cuda_fp8_test");
}
