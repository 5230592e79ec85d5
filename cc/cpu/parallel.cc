#include "cc/cpu/parallel.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace jaxfp4 {
namespace {

constexpr int64_t kChunksPerThread = 4;  // evens out threads that start late or share a core

// As many chunks as there are grains, up to kChunksPerThread; as many for one thread as for another.
int64_t Chunks(int64_t grains, int64_t threads) {
  const int64_t most = threads * kChunksPerThread;
  if (grains >= most) return most;
  return grains <= threads ? grains : grains - grains % threads;
}

#if defined(__x86_64__)
constexpr unsigned kFlush = 0x9fc0;  // FTZ | DAZ, all exceptions masked, round to nearest
uint64_t GetMode() { return _mm_getcsr(); }
void SetMode(uint64_t mode) { _mm_setcsr(static_cast<unsigned>(mode)); }
#elif defined(__aarch64__)
constexpr uint64_t kFlush = uint64_t{1} << 24;  // FPCR.FZ
uint64_t GetMode() {
  uint64_t mode;
  asm volatile("mrs %0, fpcr" : "=r"(mode));
  return mode;
}
void SetMode(uint64_t mode) { asm volatile("msr fpcr, %0" ::"r"(mode)); }
#else
#error "jaxfp4 needs a way to flush subnormals on this CPU"
#endif

struct Split {
  Parallel::Task task;
  const void* context;
  int64_t n, chunks;

  // The longer chunks come first, so that the last to end is not one of them.
  int64_t Begin(int64_t i) const {
    const int64_t longer = n % chunks;
    return n / chunks * i + (i < longer ? i : longer);
  }
  void Run(int64_t i) const {
    const ScopedFlushToZero flush;
    task(context, Begin(i), Begin(i + 1));
  }
};

}  // namespace

ScopedFlushToZero::ScopedFlushToZero() : saved_(GetMode()) { SetMode(kFlush); }
ScopedFlushToZero::~ScopedFlushToZero() { SetMode(saved_); }

Parallel::~Parallel() = default;

void Parallel::Run(int64_t n, int64_t grain, Task task, const void* context) {
  if (n <= 0) return;
  const int64_t grains = n / (grain > 0 ? grain : 1);
  const Split split{task, context, n, Chunks(grains, threads())};
  if (threads() == 1 || grains < 2) {
    const ScopedFlushToZero flush;
    task(context, 0, n);
    return;
  }
  RunChunks(split.chunks,
            [](const void* s, int64_t i) { static_cast<const Split*>(s)->Run(i); }, &split);
}

int64_t Serial::threads() const { return 1; }

void Serial::RunChunks(int64_t chunks, Chunk chunk, const void* context) {
  for (int64_t i = 0; i < chunks; ++i) chunk(context, i);
}

}  // namespace jaxfp4
