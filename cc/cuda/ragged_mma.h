// ragged_dot on tensor cores: the tiles of scaled_dot's kernels, each of one group's rows.
#pragma once

#include "cc/cuda/dot_groups.h"
#include "cc/cuda/dot_mma.h"

namespace jaxfp4::cuda {

template <class S, bool kPromote>
__global__ void __launch_bounds__(S::kThreads) RaggedMmaKernel(const RaggedArgs args) {
  __shared__ Entry rows;
  uint32_t col0;
  if (EnterGroup<S::kM, S::kN>(args, &rows, &col0)) {
    MultiplyTile<S, kPromote>(args.dot, rows, 0, col0);
  }
}

template <class S>
Status LaunchRaggedMma(const RaggedDotProblem& p, RaggedArgs* a, Stream stream) {
  int64_t blocks;
  if (const Status status = SetRaggedTiles(p, S::kM, S::kN, a, &blocks)) return status;
  const Geometry g = {static_cast<unsigned>(blocks), 1, 1, S::kThreads, S::kSharedBytes};
  return HasOuterBlocks(p.dot.lhs) || HasOuterBlocks(p.dot.rhs)
             ? Launch(RaggedMmaKernel<S, true>, g, stream, *a)
             : Launch(RaggedMmaKernel<S, false>, g, stream, *a);
}

template <template <int> class Shape>
Status LaunchRaggedMma(const RaggedDotProblem& p, RaggedArgs* a, Stream stream) {
  switch (TermsOf(p.dot.lhs)) {
    case 1: return LaunchRaggedMma<Shape<1>>(p, a, stream);
    case 2: return LaunchRaggedMma<Shape<2>>(p, a, stream);
    default: return LaunchRaggedMma<Shape<3>>(p, a, stream);
  }
}

}  // namespace jaxfp4::cuda
