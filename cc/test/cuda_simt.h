// Runs CUDA kernels on the host, for tests: includes of .cu files after this header compile as C++,
// and Launch runs every thread of a block as a fiber that yields at barriers and warp operations. A
// block in which no thread can go on is reported as a deadlock. Threads take their turns in
// ascending or descending order, so that a missing barrier shows as a difference from the expected
// results.
//
// Matrix instructions follow the fragment layouts of the PTX ISA, sections "Matrix Fragments for
// mma.m16n8k16 with floating point type" and "ldmatrix".
#pragma once

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "cc/codec/half.h"
#include "cc/cuda/kernels.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static

struct uint2 {
  uint32_t x, y;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct Dim3 {
  unsigned x, y, z;
};
inline Dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace simt {

constexpr unsigned kWarp = 32;
constexpr size_t kStackBytes = 256 * 1024;
constexpr size_t kSharedBytes = 228 * 1024;
constexpr unsigned kMostInCluster = 8;

inline int multiprocessors = 2;   // that kernels' launches count on
inline bool descending = false;   // the order in which threads take turns
inline bool record_only = false;  // launches are counted, not run
inline int launches = 0;
inline int device = 0;  // the current one
inline int architecture = 80;
inline unsigned largest_shared = 0;  // bytes of dynamic shared memory asked for

// When no thread can go on: lets hardware that works by itself do some of its work, if any is left.
inline bool (*when_stalled)() = [] { return false; };

[[noreturn]] inline void Fail(const char* why) {
  std::fprintf(stderr, "simt: %s\n", why);
  std::abort();
}

struct Meeting {  // a barrier of the lanes of a mask
  uint32_t mask = 0;
  int arrived = 0;
  int generation = 0;
};

struct Warp {
  std::vector<Meeting> meetings;
  uint32_t words[kWarp][8];
  std::vector<double> numbers;
  Meeting& Of(uint32_t mask) {
    for (Meeting& m : meetings) {
      if (m.mask == mask) return m;
    }
    meetings.push_back({mask, 0, 0});
    return meetings.back();
  }
};

// Work that a thread started and has not waited for, in groups.
class Pending {
 public:
  void Add(std::function<void()> work) { open_.push_back(std::move(work)); }
  void Commit() {
    groups_.push_back(std::move(open_));
    open_.clear();
  }
  void Wait(size_t most) {
    while (groups_.size() > most) {
      const std::vector<std::function<void()>> group = std::move(groups_.front());
      groups_.pop_front();
      for (const auto& work : group) work();
    }
  }
  bool IsEmpty() const { return open_.empty() && groups_.empty(); }

 private:
  std::vector<std::function<void()>> open_;
  std::deque<std::vector<std::function<void()>>> groups_;
};

// Fences that a thread owes before what it does next, as far as they are kept account of.
struct Fences {
  bool proxy = false;    // copies that have arrived, before others hear of it at a barrier
  bool acquire = false;  // a barrier that was waited for, before tensor memory is used
  bool release = false;  // tensor memory that was used, before a barrier
};

// Where a stack goes on.
struct Resumption {
  void* words[5];
};

// Jumps by the compiler rather than by the library: AddressSanitizer takes those for frames that are
// left, and forgets what it knows of the stack, with a system call each time. Jumping is a function of
// its own, of which callers know nothing: neither that it never returns to them, nor what changes.
[[gnu::noipa, gnu::no_sanitize_address]] inline void Jump(Resumption* to) {
  __builtin_longjmp(to->words, 1);
}
[[gnu::noipa, gnu::no_sanitize_address]] inline void Switch(Resumption* from, Resumption* to) {
  if (__builtin_setjmp(from->words) == 0) Jump(to);
}
[[gnu::noipa, gnu::no_sanitize_address]] inline void Start(Resumption* from, ucontext_t* here,
                                                           ucontext_t* there) {
  if (__builtin_setjmp(from->words) == 0) swapcontext(here, there);
}

struct Fiber {
  Pending copies, products;  // of cuda_simt_async.h
  Fences fences;
  ucontext_t context;  // to start with; later turns go by jumps, which need no system call
  Resumption resume;
  bool started = false;
  bool done = false;
};

// Where the threads of a block meet, or those of a cluster.
struct Gathering {
  int arrived = 0, generation = 0;
};

// A block, or a cluster of them, one after the other.
struct Block {
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  ucontext_t start;
  Resumption scheduler;
  unsigned current = 0;
  bool progress = false;
  unsigned first = 0;  // blockIdx.x of the cluster's first
  Gathering blocks[kMostInCluster], cluster;
  std::function<void()> body;
};

inline Block block;
alignas(1024) inline unsigned char shared_of_cluster[kMostInCluster * kSharedBytes];
inline unsigned Rank() { return block.current / blockDim.x; }  // of this block in its cluster
inline unsigned char* SharedOf(unsigned rank) { return shared_of_cluster + rank * kSharedBytes; }
inline unsigned char* Shared() { return SharedOf(Rank()); }

// Stacks for a block's threads, of which nothing is known from earlier blocks.
inline unsigned char* Stacks(size_t threads) {
  static std::unique_ptr<unsigned char[]> stacks;
  static size_t size = 0;
  const size_t bytes = threads * kStackBytes;
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(stacks.get(), size);
#endif
  if (size < bytes) {
    stacks.reset(new unsigned char[bytes]);  // pages that no thread reaches stay untouched
    size = bytes;
  }
  return stacks.get();
}

inline void Yield() {
  Switch(&block.fibers[block.current].resume, &block.scheduler);
}

inline void Trampoline() {
  block.body();
  const Fiber& fiber = block.fibers[block.current];
  if (!fiber.copies.IsEmpty() || !fiber.products.IsEmpty()) {
    Fail("a thread ends without waiting for what it started");
  }
  block.fibers[block.current].done = true;
  block.progress = true;
  Yield();
}

inline void Wait(int* generation) {
  const int mine = *generation;
  while (*generation == mine) Yield();
}

inline Fiber& ThisFiber() { return block.fibers[block.current]; }

// Before and after a barrier.
inline void ReachBarrier() {
  if (ThisFiber().fences.release) Fail("a barrier after tensor memory was used, without a fence");
}
inline void PassBarrier() { ThisFiber().fences.acquire = true; }

inline void SyncBlock() {
  ReachBarrier();
  PassBarrier();
  block.progress = true;
  Gathering& g = block.blocks[Rank()];
  if (++g.arrived == static_cast<int>(blockDim.x)) {
    g.arrived = 0;
    ++g.generation;
    return;
  }
  Wait(&g.generation);
}

inline unsigned Lane() { return block.current % kWarp; }
inline Warp& ThisWarp() { return block.warps[block.current / kWarp]; }

inline void SyncLanes(uint32_t mask) {
  if ((mask >> Lane() & 1) == 0) Fail("a lane is not in its own mask");
  block.progress = true;
  Meeting* m = &ThisWarp().Of(mask);
  const int mine = m->generation;
  if (++m->arrived == __builtin_popcount(mask)) {
    m->arrived = 0;
    ++m->generation;
    return;
  }
  while (ThisWarp().Of(mask).generation == mine) Yield();
}

// Every lane of the mask gives `count` words, and may then read those of all the others until
// `read` returns.
template <class Read>
void Exchange(uint32_t mask, const uint32_t* words, int count, const Read& read) {
  std::memcpy(ThisWarp().words[Lane()], words, static_cast<size_t>(count) * sizeof(uint32_t));
  SyncLanes(mask);
  read(ThisWarp().words);
  SyncLanes(mask);
}

// at(0) to at(count - 1), of which each lane of a warp computes some for all. Theirs until they meet
// again.
template <class At>
const double* Share(uint32_t count, const At& at) {
  std::vector<double>& numbers = ThisWarp().numbers;
  numbers.resize(count);
  for (uint32_t i = Lane(); i < count; i += kWarp) numbers[i] = at(i);
  SyncLanes(~0u);
  return ThisWarp().numbers.data();
}

inline uint32_t Shuffle(uint32_t mask, uint32_t value, unsigned from) {
  if ((mask >> from & 1) == 0) Fail("a shuffle reads a lane outside its mask");
  uint32_t result = 0;
  Exchange(mask, &value, 1, [&](const uint32_t (*words)[8]) { result = words[from][0]; });
  return result;
}

inline void Resume(unsigned thread) {
  Block& b = block;
  if (b.fibers[thread].done) return;
  b.current = thread;
  threadIdx = {thread % blockDim.x, 0, 0};
  blockIdx.x = b.first + thread / blockDim.x;
  Fiber& f = b.fibers[thread];
  if (f.started) return Switch(&b.scheduler, &f.resume);
  f.started = true;
  Start(&b.scheduler, &b.start, &f.context);
}

inline void RunBlock() {
  Block& b = block;
  const auto n = static_cast<unsigned>(b.fibers.size());
  b.warps.assign((n + kWarp - 1) / kWarp, Warp());
  for (Gathering& g : b.blocks) g = {};
  b.cluster = {};
  unsigned char* stacks = Stacks(n);
  for (unsigned i = 0; i < n; ++i) {
    Fiber& f = b.fibers[i];
    f.started = f.done = false;
    f.fences = {};
    getcontext(&f.context);
    f.context.uc_stack.ss_sp = stacks + i * kStackBytes;
    f.context.uc_stack.ss_size = kStackBytes;
    f.context.uc_link = nullptr;
    makecontext(&f.context, Trampoline, 0);
  }
  const auto done = [&] {
    return std::all_of(b.fibers.begin(), b.fibers.end(), [](const Fiber& f) { return f.done; });
  };
  while (!done()) {
    b.progress = false;
    for (unsigned i = 0; i < n; ++i) Resume(descending ? n - 1 - i : i);
    if (!b.progress && !when_stalled()) {
      Fail("deadlock: some threads wait for others that never come");
    }
  }
}

// What a fresh block finds in shared memory: NaN, however it is read.
inline void PoisonShared(unsigned rank, unsigned bytes) {
  std::memset(SharedOf(rank), 0xff, bytes);
}

}  // namespace simt

// ---- the parts of CUDA that the kernels use

inline void __syncthreads() { simt::SyncBlock(); }
inline void __syncwarp() { simt::SyncLanes(~0u); }
inline uint32_t __shfl_xor_sync(uint32_t mask, uint32_t v, int lanes) {
  return simt::Shuffle(mask, v, simt::Lane() ^ static_cast<unsigned>(lanes));
}
inline float __shfl_xor_sync(uint32_t mask, float v, int lanes) {
  using jaxfp4::ScalarLanes;
  return ScalarLanes::Float(__shfl_xor_sync(mask, ScalarLanes::Bits(v), lanes));
}
inline uint32_t __shfl_sync(uint32_t mask, uint32_t v, int from) {
  return simt::Shuffle(mask, v, static_cast<unsigned>(from) % simt::kWarp);
}
inline float __shfl_sync(uint32_t mask, float v, int from) {
  using jaxfp4::ScalarLanes;
  return ScalarLanes::Float(
      simt::Shuffle(mask, ScalarLanes::Bits(v), static_cast<unsigned>(from) % simt::kWarp));
}
inline uint32_t __ballot_sync(uint32_t mask, bool vote) {
  uint32_t votes = 0;
  const uint32_t own = vote;
  simt::Exchange(mask, &own, 1, [&](const uint32_t (*words)[8]) {
    for (unsigned i = 0; i < simt::kWarp; ++i) {
      if (mask >> i & 1) votes |= words[i][0] << i;
    }
  });
  return votes;
}
inline int __ffs(int x) { return __builtin_ffs(x); }
inline uint32_t atomicMax(uint32_t* address, uint32_t v) {
  const uint32_t old = *address;
  *address = std::max(old, v);
  return old;
}
inline uint32_t __byte_perm(uint32_t a, uint32_t b, uint32_t selectors) {
  const uint64_t bytes = uint64_t{b} << 32 | a;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t selector = selectors >> (4 * i) & 15;
    uint32_t byte = static_cast<uint32_t>(bytes >> (8 * (selector & 7))) & 255;
    if (selector & 8) byte = byte & 128 ? 255 : 0;
    result |= byte << (8 * i);
  }
  return result;
}

