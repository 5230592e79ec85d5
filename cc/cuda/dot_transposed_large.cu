// scaled_dot_transposed on tensor cores with many rows: warps share the outputs.
#include "cc/cuda/dot_transposed.h"

namespace jaxfp4::cuda {

bool LargeTransposedTakes(const ScaledDotProblem& p) {
  return TransposedMmaTakes<LargeTransposed>(p);
}

Status RunLargeTransposed(const ScaledDotProblem& p, DotArgs* a, Stream stream) {
  return LaunchTransposed<LargeTransposed>(p, a, stream);
}

}  // namespace jaxfp4::cuda
