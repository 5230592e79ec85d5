// ragged_dot on tensor cores with many rows in a group.
#include "cc/cuda/ragged_mma.h"

namespace jaxfp4::cuda {

Status RunRaggedLargeMma(const RaggedDotProblem& p, RaggedArgs* a, Stream stream) {
  return LaunchRaggedMma<LargeShape>(p, a, stream);
}

}  // namespace jaxfp4::cuda
