// scaled_dot: weight bandwidth of few rows, GFLOP/s of many.
//   scaled_dot_bench [M N K] [threads] [target] [first case] [cases]
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <iterator>
#include <thread>
#include <vector>

#include "cc/cpu/scaled_dot.h"
#include "cc/cpu/targets.h"

namespace jaxfp4 {
namespace {

double WallTime() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}
double ThreadTime() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

// Of one thread, processor time is what a busy machine disturbs least.
bool one_thread = false;
double Now() { return one_thread ? ThreadTime() : WallTime(); }

// Threads that spin between calls, as a busy pool's do.
class Pool final : public Parallel {
 public:
  explicit Pool(int64_t threads) : threads_(threads) {
    for (int64_t t = 1; t < threads; ++t) workers_.emplace_back([this] { Serve(); });
  }
  ~Pool() override {
    stop_ = true;
    for (std::thread& worker : workers_) worker.join();
  }
  int64_t threads() const override { return threads_; }

 protected:
  void RunChunks(int64_t chunks, Chunk chunk, const void* context) override {
    chunk_ = chunk;
    context_ = context;
    chunks_ = chunks;
    next_ = 0;
    idle_ = 0;
    ++call_;
    Work();
    while (idle_.load() != threads_ - 1) {
    }
  }

 private:
  void Work() {
    for (int64_t i; (i = next_.fetch_add(1)) < chunks_;) chunk_(context_, i);
  }
  void Serve() {
    for (int64_t seen = 0;;) {
      while (call_.load() == seen) {
        if (stop_) return;
      }
      ++seen;
      Work();
      idle_.fetch_add(1);
    }
  }

  int64_t threads_;
  std::vector<std::thread> workers_;
  std::atomic<bool> stop_{false};
  std::atomic<int64_t> call_{0}, next_{0}, idle_{0};
  int64_t chunks_ = 0;
  Chunk chunk_ = nullptr;
  const void* context_ = nullptr;
};

struct Case {
  const char* name;
  int lhs;  // -1 float32, -2 bfloat16, or an element
  ScaleType lhs_scale;
  int64_t lhs_block;
  Element rhs;
  ScaleType rhs_scale;
  int64_t rhs_block;
  Layout layout;
  bool rhs_transposed = false, lhs_transposed = false;
};

// Bytes that start where XLA's buffers do, at a multiple of 64: a load across two lines is two.
class Bytes {
 public:
  explicit Bytes(int64_t size, uint8_t value = 0)
      : memory_(static_cast<size_t>(size) + 64, value), size_(static_cast<size_t>(size)) {}
  uint8_t* data() {
    uint8_t* memory = memory_.data();
    return memory + (64 - reinterpret_cast<uintptr_t>(memory) % 64);
  }
  uint8_t* begin() { return data(); }
  uint8_t* end() { return data() + size_; }

