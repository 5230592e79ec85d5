// ragged_dot for operands that fit no other kernel.
#include "cc/cuda/dot_groups.h"
#include "cc/cuda/dot_tile.h"

namespace jaxfp4::cuda {
namespace {

__global__ void __launch_bounds__(kTileThreads) RaggedTileKernel(const RaggedArgs args) {
  __shared__ Entry rows;
  uint32_t col0;
  if (EnterGroup<kTile, kTile>(args, &rows, &col0)) MultiplyAny(args.dot, rows, 0, col0);
}

}  // namespace

Status RunRaggedTile(const RaggedDotProblem& p, RaggedArgs* a, Stream stream) {
  int64_t blocks;
  if (const Status status = SetRaggedTiles(p, kTile, kTile, a, &blocks)) return status;
  return Launch(RaggedTileKernel, {static_cast<unsigned>(blocks), 1, 1, kTileThreads, 0}, stream,
                *a);
}

}  // namespace jaxfp4::cuda
