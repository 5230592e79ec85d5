// What kernels of scaled_dot share whose blocks stay, and work on tile after tile of the outputs: a
// ring of stages in shared memory, running across the tiles, that some threads fill and others
// empty.
#pragma once

#include "cc/cuda/async_copy.h"
#include "cc/cuda/dot_routes.h"

namespace jaxfp4::cuda {

// Where sixteen-byte piece `piece` of row `row` lies among rows of kRowBytes, so that eight rows'
// lie in different banks: the 64-byte and 128-byte swizzles of the tensor cores.
template <int kRowBytes>
JAXFP4_HD uint32_t SwizzledAt(uint32_t row, uint32_t piece) {
  return row * kRowBytes + (piece ^ (row / (128 / kRowBytes) % (kRowBytes / 16))) * 16;
}

// The stages of a block, used round and round, a barrier for full and one for empty after them.
template <class Shape>
struct Ring {
  unsigned char* stages;
  uint32_t stage = 0, round = 0;

  __device__ Ring() {
    auto* memory = static_cast<unsigned char*>(DynamicShared());
    constexpr uint32_t kAlignment = Shape::kAlignment;
    stages = memory + (kAlignment - SharedAddress(memory) % kAlignment) % kAlignment;
  }
  // By one thread, with the numbers of those that fill a stage and that empty it.
  __device__ void Init(unsigned fillers, unsigned emptiers) const {
    for (uint32_t i = 0; i < Shape::kStages; ++i) {
      InitBarrier(Full(i), fillers);
      InitBarrier(Empty(i), emptiers);
    }
  }
  __device__ unsigned char* At() const { return At(stage); }
  __device__ unsigned char* At(uint32_t i) const { return stages + i * Shape::kStageBytes; }
  __device__ uint64_t* Full(uint32_t i) const {
    return reinterpret_cast<uint64_t*>(stages + Shape::kStages * Shape::kStageBytes) + i;
  }
  __device__ uint64_t* Empty(uint32_t i) const { return Full(Shape::kStages + i); }
  __device__ uint64_t* More() const { return Full(2 * Shape::kStages); }  // what else a kernel has
  __device__ void Advance() {
    if (++stage == Shape::kStages) stage = 0, ++round;
  }

  // To fill a stage: until what it held before is no longer needed; and that it is full.
  __device__ void WaitUntilEmpty() const { WaitFor(Empty(stage), (round & 1) ^ 1); }
  __device__ void HandOver() {
    PublishShared();
    ArriveAt(Full(stage));
    Advance();
  }
  // To empty it: until it is full; until what it holds in this round is no longer needed.
  __device__ void WaitUntilFull() const { WaitFor(Full(stage), round & 1); }
  __device__ void WaitUntilUsed() const { WaitFor(Empty(stage), round & 1); }
  // The stage before; and that a warp no longer needs it.
  __device__ uint32_t Before() const { return (stage == 0 ? Shape::kStages : stage) - 1; }
  __device__ void ReleaseBefore() const {
    __syncwarp();
    if (threadIdx.x % 32 == 0) ArriveAt(Empty(Before()));
  }
};

// The output tile with this index.
template <class Shape>
struct Place {
  uint32_t batch, row0, col0;
  __device__ Place(const DotArgs& a, uint32_t tile) {
    const uint32_t across = a.tiles_down.Divide(tile);
    batch = a.tiles_across.Divide(across);
    row0 = a.tiles_down.Remainder(tile, across) * Shape::kRows;
    col0 = a.tiles_across.Remainder(across, batch) * Shape::kCols;
  }
};

// Where a tile's operands are in memory. Rows beyond the last repeat it.
template <class Shape>
struct TileSource {
  const uint8_t *lhs, *rhs;     // the tile's first rows
  uint32_t lhs_row, rhs_row;    // which they are, counted through the batch
  uint32_t last_row, last_col;  // of those that there are

