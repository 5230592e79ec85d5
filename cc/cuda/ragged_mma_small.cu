// ragged_dot on tensor cores with some rows in a group.
#include "cc/cuda/ragged_mma.h"

namespace jaxfp4::cuda {

Status RunRaggedSmallMma(const RaggedDotProblem& p, RaggedArgs* a, Stream stream) {
  return LaunchRaggedMma<SmallShape>(p, a, stream);
}

}  // namespace jaxfp4::cuda
