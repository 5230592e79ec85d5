// scaled_dot with many rows on sm_100f.
#include "cc/cuda/dot_tcgen05.h"

namespace jaxfp4::cuda {

bool TensorTakes(const ScaledDotProblem& p) {
  const bool fp8 = IsMxfp8(p.lhs) && IsMxfp8(p.rhs);
  return JAXFP4_HAS_ARCHITECTURE && !p.exact && (AreAlike(p.lhs, p.rhs) || fp8) &&
         p.rhs_layout == Layout::kLogical && p.depth % (fp8 ? 128 : 256) == 0 && InUnits(p) &&
         IsAligned(p.lhs.scale) && IsAligned(p.rhs.scale) && IsAligned(p.out);
}

#if JAXFP4_HAS_ARCHITECTURE

namespace {

template <TensorKind kKind>
Status LaunchTensor(DotArgs* a, Stream stream) {
  return LaunchTiled<TensorShape<kKind>>(TensorKernel<kKind>, a, stream);
}

}  // namespace

Status RunTensor(const ScaledDotProblem& p, DotArgs* a, Stream stream) {
  if (p.rhs.format.element != Element::kE2M1) return LaunchTensor<TensorKind::kMxfp8>(a, stream);
  return p.rhs.format.scale_type == ScaleType::kE4M3 ? LaunchTensor<TensorKind::kNvfp4>(a, stream)
                                                     : LaunchTensor<TensorKind::kMxfp4>(a, stream);
}

#else

Status RunTensor(const ScaledDotProblem&, DotArgs*, Stream) { return kNotCompiled; }

#endif

}  // namespace jaxfp4::cuda
