// scaled_dot with many rows on sm_90a.
#include "cc/cuda/dot_wgmma.h"

namespace jaxfp4::cuda {

bool WgmmaTakes(const ScaledDotProblem& p) {
  const bool lhs_fits = (!p.lhs.coded && p.lhs.dtype == Dtype::kBF16) || AreAlike(p.lhs, p.rhs);
  return JAXFP4_HAS_ARCHITECTURE && IsBlockScaledFp4(p.rhs) && lhs_fits &&
         p.rhs_layout == Layout::kLogical && p.depth % WgmmaShape::kDepth == 0 &&
         p.cols % 2 == 0 && InUnits(p) && IsAligned(p.lhs.scale) && IsAligned(p.rhs.scale);
}

#if JAXFP4_HAS_ARCHITECTURE

namespace {

template <ScaleType kType>
Status LaunchWgmma(const WgmmaArgs& a, Stream stream) {
  const auto most = static_cast<unsigned>(Multiprocessors());
  const Geometry g = {a.tiles < most ? a.tiles : most, 1, 1, WgmmaShape::kThreads,
                      WgmmaShape::kSharedBytes};
  return a.dot.lhs.coded ? Launch(WgmmaKernel<WgmmaParts<kType, true>>, g, stream, a)
                         : Launch(WgmmaKernel<WgmmaParts<kType, false>>, g, stream, a);
}

}  // namespace

Status RunWgmma(const ScaledDotProblem& p, DotArgs* a, Stream stream) {
  int64_t tiles;
  if (const Status s = SetTiles(WgmmaShape::kRows, WgmmaShape::kCols, a, &tiles)) return s;
  const WgmmaArgs args = {*a, static_cast<uint32_t>(tiles), 1};
  return p.rhs.format.scale_type == ScaleType::kE4M3 ? LaunchWgmma<ScaleType::kE4M3>(args, stream)
                                                     : LaunchWgmma<ScaleType::kE8M0>(args, stream);
}

#else

Status RunWgmma(const ScaledDotProblem&, DotArgs*, Stream) { return kNotCompiled; }

#endif

}  // namespace jaxfp4::cuda
