// scaled_dot_transposed on tensor cores: MmaKernel with the rows of codes contracted. Units of rhs
// are neighbours among the outputs, and their fragments are transposed on the way from shared
// memory; so are those of lhs, where its rows are contracted too.
#pragma once

#include "cc/cuda/dot_mma.h"

namespace jaxfp4::cuda {

// Few rows: warps share the depth, in four slices. Many rows: warps share the outputs.
struct SmallTransposed {
  template <int kTerms, bool kRowsOfLhs>
  using Shape = MmaShape<kTerms, 32, 64, 128, 1, 2, 4, true, kRowsOfLhs>;
};
struct LargeTransposed {
  template <int kTerms, bool kRowsOfLhs>
  using Shape = MmaShape<kTerms, 128, 128, kTerms == 1 ? 64 : 32, 2, 4, 1, true, kRowsOfLhs>;
};

// Operands in whole units; and float32 scales that are the same for all columns of a tile.
template <class Tile>
bool TransposedMmaTakes(const ScaledDotProblem& p) {
  using Shape = typename Tile::template Shape<1, false>;
  const int64_t length = p.lhs.transposed ? p.rows : p.depth;
  return p.rhs.transposed && length % kUnit == 0 && p.cols % kUnit == 0 && IsAligned(p.lhs.data) &&
         IsAligned(p.rhs.data) &&
         (!HasOuterBlocks(p.rhs) || p.rhs.format.block_cols % Shape::kN == 0);
}

template <class Tile, int kTerms>
Status LaunchTransposed(DotArgs* a, Stream stream) {
  return a->lhs.transposed
             ? LaunchMma<typename Tile::template Shape<kTerms, true>, false>(a, stream)
             : LaunchMma<typename Tile::template Shape<kTerms, false>, false>(a, stream);
}

// Floats times float32 scales are float32.
template <class Tile>
Status LaunchTransposed(const ScaledDotProblem& p, DotArgs* a, Stream stream) {
  switch (a->scales_in_lhs ? 3 : TermsOf(p.lhs)) {
    case 1: return LaunchTransposed<Tile, 1>(a, stream);
    case 2: return LaunchTransposed<Tile, 2>(a, stream);
    default: return LaunchTransposed<Tile, 3>(a, stream);
  }
}

}  // namespace jaxfp4::cuda
