// scaled_dot of two four-bit operands on sm_120f.
#include "cc/cuda/dot_block_scaled.h"

namespace jaxfp4::cuda {

bool BlockScaledTakes(const ScaledDotProblem& p) {
  return JAXFP4_HAS_ARCHITECTURE && IsBlockScaledFp4(p.rhs) && AreAlike(p.lhs, p.rhs) &&
         p.rhs_layout == Layout::kLogical && p.depth % 128 == 0 && InUnits(p) &&
         IsAligned(p.lhs.scale) && IsAligned(p.rhs.scale);
}

#if JAXFP4_HAS_ARCHITECTURE

namespace {

template <ScaleType kType>
Status LaunchBlockScaled(DotArgs* a, Stream stream) {
  using Parts = BlockScaledParts<kType>;
  int64_t blocks;
  if (const Status s = SetTiles(Parts::Shape::kM, Parts::Shape::kN, a, &blocks)) return s;
  const Geometry g = {static_cast<unsigned>(blocks), 1, 1, Parts::Shape::kThreads,
                      Parts::kSharedBytes};
  return Launch(BlockScaledKernel<kType>, g, stream, *a);
}

}  // namespace

Status RunBlockScaled(const ScaledDotProblem& p, DotArgs* a, Stream stream) {
  return p.rhs.format.scale_type == ScaleType::kE4M3
             ? LaunchBlockScaled<ScaleType::kE4M3>(a, stream)
             : LaunchBlockScaled<ScaleType::kE8M0>(a, stream);
}

#else

Status RunBlockScaled(const ScaledDotProblem&, DotArgs*, Stream) { return kNotCompiled; }

#endif

}  // namespace jaxfp4::cuda
