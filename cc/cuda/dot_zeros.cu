// The outputs of products with no depth: sums of no terms.
#include "cc/cuda/dot_routes.h"

namespace jaxfp4::cuda {
namespace {

struct ZeroArgs {
  unsigned char* out;
  int64_t bytes;
};

__global__ void __launch_bounds__(256) ZeroKernel(const ZeroArgs a) {
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < a.bytes; i += stride) {
    a.out[i] = 0;
  }
}

}  // namespace

Status StoreZeros(const ScaledDotProblem& p, Stream stream) {
  const ZeroArgs a = {static_cast<unsigned char*>(p.out),
                      p.batch * p.rows * p.cols * SizeOf(p.out_dtype)};
  return Launch(ZeroKernel, GridStride(a.bytes, 256, 256), stream, a);
}

}  // namespace jaxfp4::cuda
