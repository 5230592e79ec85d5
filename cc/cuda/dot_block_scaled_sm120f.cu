// scaled_dot of two operands of block-scaled codes on sm_120f.
#include "cc/cuda/dot_block_scaled.h"

namespace jaxfp4::cuda {

bool BlockScaledTakes(const ScaledDotProblem& p) {
  return JAXFP4_HAS_ARCHITECTURE && IsForBlockScaling(p) && p.depth % 128 == 0;
}

#if JAXFP4_HAS_ARCHITECTURE

namespace {

template <BlockScaledKind kKind, Element kLhs, Element kRhs>
Status LaunchBlockScaled(DotArgs* a, Stream stream) {
  using Parts = BlockScaledParts<kKind, kLhs, kRhs>;
  int64_t blocks;
  if (const Status s = SetTiles(Parts::Shape::kM, Parts::Shape::kN, a, &blocks)) return s;
  const Geometry g = {static_cast<unsigned>(blocks), 1, 1, Parts::Shape::kThreads,
                      Parts::kSharedBytes};
  return Launch(BlockScaledKernel<kKind, kLhs, kRhs>, g, stream, *a);
}

template <BlockScaledKind kKind>
Status LaunchFp4(DotArgs* a, Stream stream) {
  return LaunchBlockScaled<kKind, Element::kE2M1, Element::kE2M1>(a, stream);
}

template <Element kLhs>
Status LaunchMxfp8(DotArgs* a, Stream stream) {
  constexpr auto kKind = BlockScaledKind::kMxf8f6f4;
  return a->rhs.element == Element::kE4M3
             ? LaunchBlockScaled<kKind, kLhs, Element::kE4M3>(a, stream)
             : LaunchBlockScaled<kKind, kLhs, Element::kE5M2>(a, stream);
}

}  // namespace

Status RunBlockScaled(const ScaledDotProblem& p, DotArgs* a, Stream stream) {
  switch (KindOf(p.rhs)) {
    case BlockScaledKind::kMxf4Nvf4: return LaunchFp4<BlockScaledKind::kMxf4Nvf4>(a, stream);
    case BlockScaledKind::kMxf4: return LaunchFp4<BlockScaledKind::kMxf4>(a, stream);
    case BlockScaledKind::kMxf8f6f4: break;
  }
  return p.lhs.format.element == Element::kE4M3 ? LaunchMxfp8<Element::kE4M3>(a, stream)
                                                : LaunchMxfp8<Element::kE5M2>(a, stream);
}

#else

Status RunBlockScaled(const ScaledDotProblem&, DotArgs*, Stream) { return kNotCompiled; }

#endif

}  // namespace jaxfp4::cuda
