// One thread's rate of the elementwise operations, in GB/s of x read (dequantize: written).
//   blocks_bench [target]     e.g. blocks_bench avx2
#include <chrono>
#include <cstdio>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "cc/cpu/run.h"
#include "cc/cpu/targets.h"

namespace jaxfp4 {
namespace {

double Seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// The best of many calls over about 0.1 s.
double BestSeconds(const std::function<void()>& call) {
  call();
  double best = 1e9;
  for (double start = Seconds(); Seconds() - start < 0.1;) {
    const double t = Seconds();
    call();
    const double elapsed = Seconds() - t;
    if (elapsed < best) best = elapsed;
  }
  return best;
}

struct Case {
  const char* name;
  Element element;
  ScaleType scale_type;
  ScaleRule rule;
  Rounding rounding;
  int64_t block_rows, block_cols;
};

constexpr auto kE2M1 = Element::kE2M1, kE4M3 = Element::kE4M3;
constexpr auto kByE4M3 = ScaleType::kE4M3, kByE8M0 = ScaleType::kE8M0, kByF32 = ScaleType::kFloat32;
constexpr auto kRule = ScaleRule::kNearest, kUp = ScaleRule::kUp, kFloor = ScaleRule::kFloor;
constexpr auto kNearest = Rounding::kNearest;

const Case kCases[] = {
    {"nvfp4", kE2M1, kByE4M3, kRule, kNearest, 1, 16},
    {"nvfp4 16x16", kE2M1, kByE4M3, kRule, kNearest, 16, 16},
    {"nvfp4 stochastic8", kE2M1, kByE4M3, kUp, Rounding::kStochastic8, 1, 16},
    {"nvfp4 stochastic24", kE2M1, kByE4M3, kUp, Rounding::kStochastic24, 1, 16},
    {"nvfp4 four over six", kE2M1, kByE4M3, ScaleRule::kFourOverSix, kNearest, 1, 16},
    {"mxfp4", kE2M1, kByE8M0, kFloor, kNearest, 1, 32},
    {"mxfp6 e2m3", Element::kE2M3, kByE8M0, kFloor, kNearest, 1, 32},
    {"mxfp8", kE4M3, kByE8M0, ScaleRule::kRceil, kNearest, 1, 32},
    {"fp8 1x128", kE4M3, kByF32, kRule, kNearest, 1, 128},
    {"fp8 tensor", kE4M3, kByF32, kRule, kNearest, 0, 0},
};

void Run(int64_t rows, int64_t cols) {
  const auto n = static_cast<size_t>(rows * cols);
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> x(n), out(n);
  std::vector<uint16_t> half(n);
  for (size_t i = 0; i < n; ++i) {
    x[i] = normal(random);
    uint32_t bits;
    __builtin_memcpy(&bits, &x[i], 4);
    half[i] = static_cast<uint16_t>(bits >> 16);
  }
  std::vector<uint8_t> data(n), scale(n / 4 + 64);
  std::vector<uint32_t> seeds(static_cast<size_t>(rows) * 2, 17), columns = {0};
  const float outer[2] = {500.0f, 1.0f / 500.0f}, one = 1.0f;
  const int64_t offset = 0;
  Serial serial;
  const double gb = static_cast<double>(n) * 4e-9;
  std::printf("\n[%ld, %ld], %.1f MB as float32, in which all rates count\n",
              static_cast<long>(rows), static_cast<long>(cols), gb * 1e3);
  std::printf("%-22s %10s %10s %10s %10s\n", "", "quantize", "from bf16", "fake", "dequantize");
  for (const Case& c : kCases) {
    QuantizeProblem p = {};
    p.format = {c.element, c.scale_type, c.block_rows, c.block_cols};
    p.rule = c.rule;
    p.rounding = c.rounding;
    p.batch = 1;
    p.rows = rows;
    p.cols = cols;
    p.outer_count = 1;
    p.x = x.data();
    p.outer = outer;
    p.row_seed = seeds.data();
    p.col_index = columns.data();
    p.col_index_count = 1;
    p.data = data.data();
    p.scale = scale.data();
    p.out = out.data();
    DequantizeProblem d = {};
    d.format = p.format;
    d.batch = 1;
    d.rows = rows;
    d.cols = cols;
    d.data = data.data();
    d.scale = scale.data();
    d.scale_batch_offset = &offset;
    d.scale_cols = c.block_cols ? cols / c.block_cols : 1;
    d.scale_row_stride = c.block_cols ? d.scale_cols : 0;
    d.global_count = 1;
    d.global_scale = &one;
    d.out = out.data();
    const double quantize = BestSeconds([&] { RunQuantizeBlocks(p, serial); });
    const double fake = BestSeconds([&] { RunFakeQuantize(p, serial); });
    const double dequantize = BestSeconds([&] { RunDequantizeBlocks(d, serial); });
    p.dtype = Dtype::kBF16;
    p.x = half.data();
    const double from_half = BestSeconds([&] { RunQuantizeBlocks(p, serial); });
    std::printf("%-22s %10.1f %10.1f %10.1f %10.1f\n", c.name, gb / quantize, gb / from_half,
                gb / fake, gb / dequantize);
  }
  AmaxProblem a = {Dtype::kF32, 1, rows * cols, x.data(), out.data()};
  std::printf("%-22s %10.1f\n", "amax", gb / BestSeconds([&] { RunAmax(a, serial); }));
  std::vector<float> signs(1024, 1.0f);
  for (const int64_t group : {16, 128, 1024}) {
    const HadamardProblem h = {Dtype::kF32, rows * cols,  group,     false,
                               x.data(),    signs.data(), out.data()};
    std::printf("hadamard %-13ld %10.1f\n", static_cast<long>(group),
                gb / BestSeconds([&] { RunHadamard(h, serial); }));
  }
}

}  // namespace
}  // namespace jaxfp4

int main(int argc, char** argv) {
  if (argc > 1 && !jaxfp4::ForceTarget(argv[1])) {
    std::fprintf(stderr, "no such target here: %s\n", argv[1]);
    return 1;
  }
  std::printf("target %s\n", jaxfp4::ActiveKernels().name);
  jaxfp4::Run(16, 4096);
  jaxfp4::Run(4096, 4096);
  return 0;
}