 private:
  std::vector<uint8_t> memory_;
  size_t size_;
};

int64_t Bits(int element) {
  return element == 0 ? 4 : element == 1 || element == 2 ? 6 : 8;
}

void Measure(const Case& c, int64_t m, int64_t n, int64_t k, const Kernels& kernels,
             Parallel& parallel) {
  const int64_t scale_size = c.rhs_scale == ScaleType::kFloat32 ? 4 : 1;
  const int64_t data_bytes = n * k * Bits(static_cast<int>(c.rhs)) / 8;
  const int64_t scale_bytes = n * (c.rhs_block ? k / c.rhs_block : 1) * scale_size;
  // Few rows stream weights: take turns among enough copies to miss the caches (small ones stay).
  const bool streams = m <= 16 && n * k >= 4000000;
  const int64_t copies = streams ? 256000000 / (data_bytes + scale_bytes) + 1 : 1;
  Bytes weights(data_bytes * copies), scales(scale_bytes * copies);
  uint32_t state = 1;
  for (uint8_t& w : weights) w = static_cast<uint8_t>((state = state * 1664525 + 1013904223) >> 24);
  Bytes lhs(m * k * 4, 0x3c), lhs_scales(m * k), out(m * n * 4);
  // Scales of two binades, or floats of 0x38 and 0x39.
  const auto fill = [&](Bytes& bytes, ScaleType type) {
    const uint32_t first = type == ScaleType::kE8M0 ? 120 : 0x38;
    const uint32_t count = type == ScaleType::kE8M0 ? 3 : type == ScaleType::kE4M3 ? 16 : 2;
    for (uint8_t& s : bytes) {
      s = static_cast<uint8_t>(first + ((state = state * 1664525 + 1013904223) >> 16) % count);
    }
  };
  fill(scales, c.rhs_scale);
  fill(lhs_scales, c.lhs_scale);
  const float one = 1;
  const int64_t zero = 0;
  bool out_of_memory = false;

  ScaledDotProblem p{};
  p.batch = 1;
  p.rows = m;
  p.cols = p.out_stride = n;
  p.depth = k;
  const auto operand = [&](int64_t block, ScaleType type, int64_t rows) {
    DotOperand x{};
    x.format = {Element::kE2M1, type, 1, block};
    x.scale_offset = &zero;
    x.rows_per_offset = rows;
    x.scale_cols = x.scale_row_stride = block ? k / block : 1;
    x.global_scale = &one;
    x.global_count = 1;
    return x;
  };
  p.lhs = operand(c.lhs_block, c.lhs_scale, m);
  p.lhs.coded = c.lhs >= 0;
  p.lhs.dtype = c.lhs == -2 ? Dtype::kBF16 : Dtype::kF32;
  if (c.lhs >= 0) p.lhs.format.element = static_cast<Element>(c.lhs);
  p.lhs.data = lhs.data();
  p.lhs.scale = lhs_scales.data();
  p.rhs = operand(c.rhs_block, c.rhs_scale, n);
  p.rhs.coded = true;
  p.rhs.format.element = c.rhs;
  p.rhs_layout = c.layout;
  p.lhs.transposed = c.lhs_transposed;
  p.rhs.transposed = c.rhs_transposed;
  if (c.rhs_transposed) {
    p.rhs.rows_per_offset = k;
    p.rhs.scale_cols = p.rhs.scale_row_stride = c.rhs_block ? n / c.rhs_block : 1;
  }
  p.out = out.data();
  p.out_of_memory = &out_of_memory;

  std::vector<double> times;
  const double begin = Now();
  while (times.size() < 3 || (Now() - begin < 1.0 && times.size() < 200)) {
    const double start = Now();
    for (int64_t i = 0; i < copies; ++i) {
      p.rhs.data = weights.data() + i * data_bytes;
      p.rhs.scale = scales.data() + i * scale_bytes;
      kernels.scaled_dot(p, parallel);
    }
    times.push_back((Now() - start) / static_cast<double>(copies));
  }
  std::sort(times.begin(), times.end());
  const double best = times[0], flops = 2.0 * static_cast<double>(m * n) * static_cast<double>(k);
  std::printf("%-30s M=%-4lld %8.3f ms  %6.1f GB/s of weights  %7.1f GFLOP/s (median %7.1f)\n",
              c.name, static_cast<long long>(m), best * 1e3,
              static_cast<double>(data_bytes + scale_bytes) / best / 1e9, flops / best / 1e9,
              flops / times[times.size() / 2] / 1e9);
}

void ReadOnly(Parallel& parallel) {
  std::vector<uint64_t> data(64 << 20 >> 0, 1);
  const int64_t n = static_cast<int64_t>(data.size());
  double best = 1e9;
  std::atomic<uint64_t> sink{0};
  for (int i = 0; i < 7; ++i) {
    const double start = Now();
    parallel.For(n / 4096, 64, [&](int64_t b, int64_t e) {
      uint64_t s[16] = {};
      for (int64_t j = b * 4096; j < e * 4096; j += 16) {
        __builtin_prefetch(&data[static_cast<size_t>(j)] + 512);
        __builtin_prefetch(&data[static_cast<size_t>(j)] + 520);
        for (int l = 0; l < 16; ++l) s[l] += data[static_cast<size_t>(j + l)];
      }
      for (const uint64_t x : s) sink += x;
    });
    best = std::min(best, Now() - start);
  }
  std::printf("read only: %.1f GB/s\n", static_cast<double>(n) * 8 / best / 1e9);
}

}  // namespace
}  // namespace jaxfp4

