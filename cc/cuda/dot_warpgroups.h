// What the kernels of sm_90a have in common that multiply by warpgroups.
//
// The product is computed transposed: rows of rhs, the weights, are the left operand, in registers;
// rows of lhs, in shared memory, the right one. A tile of outputs is kCols rows of rhs by kRows of
// lhs. One warpgroup, the producer, fills a ring of stages, each kDepth of the depth; the others,
// the multipliers, share the columns of the tile, 64 to a fragment, and take stage after stage.
// Blocks stay, and work on tile after tile, the ring running across; or, where tiles are few, the
// blocks of a cluster share the depth of one tile, and add their sums up in the end.
#pragma once

#include "cc/cuda/cluster.h"
#include "cc/cuda/dot_ring.h"
#include "cc/cuda/unit.h"
#include "cc/cuda/wgmma.h"

namespace jaxfp4::cuda {

template <int kRowsOfTile, int kFragmentsOfMultiplier, int kMultiplierCount>
struct WarpgroupTile {
  static constexpr int kRows = kRowsOfTile;
  static constexpr int kFragments = kFragmentsOfMultiplier;
  static constexpr int kMultipliers = kMultiplierCount;
  static constexpr int kCols = 64 * kFragments * kMultipliers;
  static constexpr int kDepth = 128;  // of a stage
  static constexpr int kThreads = 128 * (kMultipliers + 1);
  static constexpr int kAlignment = 1024;  // of stages, within the address space

  // Bytes of shared memory for stages of so many, their barriers, and what a producer may want.
  static constexpr int SharedBytes(int stages, int stage_bytes, int more) {
    return kAlignment + stages * (stage_bytes + 2 * 8) + more;
  }
};

struct WgmmaArgs {
  DotArgs dot;
  uint32_t tiles;
  uint32_t parts;  // of the depth, for the blocks of a cluster
};

// What a block works on: of every step-th tile, slabs first_slab to last_slab - 1.
struct Work {
  uint32_t tile, step, first_slab, last_slab;
  template <class Shape>
  static __device__ Work Of(const WgmmaArgs& a) {
    const uint32_t slabs = a.dot.depth / Shape::kDepth;
    if constexpr (!Shape::kJoins) return {blockIdx.x, gridDim.x, 0, slabs};
    const uint32_t part = blockIdx.x % a.parts;
    return {blockIdx.x / a.parts, gridDim.x / a.parts, slabs * part / a.parts,
            slabs * (part + 1) / a.parts};
  }
};

// A multiplying thread's sums: two columns of each 64 x kRows fragment, of which its warpgroup has
// kFragments below each other. sum[f][4 i + 2 h + j] is of column Col(f, h), row 8 i +
// 2 (lane % 4) + j.
template <class Shape>
struct Sums {
  static constexpr int kSums = Shape::kRows / 2;
  float sum[Shape::kFragments][kSums];

  static __device__ uint32_t Lane() { return threadIdx.x % 32; }
  static __device__ uint32_t FirstCol() {
    const uint32_t warpgroup = threadIdx.x / 128, warp = threadIdx.x / 32 % 4;
    return warpgroup * (64 * Shape::kFragments) + warp * 16 + Lane() / 4;
  }
  static __device__ uint32_t Below(int fragment, int half) {
    return static_cast<uint32_t>(fragment * 64 + half * 8);
  }
  static __device__ uint32_t Col(int fragment, int half) {
    return FirstCol() + Below(fragment, half);
  }
  __device__ void Clear() {
#pragma unroll
    for (int f = 0; f < Shape::kFragments; ++f) {
#pragma unroll
      for (int i = 0; i < kSums; ++i) sum[f][i] = 0.0f;
    }
  }

