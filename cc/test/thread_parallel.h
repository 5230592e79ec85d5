// Parallel on threads of its own, started for every call: chunks run in no particular order.
#pragma once

#include <atomic>
#include <thread>
#include <vector>

#include "cc/cpu/parallel.h"

namespace jaxfp4 {

class Threads final : public Parallel {
 public:
  explicit Threads(int64_t threads) : threads_(threads) {}
  int64_t threads() const override { return threads_; }

 protected:
  void RunChunks(int64_t chunks, Chunk chunk, const void* context) override {
    std::atomic<int64_t> next{0};
    const auto work = [&] {
      for (int64_t i; (i = next.fetch_add(1)) < chunks;) chunk(context, i);
    };
    std::vector<std::thread> helpers;
    for (int64_t i = 1; i < threads_; ++i) helpers.emplace_back(work);
    work();
    for (std::thread& helper : helpers) helper.join();
  }

 private:
  int64_t threads_;
};

}  // namespace jaxfp4
