// ragged_dot on the kernels of scaled_dot: a block finds the group of its rows from the sizes of
// all groups, which stay on the device, and goes on as a block of that group's own product.
//
// The grid is for the most tiles that groups of any sizes can have; blocks beyond the last leave.
// Rows after the last group are a group too, whose outputs are zeros.
#pragma once

#include "cc/cuda/dot_describe.h"
#include "cc/cuda/dot_routes.h"

namespace jaxfp4::cuda {

struct RaggedArgs {
  DotArgs dot;  // of all rows; its rhs has an entry for each group
  const int32_t* group_sizes;
  uint32_t groups;
  Divider entries_per_rhs;  // batch entries that share matrices
};

constexpr unsigned kWholeWarp = ~0u;
constexpr uint32_t kNoMatrix = ~0u;  // of rows after the last group

__device__ __forceinline__ int LaneBack(uint32_t lane, uint32_t step) {
  return static_cast<int>((lane - step) % 32);
}

// The values of the lanes before this one, added up, but `most` at most.
__device__ __forceinline__ uint32_t SumBefore(uint32_t value, uint32_t most, uint32_t lane) {
#pragma unroll
  for (uint32_t step = 1; step < 32; step *= 2) {
    const uint32_t other = __shfl_sync(kWholeWarp, value, LaneBack(lane, step));
    if (lane >= step) value = other < most - value ? value + other : most;
  }
  const uint32_t before = __shfl_sync(kWholeWarp, value, LaneBack(lane, 1));
  return lane == 0 ? 0 : before;
}

// Group sizes as a warp reads them: each lane some groups, one after the other.
struct GroupSizes {
  const int32_t* sizes;  // of a batch entry
  uint32_t groups, rows;
  uint32_t begin, end;  // of this lane, the rows after the last group among them