  // Adds up the sums of a cluster's blocks, in their order, over the ring's memory. Each block ends
  // with those of some of its warps, for which the result is true.
  __device__ bool Join(uint32_t parts, unsigned char* memory) {
    constexpr int kAll = Shape::kFragments * kSums;
    static_assert(Shape::kMultipliers * 128 * kAll * 4 <= Shape::kStages * Shape::kStageBytes);
    const uint32_t warp = threadIdx.x / 32;
    float* mine = reinterpret_cast<float*>(memory) + warp * kAll * 32 + Lane();
    SyncCluster();  // nobody needs the stages any more
#pragma unroll
    for (int i = 0; i < kAll; ++i) mine[i * 32] = sum[i / kSums][i % kSums];
    SyncCluster();
    const bool is_mine = warp % parts == blockIdx.x % parts;
    if (is_mine) {
      Clear();
      for (uint32_t part = 0; part < parts; ++part) {
#pragma unroll
        for (int i = 0; i < kAll; ++i) {
          sum[i / kSums][i % kSums] += LoadFromCluster(mine + i * 32, part);
        }
      }
    }
    SyncCluster();  // nobody reads what is about to go
    return is_mine;
  }

  template <bool kWide>
  __device__ void Store(const DotArgs& a, const Place<Shape>& place) const {
    const uint32_t batch_row = place.batch * a.rows, group = Lane() / 4, thread = Lane() % 4;
#pragma unroll
    for (int i = 0; i < Shape::kRows / 8; ++i) {
      const uint32_t row8 = place.row0 + static_cast<uint32_t>(i) * 8;
#pragma unroll
      for (int j = 0; j < 2 * Shape::kFragments; ++j) {
        const float x = sum[j / 2][4 * i + j % 2 * 2], y = sum[j / 2][4 * i + j % 2 * 2 + 1];
        const uint32_t col = place.col0 + Col(j / 2, j % 2);
        if constexpr (kWide) {
          StoreFloat(a, batch_row, row8 + 2 * thread, col, x);
          StoreFloat(a, batch_row, row8 + 2 * thread + 1, col, y);
        } else {  // two columns of one row, rather than two rows of one column
          const uint32_t pair = TransposeMatrix(NarrowedPair(a.out_dtype, x, y));
          StorePair(a, batch_row, row8 + group, col - group + 2 * thread, pair);
        }
      }
    }
  }

 private:
  static __device__ void StoreFloat(const DotArgs& a, uint32_t batch_row, uint32_t row,
                                    uint32_t col, float x) {
    if (row >= a.rows || col >= a.cols) return;
    static_cast<float*>(a.out)[int64_t{batch_row + row} * a.cols + col] = x;
  }
  static __device__ void StorePair(const DotArgs& a, uint32_t batch_row, uint32_t row,
                                   uint32_t col, uint32_t pair) {
    if (row >= a.rows || col >= a.cols) return;
    const int64_t index = int64_t{batch_row + row} * a.cols + col;
    static_cast<uint32_t*>(a.out)[index / 2] = pair;
  }
};

// Parts: a Shape; Produce, which fills stages; a Multiplier, whose Accumulate sums a tile up from
// them, and whose Scale makes outputs of sums.
template <class Parts>
__global__ void __launch_bounds__(Parts::Shape::kThreads, 1) WgmmaKernel(const WgmmaArgs args) {
  using Shape = typename Parts::Shape;
  Ring<Shape> ring;
  if (threadIdx.x == 0) ring.Init(128, Shape::kMultipliers * 4);  // one thread of each warp empties
  __syncthreads();
  if (threadIdx.x / 128 == Shape::kMultipliers) {
    GiveRegisters<Shape::kProducerRegisters>();
    Parts::Produce(args, Work::Of<Shape>(args), ring);
    return;
  }
  TakeRegisters<Shape::kMultiplierRegisters>();
  typename Parts::Multiplier multiplier;
  for (auto work = Work::Of<Shape>(args); work.tile < args.tiles; work.tile += work.step) {
    multiplier.Accumulate(work, &ring);
    if constexpr (Shape::kJoins) {
      if (args.parts > 1 && !multiplier.Join(args.parts, ring.stages)) return;
    }
    const Place<Shape> place(args.dot, work.tile);
    multiplier.Scale(args.dot, place);
    if (args.dot.out_dtype == Dtype::kF32) {
      multiplier.template Store<true>(args.dot, place);
    } else {
      multiplier.template Store<false>(args.dot, place);
    }
  }
}

}  // namespace jaxfp4::cuda
