// scaled_dot_transposed with many rows on sm_90a.
#include "cc/cuda/dot_transposed_wgmma.h"

namespace jaxfp4::cuda {

bool WgmmaTransposedTakes(const ScaledDotProblem& p) {
  const auto whole = [&](bool transposed, int64_t unit) {
    return !transposed || p.rows % unit == 0;
  };
  return JAXFP4_HAS_ARCHITECTURE && p.rhs.transposed && IsBlockScaledFp4(p.rhs) &&
         p.lhs.dtype == Dtype::kBF16 && p.depth % WgmmaShape::kDepth == 0 &&
         p.cols % (WgmmaShape::kCols / 2) == 0 && whole(p.lhs.transposed, 8) &&
         whole(p.out_transposed, 2) && IsAligned(p.lhs.data) && IsAligned(p.rhs.data) &&
         IsAligned(p.rhs.scale) && IsAligned(p.out);
}

#if JAXFP4_HAS_ARCHITECTURE

namespace {

template <ScaleType kType>
Status LaunchTransposedOf(DotArgs* a, Stream stream) {
  int64_t tiles;
  if (const Status s = SetTiles(WgmmaShape::kRows, WgmmaShape::kCols, a, &tiles)) return s;
  const WgmmaArgs args = {*a, static_cast<uint32_t>(tiles), 1};
  const auto most = static_cast<unsigned>(Multiprocessors());
  const Geometry g = {args.tiles < most ? args.tiles : most, 1, 1, WgmmaShape::kThreads,
                      WgmmaShape::kSharedBytes};
  return a->lhs.transposed
             ? Launch(WgmmaKernel<TransposedWgmmaParts<kType, true>>, g, stream, args)
             : Launch(WgmmaKernel<TransposedWgmmaParts<kType, false>>, g, stream, args);
}

}  // namespace

Status RunWgmmaTransposed(const ScaledDotProblem& p, DotArgs* a, Stream stream) {
  return p.rhs.format.scale_type == ScaleType::kE4M3
             ? LaunchTransposedOf<ScaleType::kE4M3>(a, stream)
             : LaunchTransposedOf<ScaleType::kE8M0>(a, stream);
}

#else

Status RunWgmmaTransposed(const ScaledDotProblem&, DotArgs*, Stream) { return kNotCompiled; }

#endif

}  // namespace jaxfp4::cuda
