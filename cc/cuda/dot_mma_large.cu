// scaled_dot on tensor cores with many rows: warps share the outputs.
#include "cc/cuda/dot_mma.h"

namespace jaxfp4::cuda {

bool LargeMmaTakes(const ScaledDotProblem& p) { return MmaTakes<LargeShape>(p); }

Status RunLargeMma(const ScaledDotProblem& p, DotArgs* a, Stream stream) {
  return LaunchMma<LargeShape>(p, a, stream);
}

}  // namespace jaxfp4::cuda
