// scaled_dot with many rows on sm_100f.
#include "cc/cuda/dot_tcgen05.h"

namespace jaxfp4::cuda {

bool TensorTakes(const ScaledDotProblem& p) {
  const int64_t slab = IsMxfp8(p.rhs) ? 128 : 256;
  return JAXFP4_HAS_ARCHITECTURE && IsForBlockScaling(p) && p.depth % slab == 0 &&
         IsAligned(p.out);
}

#if JAXFP4_HAS_ARCHITECTURE

namespace {

template <BlockScaledKind kKind>
Status LaunchTensor(DotArgs* a, Stream stream) {
  return LaunchTiled<TensorShape<kKind>>(TensorKernel<kKind>, a, stream);
}

}  // namespace

Status RunTensor(const ScaledDotProblem& p, DotArgs* a, Stream stream) {
  switch (KindOf(p.rhs)) {
    case BlockScaledKind::kMxf4Nvf4: return LaunchTensor<BlockScaledKind::kMxf4Nvf4>(a, stream);
    case BlockScaledKind::kMxf4: return LaunchTensor<BlockScaledKind::kMxf4>(a, stream);
    case BlockScaledKind::kMxf8f6f4: break;
  }
  return LaunchTensor<BlockScaledKind::kMxf8f6f4>(a, stream);
}

#else

Status RunTensor(const ScaledDotProblem&, DotArgs*, Stream) { return kNotCompiled; }

#endif

}  // namespace jaxfp4::cuda
