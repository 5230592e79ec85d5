// scaled_dot for operands that fit no other kernel.
#include "cc/cuda/dot_tile.h"

#include "cc/cuda/dot_routes.h"

namespace jaxfp4::cuda {
namespace {

__global__ void __launch_bounds__(kTileThreads) TileKernel(const DotArgs a) {
  const uint32_t tile = a.tiles_down.Divide(blockIdx.x);
  const uint32_t batch = a.tiles_across.Divide(tile);
  MultiplyAny(a, EntryOf(a, batch), a.tiles_down.Remainder(blockIdx.x, tile) * kTile,
              a.tiles_across.Remainder(tile, batch) * kTile);
}

}  // namespace

bool TileTakes(const ScaledDotProblem&) { return true; }

Status RunTile(const ScaledDotProblem&, DotArgs* a, Stream stream) {
  int64_t blocks;
  if (const Status status = SetTiles(kTile, kTile, a, &blocks)) return status;
  return Launch(TileKernel, {static_cast<unsigned>(blocks), 1, 1, kTileThreads, 0}, stream, *a);
}

}  // namespace jaxfp4::cuda
