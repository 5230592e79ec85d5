// scaled_dot_transposed on tensor cores with some rows: warps share the depth.
#include "cc/cuda/dot_transposed.h"

namespace jaxfp4::cuda {

bool SmallTransposedTakes(const ScaledDotProblem& p) {
  return TransposedMmaTakes<SmallTransposed>(p);
}

Status RunSmallTransposed(const ScaledDotProblem& p, DotArgs* a, Stream stream) {
  return LaunchTransposed<SmallTransposed>(p, a, stream);
}

}  // namespace jaxfp4::cuda
