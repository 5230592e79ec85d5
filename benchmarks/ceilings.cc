// What this machine can do at most: memory bandwidth, and the rates of the instructions that dot
// products are made of. ceilings.py compiles this file for the machine at hand and calls it in turn
// with the kernels, so that both are measured under the same conditions.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif
#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#endif

namespace {

// ------------------------------------------------------------------ threads

double Seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Keeps a thread on the nth processor of those that the process may use.
void Pin(int nth) {
#if defined(__linux__)
  cpu_set_t allowed, one;
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed) || nth-- > 0) continue;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    pthread_setaffinity_np(pthread_self(), sizeof(one), &one);
    return;
  }
#else
  (void)nth;
#endif
}

// Seconds from when all threads stand ready until the last one has done work(thread). Each has a
// processor to itself: two that share one would wait for each other.
template <typename Work>
double TimeOnThreads(int threads, const Work& work) {
  std::atomic<int> ready{0};
  std::vector<double> begin(static_cast<size_t>(threads)), end(begin);
  std::vector<std::thread> workers;
  for (int t = 0; t < threads; ++t) {
    workers.emplace_back([&, t] {
      Pin(t);
      ++ready;
      while (ready < threads) {
      }
      begin[static_cast<size_t>(t)] = Seconds();
      work(t);
      end[static_cast<size_t>(t)] = Seconds();
    });
  }
  for (std::thread& worker : workers) worker.join();
  return *std::max_element(end.begin(), end.end()) - *std::min_element(begin.begin(), begin.end());
}

// Results go here, so that the compiler cannot leave their computation out.
volatile float float_sink;
volatile uint64_t word_sink;

// ------------------------------------------------------------------ memory

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif
typedef uint64_t Words __attribute__((vector_size(kVectorBytes)));
typedef float Floats __attribute__((vector_size(kVectorBytes)));

constexpr size_t kArena = size_t{512} << 20;  // beyond any last-level cache of a small machine
constexpr size_t kStride = 4096;              // pieces of work are whole pages

// A buffer that was written once, so that it is really there, and is read from front to back, so that
// what was read last is read again as late as possible.
class Arena {
 public:
  explicit Arena(bool large_pages) : p_(static_cast<char*>(std::aligned_alloc(kAlign, kArena))) {
#if defined(MADV_HUGEPAGE)
    if (large_pages) madvise(p_, kArena, MADV_HUGEPAGE);
#endif
    std::memset(p_, 1, kArena);
  }

  char* Next(size_t bytes) {
    if (position_ + bytes > kArena) position_ = 0;
    position_ += bytes;
    return p_ + position_ - bytes;
  }

 private:
  static constexpr size_t kAlign = size_t{2} << 20;
  char* p_;
  size_t position_ = 0;
};

// Memory as malloc, and so XLA, gets it from the system.
Arena& Plain() {
  static Arena arena(false);
  return arena;
}

Arena& LargePages() {
  static Arena arena(true);
  return arena;
}

void Read(const char* p, size_t bytes) {
  constexpr int kWays = 4;
  // Further than the hardware prefetches by itself; a whole page ahead is slower than not at all.
  constexpr size_t kAhead = 1024;
  Words sum[kWays] = {};
  for (size_t i = 0; i < bytes; i += kWays * kVectorBytes) {
    for (size_t line = 0; line < kWays * kVectorBytes; line += 64) {
      __builtin_prefetch(p + i + kAhead + line);
    }
    for (int w = 0; w < kWays; ++w) {
      Words v;
      std::memcpy(&v, p + i + static_cast<size_t>(w) * kVectorBytes, sizeof(v));
      sum[w] += v;
    }
  }
  word_sink = (sum[0] + sum[1] + sum[2] + sum[3])[0];
}

size_t PerThread(int64_t bytes, int threads) {
  return static_cast<size_t>(bytes) / static_cast<size_t>(threads) / kStride * kStride;
}

double TimeRead(Arena& arena, int64_t bytes, int threads) {
  const size_t part = PerThread(bytes, threads);
  const char* const p = arena.Next(part * static_cast<size_t>(threads));
  return TimeOnThreads(threads, [=](int t) { Read(p + part * static_cast<size_t>(t), part); });
}

double TimeCopy(int64_t bytes, int threads) {  // bytes read, and as many written
  const size_t part = PerThread(bytes, threads), all = part * static_cast<size_t>(threads);
  char* const p = Plain().Next(2 * all);
  return TimeOnThreads(threads, [=](int t) {
    const size_t at = part * static_cast<size_t>(t);
    std::memcpy(p + all + at, p + at, part);
  });
}

// ------------------------------------------------------------------ instructions

// Enough independent sums to hide the latency, few enough for the registers.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kSums = 24;
#else
constexpr int kSums = 12;
#endif

