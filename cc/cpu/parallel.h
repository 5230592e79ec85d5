// Work sharing, as an interface: kernels and drivers know nothing of XLA's thread pool.
#pragma once

#include <cstdint>

namespace jaxfp4 {

// Sets round-to-nearest, flush-to-zero and denormals-are-zero, as XLA:CPU computes, and restores
// the caller's mode. Keep kernels behind a call: the compiler may move arithmetic across this
// object.
class ScopedFlushToZero {
 public:
  ScopedFlushToZero();
  ~ScopedFlushToZero();
  ScopedFlushToZero(const ScopedFlushToZero&) = delete;
  ScopedFlushToZero& operator=(const ScopedFlushToZero&) = delete;

 private:
  uint64_t saved_;
};

class Parallel {
 public:
  using Task = void (*)(const void* context, int64_t begin, int64_t end);

  virtual ~Parallel();
  virtual int64_t threads() const = 0;

  // Calls task on disjoint ranges that cover [0, n), in any order and from any thread, and returns
  // when all are done. A range has at least `grain` items (the last may have fewer); when there are
  // not two grains of work the caller does it all. Every task runs under ScopedFlushToZero.
  void Run(int64_t n, int64_t grain, Task task, const void* context);

  // The same for a callable body(begin, end).
  template <class Body>
  void For(int64_t n, int64_t grain, const Body& body) {
    Run(n, grain,
        [](const void* context, int64_t begin, int64_t end) {
          (*static_cast<const Body*>(context))(begin, end);
        },
        &body);
  }

 protected:
  // Runs chunk(context, i) for i in [0, chunks); the caller takes part.
  using Chunk = void (*)(const void* context, int64_t i);
  virtual void RunChunks(int64_t chunks, Chunk chunk, const void* context) = 0;
};

class Serial final : public Parallel {
 public:
  int64_t threads() const override;

 protected:
  void RunChunks(int64_t chunks, Chunk chunk, const void* context) override;
};

}  // namespace jaxfp4
