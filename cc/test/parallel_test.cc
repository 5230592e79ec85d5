// How work is cut up: each item once, in pieces that are none of them empty, as many for one thread
// as for another, the longer ones first.
#include "cc/cpu/parallel.h"

#include <cstdint>
#include <vector>

#include "cc/test/check.h"

namespace jaxfp4 {
namespace {

// Runs chunks itself, the last one first, and counts them.
class Backwards final : public Parallel {
 public:
  explicit Backwards(int64_t threads) : threads_(threads) {}
  int64_t threads() const override { return threads_; }
  int64_t chunks = 0;

 protected:
  void RunChunks(int64_t n, Chunk chunk, const void* context) override {
    chunks = n;
    for (int64_t i = n; i-- > 0;) chunk(context, i);
  }

 private:
  int64_t threads_;
};

void Test(int64_t n, int64_t grain, int64_t threads) {
  Backwards parallel(threads);
  std::vector<int> times(static_cast<size_t>(n));
  int64_t pieces = 0;
  int64_t longest = 0;
  bool empty = false, sorted = true;
  parallel.For(n, grain, [&](int64_t begin, int64_t end) {
    ++pieces;
    empty |= begin >= end;
    sorted &= pieces == 1 || end - begin == longest || end - begin == longest + 1;
    longest = end - begin > longest ? end - begin : longest;
    for (int64_t i = begin; i < end; ++i) ++times[static_cast<size_t>(i)];
  });
  bool once = true;
  for (const int t : times) once &= t == 1;
  const bool alone = threads == 1 || n < 2 * grain;
  const bool shared = pieces == parallel.chunks && pieces >= 2 && pieces <= 4 * threads &&
                      (pieces <= threads || pieces % threads == 0);
  sorted &= longest <= n / (pieces > 0 ? pieces : 1) + 1;
  Check(once && !empty && sorted && (n == 0 ? pieces == 0 : alone ? pieces == 1 : shared),
        "%ld items in grains of %ld, %ld threads: %ld pieces, each item once: %d, empty ones: %d, "
        "longer ones first: %d",
        static_cast<long>(n), static_cast<long>(grain), static_cast<long>(threads),
        static_cast<long>(pieces), once, empty, sorted);
}

}  // namespace
}  // namespace jaxfp4

int main() {
  for (int64_t n = 0; n < 70; ++n) {
    for (const int64_t grain : {1, 2, 3, 7, 16, 100}) {
      for (const int64_t threads : {1, 2, 3, 8, 64}) jaxfp4::Test(n, grain, threads);
    }
  }
  return jaxfp4::Finish("parallel_test");
}
