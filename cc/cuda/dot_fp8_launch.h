// Starts the e4m3 kernels of sm_90a.
#pragma once

#include "cc/cuda/dot_fp8.h"

namespace jaxfp4::cuda {

// Blocks of a cluster share a tile's depth, as long as there are multiprocessors for them and four
// slabs for each.
inline unsigned Fp8PartsOf(int64_t tiles, int64_t slabs) {
  constexpr unsigned kMost = 8;  // that every GPU has room for
  unsigned parts = 1;
  while (parts < kMost && tiles * 2 * parts <= Multiprocessors() && slabs >= 4 * 2 * parts) {
    parts *= 2;
  }
  return parts;
}

template <class Parts>
Status LaunchFp8(const ScaledDotProblem& p, DotArgs* a, Stream stream) {
  using Shape = typename Parts::Shape;
  int64_t tiles;
  if (const Status s = SetTiles(Shape::kRows, Shape::kCols, a, &tiles)) return s;
  const unsigned parts = Fp8PartsOf(tiles, p.depth / Shape::kDepth);
  const int64_t most = parts > 1 ? tiles : Multiprocessors();
  const auto blocks = static_cast<unsigned>(tiles < most ? tiles : most) * parts;
  const Geometry g = {blocks, 1, 1, Shape::kThreads, Shape::kSharedBytes, parts};
  return Launch(WgmmaKernel<Parts>, g, stream, {*a, static_cast<uint32_t>(tiles), parts});
}

template <int kRows, bool kMx>
Status LaunchFp8(const ScaledDotProblem& p, DotArgs* a, Stream stream) {
  return HasOuterBlocks(a->lhs) ? LaunchFp8<Fp8Parts<kRows, kMx, true>>(p, a, stream)
                                : LaunchFp8<Fp8Parts<kRows, kMx, false>>(p, a, stream);
}

// Tiles no larger than the rows, up to 128.
template <bool kMx>
Status LaunchFp8(const ScaledDotProblem& p, DotArgs* a, Stream stream) {
  if (p.rows <= 16) return LaunchFp8<16, kMx>(p, a, stream);
  if (p.rows <= 32) return LaunchFp8<32, kMx>(p, a, stream);
  if (p.rows <= 64) return LaunchFp8<64, kMx>(p, a, stream);
  return LaunchFp8<128, kMx>(p, a, stream);
}

// e4m3 with float32 scales of whole rows, or of slabs of them.
inline bool IsFloatScaledE4M3(const DotOperand& x) {
  const BlockFormat& f = x.format;
  return x.coded && f.element == Element::kE4M3 && f.scale_type == ScaleType::kFloat32 &&
         (f.block_cols == 0 || f.block_cols == 128);
}

// What both kinds of weights need.
inline bool Fp8LhsFits(const ScaledDotProblem& p) {
  return JAXFP4_HAS_ARCHITECTURE && IsFloatScaledE4M3(p.lhs) && p.rhs_layout == Layout::kLogical &&
         p.depth % 128 == 0 && p.cols % 2 == 0 && InUnits(p) && IsAligned(p.rhs.scale);
}

}  // namespace jaxfp4::cuda
