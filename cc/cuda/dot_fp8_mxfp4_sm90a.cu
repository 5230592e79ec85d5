// scaled_dot of e4m3 by MXFP4 on sm_90a.
#include "cc/cuda/dot_fp8_launch.h"

namespace jaxfp4::cuda {

bool Fp8ByMxfp4Takes(const ScaledDotProblem& p) {
  return Fp8LhsFits(p) && IsBlockScaledFp4(p.rhs) &&
         p.rhs.format.scale_type == ScaleType::kE8M0;
}

#if JAXFP4_HAS_ARCHITECTURE
Status RunFp8ByMxfp4(const ScaledDotProblem& p, DotArgs* a, Stream stream) {
  return LaunchFp8<true>(p, a, stream);
}
#else
Status RunFp8ByMxfp4(const ScaledDotProblem&, DotArgs*, Stream) { return kNotCompiled; }
#endif

}  // namespace jaxfp4::cuda