// Rounds of kSums instructions: `step` adds to a sum. Returns a sum of sums, of type Sum.
template <typename Sum, typename Step>
inline __attribute__((always_inline)) Sum Rounds(int64_t rounds, const Step& step) {
  Sum sums[kSums];
  // All different: of equal sums the compiler would compute one.
  for (int j = 0; j < kSums; ++j) sums[j] = Sum{} + static_cast<decltype(sums[0][0] + 0)>(j);
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 24
    for (int j = 0; j < kSums; ++j) sums[j] = step(sums[j]);
  }
  for (int j = 1; j < kSums; ++j) sums[0] += sums[j];
  return sums[0];
}

double TimeRounds(int64_t flops, int64_t flops_each, int threads, void (*run)(int64_t rounds)) {
  const int64_t rounds = flops / (flops_each * kSums * threads) + 1;
  return TimeOnThreads(threads, [=](int) { run(rounds); });
}

constexpr int64_t kFmaFlops = 2 * kVectorBytes / 4;
void Fma(int64_t rounds) {
  volatile float factor = 0.999f;  // unknown to the compiler
  const Floats x = Floats{} + factor;
  float_sink = Rounds<Floats>(rounds, [&](Floats sum) { return sum * x + x; })[0];
}

// Products of bytes, summed to 32 bits.
#if defined(__AVX512VNNI__)
constexpr int64_t kDotBytesFlops = 2 * 64;
typedef int32_t Ints __attribute__((vector_size(64)));
void DotBytes(int64_t rounds) {
  const __m512i x = _mm512_set1_epi8(3);
  word_sink = static_cast<uint64_t>(Rounds<Ints>(rounds, [&](Ints sum) {
    return (Ints)_mm512_dpbusd_epi32((__m512i)sum, x, x);
  })[0]);
}
#elif defined(__AVX2__)
constexpr int64_t kDotBytesFlops = 2 * 32;
typedef int32_t Ints __attribute__((vector_size(32)));
void DotBytes(int64_t rounds) {
  volatile char three = 3;  // else the products are computed once
  const __m256i x = _mm256_set1_epi8(three), ones = _mm256_set1_epi16(1);
  word_sink = static_cast<uint64_t>(Rounds<Ints>(rounds, [&](Ints sum) {
#if defined(__AVXVNNI__)
    (void)ones;
    return (Ints)_mm256_dpbusd_avx_epi32((__m256i)sum, x, x);
#else
    __m256i y = x;
    asm volatile("" : "+x"(y));
    return sum + (Ints)_mm256_madd_epi16(_mm256_maddubs_epi16(x, y), ones);
#endif
  })[0]);
}
#elif defined(__ARM_FEATURE_DOTPROD)
constexpr int64_t kDotBytesFlops = 2 * 16;
void DotBytes(int64_t rounds) {
  const int8x16_t x = vdupq_n_s8(3);
  word_sink = static_cast<uint64_t>(
      Rounds<int32x4_t>(rounds, [&](int32x4_t sum) { return vdotq_s32(sum, x, x); })[0]);
}
#else
constexpr int64_t kDotBytesFlops = 0;
void DotBytes(int64_t) {}
#endif

// Products of bfloat16, summed to float32.
#if defined(__AVX512BF16__)
constexpr int64_t kDotBf16Flops = 2 * 32;
void DotBf16(int64_t rounds) {
  const __m512bh x = (__m512bh)_mm512_set1_epi16(0x3c00);
  float_sink = Rounds<Floats>(
      rounds, [&](Floats sum) { return (Floats)_mm512_dpbf16_ps((__m512)sum, x, x); })[0];
}
#elif defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
constexpr int64_t kDotBf16Flops = 2 * 8;
void DotBf16(int64_t rounds) {
  const bfloat16x8_t x = vreinterpretq_bf16_u16(vdupq_n_u16(0x3c00));
  float_sink = Rounds<float32x4_t>(
      rounds, [&](float32x4_t sum) { return vbfdotq_f32(sum, x, x); })[0];
}
#else
constexpr int64_t kDotBf16Flops = 0;
void DotBf16(int64_t) {}
#endif

}  // namespace

// Each takes an amount of work and a number of threads, and returns the seconds that it took: of
// bytes for memory, of operations for instructions. Negative where there is no such instruction.
extern "C" {

double ceiling_read(int64_t bytes, int threads) { return TimeRead(Plain(), bytes, threads); }

double ceiling_read_large_pages(int64_t bytes, int threads) {
  return TimeRead(LargePages(), bytes, threads);
}

double ceiling_copy(int64_t bytes, int threads) { return TimeCopy(bytes, threads); }

double ceiling_fma(int64_t flops, int threads) {
  return TimeRounds(flops, kFmaFlops, threads, Fma);
}

double ceiling_dot_bytes(int64_t flops, int threads) {
  return kDotBytesFlops ? TimeRounds(flops, kDotBytesFlops, threads, DotBytes) : -1;
}

double ceiling_dot_bf16(int64_t flops, int threads) {
  return kDotBf16Flops ? TimeRounds(flops, kDotBf16Flops, threads, DotBf16) : -1;
}

}  // extern "C"
