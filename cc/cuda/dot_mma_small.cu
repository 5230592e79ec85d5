// scaled_dot on tensor cores with some rows: warps share the depth.
#include "cc/cuda/dot_mma.h"

namespace jaxfp4::cuda {

bool SmallMmaTakes(const ScaledDotProblem& p) { return MmaTakes<SmallShape>(p); }

Status RunSmallMma(const ScaledDotProblem& p, DotArgs* a, Stream stream) {
  return LaunchMma<SmallShape>(p, a, stream);
}

}  // namespace jaxfp4::cuda
