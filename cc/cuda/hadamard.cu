// The randomized Hadamard transform: butterflies within a thread's elements by sums and
// differences, between threads by lane exchanges.
#include <cmath>

#include "cc/cuda/segment.h"

namespace jaxfp4::cuda {
namespace {

struct HadamardArgs {
  HadamardProblem p;
  uint32_t items;  // of kElements elements, padded to whole warps
  float norm;
  bool aligned;
};

template <int kElements>
__device__ void Butterflies(int n, float* y) {
#pragma unroll
  for (int h = 1; h < kElements; h *= 2) {
    if (h >= n) break;
#pragma unroll
    for (int i = 0; i < kElements; ++i) {
      if (i & h) continue;
      const float a = y[i], b = y[i + h];
      y[i] = a + b;
      y[i + h] = a - b;
    }
  }
  const int lane = static_cast<int>(threadIdx.x % 32);
  for (int other = 1; other * kElements < n; other *= 2) {
#pragma unroll
    for (int i = 0; i < kElements; ++i) {
      const float theirs = __shfl_xor_sync(~0u, y[i], other);
      y[i] = lane & other ? theirs - y[i] : y[i] + theirs;
    }
  }
}

template <int kElements>
__device__ void MultiplySigns(const HadamardProblem& p, int64_t first, float* y) {
#pragma unroll
  for (int i = 0; i < kElements; ++i) y[i] *= p.signs[(first + i) & (p.n - 1)];
}

// A warp holds 32 kElements elements, whole groups of n.
template <int kElements>
__global__ void __launch_bounds__(256) HadamardKernel(const HadamardArgs a) {
  const uint32_t stride = gridDim.x * blockDim.x;
  for (uint32_t item = blockIdx.x * blockDim.x + threadIdx.x; item < a.items; item += stride) {
    const int64_t first = int64_t{item} * kElements;
    float y[kElements];
#pragma unroll
    for (int i = 0; i < kElements; i += kSegment) {
      const int64_t left = a.p.count - first - i;
      const int count = left < kSegment ? static_cast<int>(left) : kSegment;
      LoadSegment(a.p.dtype, a.p.x, first + i, count, a.aligned && count == kSegment, y + i);
    }
    if (!a.p.inverse) MultiplySigns<kElements>(a.p, first, y);
    Butterflies<kElements>(static_cast<int>(a.p.n), y);
#pragma unroll
    for (int i = 0; i < kElements; ++i) y[i] *= a.norm;
    if (a.p.inverse) MultiplySigns<kElements>(a.p, first, y);
#pragma unroll
    for (int i = 0; i < kElements; i += kSegment) {
      const int64_t left = a.p.count - first - i;
      const int count = left < kSegment ? static_cast<int>(left) : kSegment;
      StoreSegment(a.p.dtype, y + i, a.p.out, first + i, count, a.aligned && count == kSegment);
    }
  }
}

}  // namespace

Status Hadamard(const HadamardProblem& p, Stream stream) {
  if (p.count == 0) return nullptr;
  const int elements = p.n > 32 * kSegment ? 32 : kSegment;
  const int64_t items = CeilDiv(p.count, 32 * elements) * 32;
  if (items > kMostItems) return kTooLarge;
  HadamardArgs a = {};
  a.p = p;
  a.items = static_cast<uint32_t>(items);
  a.norm = static_cast<float>(1.0 / std::sqrt(static_cast<double>(p.n)));
  a.aligned = IsAligned(p.x) && IsAligned(p.out);
  const Geometry g = GridStride(items, 256, 256);
  return elements == 32 ? Launch(HadamardKernel<32>, g, stream, a)
                        : Launch(HadamardKernel<kSegment>, g, stream, a);
}

}  // namespace jaxfp4::cuda
