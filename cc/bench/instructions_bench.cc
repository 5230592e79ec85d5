// Each operation on small operands, for instructions to be counted (benchmarks/instructions.py).
//   instructions_bench                        lists targets and operations, one a line
//   instructions_bench TARGET OPERATION N     runs it N times, on one thread
// The first target, one_lane, is none of the library's: it is plain code without vectors. Listing
// compares its results with the library's.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "cc/bench/one_lane.h"
#include "cc/cpu/run.h"
#include "cc/cpu/scaled_dot.h"
#include "cc/cpu/targets.h"

namespace jaxfp4 {
namespace {

constexpr int64_t kRows = 16, kCols = 4096;          // of elementwise operations
constexpr int64_t kOutputs = 128, kDepth = 1024;     // N and K of products
constexpr float kOne = 1.0f;                         // the global scale of floats
constexpr BlockFormat kNvfp4 = {Element::kE2M1, ScaleType::kE4M3, 1, 16};
constexpr BlockFormat kMxfp4 = {Element::kE2M1, ScaleType::kE8M0, 1, 32};
constexpr BlockFormat kMxfp8 = {Element::kE4M3, ScaleType::kE8M0, 1, 32};
constexpr BlockFormat kFp8 = {Element::kE4M3, ScaleType::kFloat32, 1, 0};

struct Operation {
  const char* name;
  void (*run)(const Operation&);
  BlockFormat format;
  int64_t m;            // rows of lhs
  int lhs;              // of lhs: 1 as rhs, 0 float32, -1 bfloat16
  ScaleRule rule;
  Rounding rounding;
};

bool by_one_lane = false;

// Runs plain(problem) or kernel(problem, one thread).
template <class Problem, class Plain, class Kernel>
void Call(const Problem& problem, Plain plain, Kernel kernel) {
  Serial serial;
  if (by_one_lane) {
    const ScopedFlushToZero flush;
    plain(problem);
  } else {
    kernel(problem, serial);
  }
}

// Operands of everything: normal floats, random codes, and scales of 2^7 or 2^-15.
struct Memory {
  std::vector<float> x, out, global = {500.0f, 1.0f / 500.0f};
  std::vector<uint16_t> half;
  std::vector<uint8_t> codes, scales, floats;
  std::vector<uint32_t> seeds, columns = {0};
  std::vector<int64_t> offsets = {0};

