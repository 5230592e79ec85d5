// cc/cpu's Parallel on XLA's intra-op thread pool.
#pragma once

#include "cc/cpu/parallel.h"
#include "xla/ffi/api/ffi.h"

namespace jaxfp4 {

class ThreadPool final : public Parallel {
 public:
  explicit ThreadPool(xla::ffi::ThreadPool pool) : pool_(pool), threads_(pool.num_threads()) {}
  int64_t threads() const override { return threads_ > 0 ? threads_ : 1; }

 protected:
  void RunChunks(int64_t chunks, Chunk chunk, const void* context) override;

 private:
  xla::ffi::ThreadPool pool_;
  int64_t threads_;
};

}  // namespace jaxfp4