namespace jaxfp4::cuda {

inline int Device() { return simt::device; }
struct RelaxedCapture {
  ~RelaxedCapture() {}
};
inline int Multiprocessors() { return simt::multiprocessors; }
inline int Architecture() { return simt::architecture; }
inline void* DynamicShared() { return simt::Shared(); }
inline uint32_t Anew(uint32_t x) { return x; }

struct Geometry;
template <class Args>
Status Launch(void (*kernel)(Args), const Geometry& g, Stream stream, const Args& args);

// Two bfloat16 products, rounded once; subnormals are numbers like any other.
inline uint32_t MultiplyPairs(uint32_t a, uint32_t b) {
  uint32_t result = 0;
  for (int half = 0; half < 2; ++half) {
    const auto value = [&](uint32_t pair) {
      const uint32_t bits = pair >> (16 * half) << 16;
      const int exponent = static_cast<int>(bits >> 23 & 255);
      const double magnitude =
          exponent == 255 ? (bits & kMantissa ? __builtin_nan("") : __builtin_inf())
          : exponent == 0
              ? std::ldexp(static_cast<double>(bits & kMantissa), -149)
              : std::ldexp(static_cast<double>((bits & kMantissa) | 1u << 23), exponent - 150);
      return bits & kSignBit ? -magnitude : magnitude;
    };
    const double product = value(a) * value(b);
    // Products of eight-bit significands are exact in double; round to a multiple of the last
    // place.
    const double m = std::fabs(product);
    const int e = m < std::ldexp(1.0, -126) ? -126 : std::isfinite(m) ? std::ilogb(m) : 127;
    const double steps = std::nearbyint(std::ldexp(m, 7 - e));  // 256 carries into the next binade
    uint32_t bits = 0x7fff;
    if (!std::isnan(product)) {
      const double exponent = steps < 128 ? 0 : e + 126;  // less the leading bit's one
      bits = static_cast<uint32_t>(std::min(exponent * 128 + steps, double{0x7f80}));
      if (std::signbit(product)) bits |= 0x8000;
    }
    result |= bits << (16 * half);
  }
  return result;
}

// d += a b for the 16 x 16 matrix a and the 16 x 8 matrix b, bfloat16, a warp together.
inline void MultiplyAccumulate(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  const uint32_t words[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
  simt::Exchange(~0u, words, 6, [&](const uint32_t (*all)[8]) {
    const auto half = [](uint32_t word, int i) {
      return static_cast<double>(FromBF16<ScalarLanes>(i ? word >> 16 : word & 0xffffu));
    };
    const auto a_at = [&](int row, int col) {  // groupID = row % 8, threadID_in_group = col % 8 / 2
      const int lane = row % 8 * 4 + col % 8 / 2, word = row / 8 + col / 8 * 2;
      return half(all[lane][word], col % 2);
    };
    const auto b_at = [&](int row, int col) {
      const int lane = col * 4 + row % 8 / 2, word = 4 + row / 8;
      return half(all[lane][word], row % 2);
    };
    const int group = static_cast<int>(simt::Lane()) / 4,
              thread = static_cast<int>(simt::Lane()) % 4;
    for (int i = 0; i < 4; ++i) {
      const int row = group + i / 2 * 8, col = thread * 2 + i % 2;
      double sum = static_cast<double>(d[i]);
      for (int k = 0; k < 16; ++k) sum += a_at(row, k) * b_at(k, col);
      d[i] = static_cast<float>(sum);
    }
  });
}

// Four 8 x 8 matrices of 16-bit elements; lane i points at row i % 8 of matrix i / 8, and gets
// elements 2 (i % 4) and 2 (i % 4) + 1 of row i / 4, or of column i / 4.
template <bool kTransposed>
void LoadMatrices(uint32_t (&r)[4], const void* row) {
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0) simt::Fail("ldmatrix from an unaligned row");
  const auto address = reinterpret_cast<uint64_t>(row);
  const uint32_t words[2] = {static_cast<uint32_t>(address), static_cast<uint32_t>(address >> 32)};
  simt::Exchange(~0u, words, 2, [&](const uint32_t (*all)[8]) {
    for (unsigned matrix = 0; matrix < 4; ++matrix) {
      const unsigned line = simt::Lane() / 4;
      r[matrix] = 0;
      for (unsigned i = 0; i < 2; ++i) {
        const unsigned element = simt::Lane() % 4 * 2 + i;
        const uint32_t* w = all[matrix * 8 + (kTransposed ? element : line)];
        const auto* source = reinterpret_cast<const unsigned char*>(uint64_t{w[1]} << 32 | w[0]);
        uint16_t half;
        std::memcpy(&half, source + (kTransposed ? line : element) * 2, 2);
        r[matrix] |= uint32_t{half} << (16 * i);
      }
    }
  });
}
inline void LoadMatrices(uint32_t (&r)[4], const void* row) { LoadMatrices<false>(r, row); }
inline void LoadMatricesTransposed(uint32_t (&r)[4], const void* row) {
  LoadMatrices<true>(r, row);
}

}  // namespace jaxfp4::cuda

#include "cc/cuda/launch.h"

namespace jaxfp4::cuda {

template <class Args>
Status Launch(void (*kernel)(Args), const Geometry& g, Stream, const Args& args) {
  ++simt::launches;
  simt::largest_shared = std::max(simt::largest_shared, g.shared);
  if (simt::record_only) return nullptr;
  gridDim = {g.blocks_x, g.blocks_y, g.blocks_z};
  blockDim = {g.threads, 1, 1};
  simt::block.body = [&] { kernel(args); };
  simt::block.fibers = std::vector<simt::Fiber>(g.threads * g.cluster);
  for (unsigned z = 0; z < g.blocks_z; ++z) {
    for (unsigned y = 0; y < g.blocks_y; ++y) {
      for (unsigned x = 0; x < g.blocks_x; x += g.cluster) {
        blockIdx = {x, y, z};
        simt::block.first = x;
        for (unsigned rank = 0; rank < g.cluster; ++rank) simt::PoisonShared(rank, g.shared);
        simt::RunBlock();
      }
    }
  }
  return nullptr;
}

}  // namespace jaxfp4::cuda