  Memory() : x(kRows * kCols), out(x.size()), codes(x.size() * 2), scales(x.size(), 0x70),
             seeds(2 * kRows, 17) {
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    for (float& v : x) v = normal(random);
    for (const float v : x) {
      uint32_t bits;
      __builtin_memcpy(&bits, &v, 4);
      half.push_back(static_cast<uint16_t>(bits >> 16));
    }
    for (uint8_t& code : codes) code = static_cast<uint8_t>(random() % 0x78);
    for (int64_t i = 0; i < kOutputs; ++i) {
      const auto* bytes = reinterpret_cast<const uint8_t*>(&kOne);
      floats.insert(floats.end(), bytes, bytes + 4);
    }
  }
};
Memory& memory() {
  static Memory m;
  return m;
}

QuantizeProblem Quantization(const Operation& op) {
  Memory& m = memory();
  QuantizeProblem p = {};
  p.format = op.format;
  p.rule = op.rule;
  p.rounding = op.rounding;
  p.batch = 1;
  p.rows = kRows;
  p.cols = kCols;
  p.outer_count = 1;
  p.x = m.x.data();
  p.outer = m.global.data();
  p.row_seed = m.seeds.data();
  p.col_index = m.columns.data();
  p.col_index_count = 1;
  p.data = m.codes.data();
  p.scale = m.scales.data();
  p.out = m.out.data();
  return p;
}

void Quantize(const Operation& op) {
  Call(Quantization(op), one_lane::QuantizeBlocks, RunQuantizeBlocks);
}

void Fake(const Operation& op) {
  Call(Quantization(op), one_lane::FakeQuantize, RunFakeQuantize);
}

void Dequantize(const Operation& op) {
  Memory& m = memory();
  DequantizeProblem p = {};
  p.format = op.format;
  p.batch = 1;
  p.rows = kRows;
  p.cols = kCols;
  p.data = m.codes.data();
  p.scale = m.scales.data();
  p.scale_batch_offset = m.offsets.data();
  p.scale_cols = p.scale_row_stride = kCols / op.format.block_cols;
  p.global_count = 1;
  p.global_scale = op.format.scale_type == ScaleType::kE8M0 ? &kOne : m.global.data();
  p.out = m.out.data();
  Call(p, one_lane::DequantizeBlocks, RunDequantizeBlocks);
}

void Amax(const Operation&) {
  const AmaxProblem p = {Dtype::kF32, 1, kRows * kCols, memory().x.data(), memory().out.data()};
  Call(p, one_lane::Amax, RunAmax);
}

void Hadamard(const Operation& op) {
  static const std::vector<float> signs(1024, -1.0f);
  const HadamardProblem p = {Dtype::kF32,         kRows * kCols, op.m, false,
                             memory().x.data(), signs.data(),  memory().out.data()};
  Call(p, one_lane::Hadamard, RunHadamard);
}

DotOperand Codes(const BlockFormat& format, int64_t rows) {
  Memory& m = memory();
  DotOperand x = {};
  x.coded = true;
  x.format = format;
  x.data = m.codes.data();
  x.scale = format.scale_type == ScaleType::kFloat32 ? m.floats.data() : m.scales.data();
  x.scale_offset = m.offsets.data();
  x.rows_per_offset = rows;
  x.scale_cols = x.scale_row_stride = format.block_cols ? kDepth / format.block_cols : 1;
  x.global_scale = m.global.data();
  x.global_count = 1;
  return x;
}

void Dot(const Operation& op) {
  Memory& m = memory();
  bool out_of_memory = false;
  ScaledDotProblem p = {};
  p.batch = 1;
  p.rows = op.m;
  p.cols = p.out_stride = kOutputs;
  p.depth = kDepth;
  p.lhs = p.rhs = Codes(op.format, kOutputs);
  if (op.lhs <= 0) {
    p.lhs.coded = false;
    p.lhs.dtype = op.lhs == 0 ? Dtype::kF32 : Dtype::kBF16;
    p.lhs.data = op.lhs == 0 ? static_cast<const void*>(m.x.data()) : m.half.data();
    p.lhs.global_scale = &kOne;
  }
  p.out = m.out.data();
  p.out_of_memory = &out_of_memory;
  Call(p, one_lane::ScaledDot, ActiveKernels().scaled_dot);
}

constexpr auto kNearest = ScaleRule::kNearest, kUp = ScaleRule::kUp, kFloor = ScaleRule::kFloor;
constexpr auto kToNearest = Rounding::kNearest, kStochastic = Rounding::kStochastic8;

const Operation kOperations[] = {
    {"nvfp4 x nvfp4, M=1", Dot, kNvfp4, 1, 1, kNearest, kToNearest},
    {"nvfp4 x nvfp4, M=64", Dot, kNvfp4, 64, 1, kNearest, kToNearest},
    {"mxfp4 x mxfp4, M=1", Dot, kMxfp4, 1, 1, kNearest, kToNearest},
    {"mxfp4 x mxfp4, M=64", Dot, kMxfp4, 64, 1, kNearest, kToNearest},
    {"float32 x nvfp4, M=1", Dot, kNvfp4, 1, 0, kNearest, kToNearest},
    {"float32 x nvfp4, M=64", Dot, kNvfp4, 64, 0, kNearest, kToNearest},
    {"bfloat16 x nvfp4, M=1", Dot, kNvfp4, 1, -1, kNearest, kToNearest},
    {"bfloat16 x nvfp4, M=64", Dot, kNvfp4, 64, -1, kNearest, kToNearest},
    {"bfloat16 x mxfp8, M=1", Dot, kMxfp8, 1, -1, kNearest, kToNearest},
    {"bfloat16 x mxfp8, M=64", Dot, kMxfp8, 64, -1, kNearest, kToNearest},
    {"fp8 x fp8, M=1", Dot, kFp8, 1, 1, kNearest, kToNearest},
    {"fp8 x fp8, M=64", Dot, kFp8, 64, 1, kNearest, kToNearest},
    {"quantize nvfp4", Quantize, kNvfp4, 0, 0, kNearest, kToNearest},
    {"quantize nvfp4, stochastic", Quantize, kNvfp4, 0, 0, kUp, kStochastic},
    {"quantize mxfp4", Quantize, kMxfp4, 0, 0, kFloor, kToNearest},
    {"quantize mxfp8", Quantize, kMxfp8, 0, 0, kFloor, kToNearest},
    {"fake_quantize nvfp4", Fake, kNvfp4, 0, 0, kNearest, kToNearest},
    {"fake_quantize mxfp4", Fake, kMxfp4, 0, 0, kFloor, kToNearest},
    {"dequantize nvfp4", Dequantize, kNvfp4, 0, 0, kNearest, kToNearest},
    {"dequantize mxfp8", Dequantize, kMxfp8, 0, 0, kNearest, kToNearest},
    {"hadamard of 16", Hadamard, {}, 16, 0, kNearest, kToNearest},
    {"hadamard of 128", Hadamard, {}, 128, 0, kNearest, kToNearest},
    {"amax", Amax, {}, 0, 0, kNearest, kToNearest},
};

void List() {
  std::printf("targets\none_lane\n");
  for (const Kernels* kernels : SupportedTargets()) std::printf("%s\n", kernels->name);
  std::printf("operations\n");
  for (const Operation& op : kOperations) std::printf("%s\n", op.name);
}

// What an operation leaves behind, by plain code or by the kernels in use.
Memory ResultsOf(const Operation& op, bool plain) {
  by_one_lane = plain;
  op.run(op);
  return memory();
}

// The same bytes, and floats but for the order of a product's sums.
bool Agrees(const Operation& op) {
  const Memory a = ResultsOf(op, true), b = ResultsOf(op, false);
  float largest = 0.0f, difference = 0.0f;
  for (size_t i = 0; i < a.out.size(); ++i) {
    largest = std::fmax(largest, std::fabs(a.out[i]));
    difference = std::fmax(difference, std::fabs(a.out[i] - b.out[i]));
  }
  return a.codes == b.codes && a.scales == b.scales && difference <= 1e-5f * largest;
}

int Check() {
  for (const Operation& op : kOperations) {
    if (Agrees(op)) continue;
    std::fprintf(stderr, "%s: one_lane and the library disagree\n", op.name);
    return 1;
  }
  return 0;
}

int Run(const std::string& name, int64_t times) {
  for (const Operation& op : kOperations) {
    if (name != op.name) continue;
    for (int64_t i = 0; i < times; ++i) op.run(op);
    return 0;
  }
  return 1;
}

}  // namespace
}  // namespace jaxfp4

int main(int argc, char** argv) {
  if (argc < 4) {
    jaxfp4::List();
    return jaxfp4::Check();
  }
  jaxfp4::by_one_lane = std::string(argv[1]) == "one_lane";
  if (!jaxfp4::by_one_lane && !jaxfp4::ForceTarget(argv[1])) return 1;
  return jaxfp4::Run(argv[2], std::atoll(argv[3]));
}