  __device__ TileSource(const DotArgs& a, uint32_t tile) {
    const Place<Shape> place(a, tile);
    lhs_row = place.batch * a.rows + place.row0;
    rhs_row = place.batch * a.cols + place.col0;
    lhs = a.lhs.data + int64_t{lhs_row} * a.lhs.row_bytes;
    rhs = a.rhs.data + int64_t{rhs_row} * a.rhs.row_bytes;
    last_row = a.rows - 1 - place.row0;
    last_col = a.cols - 1 - place.col0;
  }
  __device__ uint32_t Row(uint32_t row) const { return row < last_row ? row : last_row; }
  __device__ uint32_t Col(uint32_t col) const { return col < last_col ? col : last_col; }
  // Index of a row's first scale.
  __device__ int64_t LhsScale(const DotArgs& a, uint32_t row) const {
    return RowOf(a.lhs, lhs_row + Row(row)).scale;
  }
  __device__ int64_t RhsScale(const DotArgs& a, uint32_t col) const {
    return RowOf(a.rhs, rhs_row + Col(col)).scale;
  }

  // Starts copies of kPieces pieces of each row, from byte `byte` of it on, by 128 threads; at(row,
  // piece) is where they go.
  template <int kPieces, class At>
  __device__ void CopyLhs(const DotArgs& a, uint32_t thread, int64_t byte, const At& at) const {
#pragma unroll
    for (uint32_t i = 0; i < Shape::kRows * kPieces / 128; ++i) {
      const uint32_t row = i * (128 / kPieces) + thread / kPieces, piece = thread % kPieces;
      CopyAsync<16>(at(row, piece), lhs + byte + Row(row) * a.lhs.row_bytes + piece * 16);
    }
  }
  template <int kPieces, class At>
  __device__ void CopyRhs(const DotArgs& a, uint32_t thread, int64_t byte, const At& at) const {
#pragma unroll
    for (uint32_t i = 0; i < Shape::kCols * kPieces / 128; ++i) {
      const uint32_t col = i * (128 / kPieces) + thread / kPieces, piece = thread % kPieces;
      CopyAsync<16>(at(col, piece), rhs + byte + Col(col) * a.rhs.row_bytes + piece * 16);
    }
  }
};

// A block's tiles are every gridDim.x-th.
struct TiledArgs {
  DotArgs dot;
  uint32_t tiles;
};

// The threads that fill stages: they copy each slab one ahead of the one that they finish and hand
// over. Parts::Source knows a tile's place in memory, Parts::Loaded holds what a thread has of a
// slab until it is finished; it is loaded last, to be there a slab later.
template <class Parts>
__device__ void FillStages(const TiledArgs& args, Ring<typename Parts::Shape> ring) {
  typename Parts::Loaded loaded;
  Ring<typename Parts::Shape> behind = ring;
  bool any = false;
  const auto hand_over = [&] {
    loaded.Finish(behind.At());
    behind.HandOver();
  };
  for (uint32_t tile = blockIdx.x; tile < args.tiles; tile += gridDim.x) {
    const typename Parts::Source source(args.dot, tile);
    for (uint32_t slab = 0; slab < args.dot.depth / Parts::Shape::kDepth; ++slab) {
      ring.WaitUntilEmpty();
      source.Copy(args.dot, slab, ring.At());
      CommitCopies();
      ring.Advance();
      WaitForCopies<1>();
      if (any) hand_over();
      source.Load(slab, &loaded);
      any = true;
    }
  }
  WaitForCopies<0>();
  if (any) hand_over();
}

// Starts as many blocks as stay, one on each multiprocessor at most.
template <class Shape>
Status LaunchTiled(void (*kernel)(TiledArgs), DotArgs* a, Stream stream) {
  int64_t tiles;
  if (const Status s = SetTiles(Shape::kRows, Shape::kCols, a, &tiles)) return s;
  const TiledArgs args = {*a, static_cast<uint32_t>(tiles)};
  const auto most = static_cast<unsigned>(Multiprocessors());
  const Geometry g = {args.tiles < most ? args.tiles : most, 1, 1, Shape::kThreads,
                      Shape::kSharedBytes};
  return Launch(kernel, g, stream, args);
}

}  // namespace jaxfp4::cuda
