// ragged_dot with few rows in a group.
#include "cc/cuda/dot_gemv.h"
#include "cc/cuda/dot_groups.h"

namespace jaxfp4::cuda {
namespace {

template <int kRows, bool kFp4>
__global__ void __launch_bounds__(kGemvThreads, GemvBlocks(kRows, kFp4))
    RaggedGemvKernel(const RaggedArgs args) {
  __shared__ Entry rows;
  uint32_t col;
  if (EnterGroup<kRows, kGemvCols>(args, &rows, &col)) {
    MultiplyFew<kRows, kFp4>(args.dot, rows, col);
  }
}

template <int kRows>
Status LaunchRaggedGemv(const RaggedDotProblem& p, RaggedArgs* a, Stream stream) {
  int64_t blocks;
  if (const Status status = SetRaggedTiles(p, kRows, kGemvCols, a, &blocks)) return status;
  const Geometry g = {static_cast<unsigned>(blocks), 1, 1, kGemvThreads, 0};
  const bool fp4 = p.dot.rhs.format.element == Element::kE2M1 && p.dot.depth % (2 * kUnit) == 0;
  return fp4 ? Launch(RaggedGemvKernel<kRows, true>, g, stream, *a)
             : Launch(RaggedGemvKernel<kRows, false>, g, stream, *a);
}

}  // namespace

// Tiles of as few rows as most groups have leave registers for more blocks; what larger groups read
// again is in the cache.
Status RunRaggedGemv(const RaggedDotProblem& p, RaggedArgs* a, Stream stream) {
  if (p.dot.rows <= p.groups) return LaunchRaggedGemv<2>(p, a, stream);
  if (p.dot.rows <= 2 * p.groups) return LaunchRaggedGemv<4>(p, a, stream);
  return LaunchRaggedGemv<8>(p, a, stream);
}

}  // namespace jaxfp4::cuda
