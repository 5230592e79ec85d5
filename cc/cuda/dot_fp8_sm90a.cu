// scaled_dot of e4m3 by e4m3 on sm_90a.
#include "cc/cuda/dot_fp8_launch.h"

namespace jaxfp4::cuda {

bool Fp8Takes(const ScaledDotProblem& p) { return Fp8LhsFits(p) && IsFloatScaledE4M3(p.rhs); }

#if JAXFP4_HAS_ARCHITECTURE
Status RunFp8(const ScaledDotProblem& p, DotArgs* a, Stream stream) {
  return LaunchFp8<false>(p, a, stream);
}
#else
Status RunFp8(const ScaledDotProblem&, DotArgs*, Stream) { return kNotCompiled; }
#endif

}  // namespace jaxfp4::cuda