int main(int argc, char** argv) {
  using namespace jaxfp4;
  const int64_t m = argc > 1 ? std::atoll(argv[1]) : 1;
  const int64_t n = argc > 2 ? std::atoll(argv[2]) : 14336;
  const int64_t k = argc > 3 ? std::atoll(argv[3]) : 4096;
  const int64_t threads = argc > 4 ? std::atoll(argv[4]) : 2;
  if (argc > 5 && !ForceTarget(argv[5][0] == '-' ? "" : argv[5])) return 1;
  one_thread = threads == 1;
  Pool pool(threads);
  Serial serial;
  Parallel& parallel = threads > 1 ? static_cast<Parallel&>(pool) : serial;
  constexpr ScaleType f32 = ScaleType::kFloat32, e4m3 = ScaleType::kE4M3, e8m0 = ScaleType::kE8M0;
  constexpr Layout logical = Layout::kLogical, packed = Layout::kInterleaved16;
  const Case cases[] = {
      {"float32 x nvfp4", -1, f32, 0, Element::kE2M1, e4m3, 16, logical},
      {"float32 x nvfp4 prepacked", -1, f32, 0, Element::kE2M1, e4m3, 16, packed},
      {"bfloat16 x nvfp4", -2, f32, 0, Element::kE2M1, e4m3, 16, logical},
      {"bfloat16 x nvfp4 prepacked", -2, f32, 0, Element::kE2M1, e4m3, 16, packed},
      {"nvfp4 x nvfp4", 0, e4m3, 16, Element::kE2M1, e4m3, 16, logical},
      {"nvfp4 x nvfp4 prepacked", 0, e4m3, 16, Element::kE2M1, e4m3, 16, packed},
      {"bfloat16 x mxfp4", -2, f32, 0, Element::kE2M1, e8m0, 32, logical},
      {"bfloat16 x mxfp4 prepacked", -2, f32, 0, Element::kE2M1, e8m0, 32, packed},
      {"mxfp4 x mxfp4", 0, e8m0, 32, Element::kE2M1, e8m0, 32, logical},
      {"mxfp4 x mxfp4 prepacked", 0, e8m0, 32, Element::kE2M1, e8m0, 32, packed},
      {"float32 x mxfp8", -1, f32, 0, Element::kE4M3, e8m0, 32, logical},
      {"bfloat16 x mxfp8", -2, f32, 0, Element::kE4M3, e8m0, 32, logical},
      {"mxfp8 x mxfp8", 3, e8m0, 32, Element::kE4M3, e8m0, 32, logical},
      {"fp8 x fp8 (channel)", 3, f32, 0, Element::kE4M3, f32, 0, logical},
      {"bfloat16 x fp8 (128)", -2, f32, 0, Element::kE4M3, f32, 128, logical},
      {"fp8 (128) x fp8 (128)", 3, f32, 128, Element::kE4M3, f32, 128, logical},
      {"bfloat16 x mxfp6", -2, f32, 0, Element::kE2M3, e8m0, 32, logical},
      {"float32 x rows of nvfp4", -1, f32, 0, Element::kE2M1, e4m3, 16, logical, true},
      {"columns x rows of nvfp4", -1, f32, 0, Element::kE2M1, e4m3, 16, logical, true, true},
      {"bfloat16 x rows of nvfp4", -2, f32, 0, Element::kE2M1, e4m3, 16, logical, true},
      {"bf16 columns x rows of nvfp4", -2, f32, 0, Element::kE2M1, e4m3, 16, logical, true, true},
      {"float32 x rows of mxfp8", -1, f32, 0, Element::kE4M3, e8m0, 32, logical, true},
      {"float32 x rows of fp8 (128)", -1, f32, 0, Element::kE4M3, f32, 128, logical, true},
  };
  std::printf("target %s, %lld threads, N=%lld K=%lld\n", ActiveKernels().name,
              static_cast<long long>(threads), static_cast<long long>(n),
              static_cast<long long>(k));
  if (m <= 16 && n * k >= 4000000) ReadOnly(parallel);
  const int64_t first = argc > 6 ? std::atoll(argv[6]) : 0;
  const int64_t count = argc > 7 ? std::atoll(argv[7]) : 99;
  for (int64_t i = first; i < std::min<int64_t>(first + count, std::size(cases)); ++i) {
    Measure(cases[i], m, n, k, ActiveKernels(), parallel);
  }
  return 0;
}