  __device__ GroupSizes(const RaggedArgs& a, uint32_t batch, uint32_t lane)
      : sizes(a.group_sizes + int64_t{batch} * a.groups), groups(a.groups), rows(a.dot.rows) {
    const uint32_t share = a.groups / 32 + 1;
    begin = lane * share < groups + 1 ? lane * share : groups + 1;
    end = begin + share < groups + 1 ? begin + share : groups + 1;
  }
  // At most `left`, and none if it is negative: whatever sizes are, rows are those of lhs.
  __device__ uint32_t At(uint32_t group, uint32_t left) const {
    if (group == groups) return left;
    const auto size = LoadAs<int32_t>(sizes + group);
    return size < 0 ? 0 : static_cast<uint32_t>(size) < left ? static_cast<uint32_t>(size) : left;
  }
  // Calls visit(group, first row, rows) for this lane's groups, which begin at a row.
  template <class Visit>
  __device__ __forceinline__ void ForEach(uint32_t row, const Visit& visit) const {
    for (uint32_t group = begin; group < end; ++group) {
      const uint32_t size = At(group, rows - row);
      visit(group, row, size);
      row += size;
    }
  }
};

// A tile of rows of a group.
struct GroupTile {
  uint32_t group, row, rows;
};

// Tile number `tile` of a batch entry's groups, in tiles of kRows rows of one group each, for all
// lanes of a warp. Leaves *found alone if there are fewer.
template <int kRows>
__device__ __forceinline__ void FindTile(const RaggedArgs& a, uint32_t batch, uint32_t tile,
                                         GroupTile* found) {
  const uint32_t lane = threadIdx.x % 32;
  const GroupSizes sizes(a, batch, lane);
  uint32_t own = 0, tiles = 0;
  for (uint32_t group = sizes.begin; group < sizes.end && group < sizes.groups; ++group) {
    own += sizes.At(group, sizes.rows - own);
  }
  const uint32_t row = SumBefore(own, sizes.rows, lane);
  sizes.ForEach(row, [&](uint32_t, uint32_t, uint32_t size) {
    tiles += (size + kRows - 1) / kRows;
  });
  const uint32_t before = SumBefore(tiles, ~0u, lane);
  const bool mine = tile >= before && tile - before < tiles;
  const uint32_t lanes = __ballot_sync(kWholeWarp, mine);
  if (lanes == 0) return;
  GroupTile place = {};
  if (mine) {
    uint32_t first = before;
    sizes.ForEach(row, [&](uint32_t group, uint32_t start, uint32_t size) {
      const uint32_t row0 = (tile - first) * kRows;
      if (tile >= first && row0 < size) {
        place = {group, start + row0, size - row0 < kRows ? size - row0 : kRows};
      }
      first += (size + kRows - 1) / kRows;
    });
  }
  const int from = __ffs(static_cast<int>(lanes)) - 1;
  *found = {__shfl_sync(kWholeWarp, place.group, from), __shfl_sync(kWholeWarp, place.row, from),
            __shfl_sync(kWholeWarp, place.rows, from)};
}

// Finds the rows that this block has, kRows at most, and its tile of kCols columns. False if there
// is nothing left to do. One warp searches; what it finds lies in shared memory, for registers are
// what the kernels have least of.
template <int kRows, int kCols>
__device__ __forceinline__ bool EnterGroup(const RaggedArgs& args, Entry* shared, uint32_t* col0) {
  const DotArgs& a = args.dot;
  // Blocks that follow each other share columns of a matrix.
  const uint32_t across = a.tiles_down.Divide(blockIdx.x);
  const uint32_t batch = a.tiles_across.Divide(across);
  *col0 = a.tiles_across.Remainder(across, batch) * kCols;
  if (threadIdx.x < 32) {
    GroupTile tile = {};
    FindTile<kRows>(args, batch, a.tiles_down.Remainder(blockIdx.x, across), &tile);
    const uint32_t matrix = args.entries_per_rhs.Divide(batch) * args.groups + tile.group;
    if (threadIdx.x == 0) {
      *shared = {batch * a.rows + tile.row,
                 tile.group < args.groups ? matrix * a.cols : kNoMatrix, tile.rows};
    }
  }
  __syncthreads();
  if (shared->rhs_row != kNoMatrix) return shared->rows > 0;
  for (uint32_t i = threadIdx.x; i < kRows * kCols; i += blockDim.x) {
    const uint32_t row = i / kCols, col = *col0 + i % kCols;
    if (row < shared->rows && col < a.cols) StoreOutput(a, shared->lhs_row + row, col, 0.0f);
  }
  return false;
}

// ---- launches

inline Status Describe(const RaggedDotProblem& p, RaggedArgs* args) {
  if (const Status s = Describe(p.dot, p.rhs_batch * p.groups, &args->dot)) return s;
  args->group_sizes = p.group_sizes;
  args->groups = static_cast<uint32_t>(p.groups);
  args->entries_per_rhs = Divider(p.dot.batch / p.rhs_batch);
  return nullptr;
}

// The most tiles of `tile` rows that groups of any sizes make of the rows of a batch entry: as many
// as can be have one row more than whole tiles.
inline int64_t MostTiles(const RaggedDotProblem& p, int64_t tile) {
  const int64_t rows = p.dot.rows, groups = p.groups + 1;
  const int64_t begun = rows < groups ? rows : groups;
  return (rows + (tile - 1) * begun) / tile;
}

inline Status SetRaggedTiles(const RaggedDotProblem& p, int64_t rows, int64_t cols, RaggedArgs* a,
                             int64_t* blocks) {
  const int64_t down = MostTiles(p, rows), across = CeilDiv(p.dot.cols, cols);
  a->dot.tiles_down = Divider(down);
  a->dot.tiles_across = Divider(across);
  *blocks = p.dot.batch * down * across;
  return *blocks > kMostItems ? kTooLarge : nullptr;
}

using RaggedRunner = Status (*)(const RaggedDotProblem& problem, RaggedArgs* args, Stream stream);
Status RunRaggedGemv(const RaggedDotProblem& problem, RaggedArgs* args, Stream stream);
Status RunRaggedSmallMma(const RaggedDotProblem& problem, RaggedArgs* args, Stream stream);
Status RunRaggedLargeMma(const RaggedDotProblem& problem, RaggedArgs* args, Stream stream);
Status RunRaggedTile(const RaggedDotProblem& problem, RaggedArgs* args, Stream stream);

}  // namespace jaxfp4::cuda
