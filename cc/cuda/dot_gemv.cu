// scaled_dot with few rows.
#include "cc/cuda/dot_gemv.h"

#include "cc/cuda/dot_routes.h"

namespace jaxfp4::cuda {
namespace {

template <bool kFp4>
Status LaunchGemv(const DotArgs& a, unsigned blocks, Stream stream) {
  const Geometry g = {blocks, 1, 1, kGemvThreads, 0};
  if (a.rows <= 1) return Launch(GemvKernel<1, kFp4>, g, stream, a);
  if (a.rows <= 2) return Launch(GemvKernel<2, kFp4>, g, stream, a);
  if (a.rows <= 4) return Launch(GemvKernel<4, kFp4>, g, stream, a);
  return Launch(GemvKernel<8, kFp4>, g, stream, a);
}

}  // namespace

bool GemvTakes(const ScaledDotProblem& p) { return InUnits(p); }

Status RunGemv(const ScaledDotProblem& p, DotArgs* a, Stream stream) {
  int64_t blocks;
  if (const Status status = SetTiles(8, kGemvCols, a, &blocks)) return status;
  const bool fp4 = p.rhs.format.element == Element::kE2M1 && p.depth % (2 * kUnit) == 0;
  return fp4 ? LaunchGemv<true>(*a, static_cast<unsigned>(blocks), stream)
             : LaunchGemv<false>(*a, static_cast<unsigned>(blocks), stream);
}

}  // namespace jaxfp4::cuda
