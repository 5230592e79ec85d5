#include "cc/ffi/thread_pool.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace jaxfp4 {
namespace {

using Clock = std::chrono::steady_clock;

// Waking a thread takes some 20 microseconds, after which helpers have fallen asleep as well and must
// be woken for the next operation. So the caller stays awake for the last chunks; not for long, for a
// helper may have lost its processor.
constexpr std::chrono::microseconds kAwake{100};

void Pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("isb");  // `yield` does nothing on most of these CPUs
#endif
}

// Shared by the caller and its helpers. A helper may start after everything is done, when `context`
// is gone: it then finds no chunk left and touches nothing else.
struct Job {
  int64_t chunks;
  void (*chunk)(const void*, int64_t);
  const void* context;
  std::atomic<int64_t> next{0};
  std::atomic<int64_t> done{0};
  std::mutex mutex;
  std::condition_variable finished;

  void Work() {
    int64_t completed = 0;
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < chunks; ++completed) {
      chunk(context, i);
    }
    if (completed == 0) return;
    if (done.fetch_add(completed, std::memory_order_acq_rel) + completed == chunks) {
      const std::lock_guard<std::mutex> lock(mutex);
      finished.notify_all();
    }
  }

  bool Finished() const { return done.load(std::memory_order_acquire) == chunks; }

  // Only chunks that some thread has already begun are waited for, so this cannot deadlock even if
  // no helper ever runs.
  void Wait() {
    for (const auto end = Clock::now() + kAwake; !Finished() && Clock::now() < end;) Pause();
    std::unique_lock<std::mutex> lock(mutex);
    finished.wait(lock, [this] { return Finished(); });
  }
};

}  // namespace

void ThreadPool::RunChunks(int64_t chunks, Chunk chunk, const void* context) {
  auto job = std::make_shared<Job>();
  job->chunks = chunks;
  job->chunk = chunk;
  job->context = context;
  const int64_t helpers = (threads_ < chunks ? threads_ : chunks) - 1;
  for (int64_t i = 0; i < helpers; ++i) {
    pool_.Schedule([job] { job->Work(); });
  }
  job->Work();
  job->Wait();
}

}  // namespace jaxfp4
