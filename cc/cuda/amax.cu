// amax: the largest finite magnitude of every batch entry, as an integer maximum over magnitude
// bits, which is the same in any order.
#include "cc/cuda/segment.h"
#include "cc/cuda/team.h"

namespace jaxfp4::cuda {
namespace {

constexpr unsigned kThreads = 256;

struct AmaxArgs {
  AmaxProblem p;
  uint32_t parts;  // of an entry, each a block's
  bool aligned;
};

JAXFP4_HD uint32_t LargestFinite(const float* x) {
  uint32_t largest = 0;
#pragma unroll
  for (int i = 0; i < kSegment; ++i) {
    const uint32_t magnitude = One::Bits(x[i]) & ~kSignBit;
    if (magnitude < kInfinity && magnitude > largest) largest = magnitude;
  }
  return largest;
}

// The largest of segments thread, thread + threads, ... of an entry.
__device__ inline uint32_t LargestOf(const AmaxArgs& a, int64_t entry, int64_t thread,
                                     int64_t threads) {
  const int64_t segments = CeilDiv(a.p.size, kSegment);
  uint32_t largest = 0;
  for (int64_t i = thread; i < segments; i += threads) {
    const int64_t left = a.p.size - i * kSegment;
    const int count = left < kSegment ? static_cast<int>(left) : kSegment;
    float x[kSegment];
    LoadSegment(a.p.dtype, a.p.x, entry * a.p.size + i * kSegment, count,
                a.aligned && count == kSegment, x);
    const uint32_t magnitude = LargestFinite(x);
    largest = magnitude > largest ? magnitude : largest;
  }
  return largest < (1u << 23) ? 0 : largest;  // subnormals count as zero
}

// Many entries: a warp each.
__global__ void __launch_bounds__(256) AmaxRowsKernel(const AmaxArgs a) {
  const Team warp(32);
  const int64_t warps = int64_t{gridDim.x} * (kThreads / 32);
  for (int64_t entry = int64_t{blockIdx.x} * (kThreads / 32) + threadIdx.x / 32; entry < a.p.batch;
       entry += warps) {
    const uint32_t largest = warp.Max(LargestOf(a, entry, warp.lane, 32));
    if (warp.lane == 0) a.p.out[entry] = One::Float(largest);
  }
}

__global__ void __launch_bounds__(256) ZeroKernel(const AmaxArgs a) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < a.p.batch) a.p.out[i] = 0.0f;
}

// Few entries: several blocks each, joined in out, which starts as zeros.
__global__ void __launch_bounds__(256) AmaxPartsKernel(const AmaxArgs a) {
  __shared__ uint32_t of_warp[kThreads / 32];
  const int64_t entry = blockIdx.x / a.parts, part = blockIdx.x % a.parts;
  const Team warp(32);
  const uint32_t mine =
      warp.Max(LargestOf(a, entry, part * kThreads + threadIdx.x, int64_t{a.parts} * kThreads));
  if (warp.lane == 0) of_warp[threadIdx.x / 32] = mine;
  __syncthreads();
  if (threadIdx.x != 0) return;
  uint32_t largest = 0;
  for (const uint32_t x : of_warp) largest = x > largest ? x : largest;
  if (largest != 0) atomicMax(reinterpret_cast<uint32_t*>(a.p.out + entry), largest);
}

Status AmaxParts(const AmaxArgs& a, Stream stream) {
  const auto zero_blocks = static_cast<unsigned>(CeilDiv(a.p.batch, kThreads));
  if (const Status status = Launch(ZeroKernel, {zero_blocks, 1, 1, kThreads, 0}, stream, a)) {
    return status;
  }
  const auto blocks = static_cast<unsigned>(a.p.batch) * a.parts;
  return Launch(AmaxPartsKernel, {blocks, 1, 1, kThreads, 0}, stream, a);
}

}  // namespace

Status Amax(const AmaxProblem& p, Stream stream) {
  if (p.batch == 0) return nullptr;
  if (p.batch > kMostItems) return kTooLarge;
  AmaxArgs a = {};
  a.p = p;
  a.aligned = p.size * SizeOf(p.dtype) % 16 == 0 && IsAligned(p.x);
  // A warp for each entry fills the device if there are many; else each entry gets as many blocks
  // as have eight rounds of work.
  const int64_t enough = int64_t{Multiprocessors()} * 32;
  const int64_t rounds = CeilDiv(p.size, int64_t{kThreads} * kSegment * 8);
  const int64_t most = CeilDiv(enough, p.batch);
  const int64_t parts = rounds < most ? rounds : most;
  if (p.batch >= enough || parts <= 1) {
    return Launch(AmaxRowsKernel, GridStride(p.batch, kThreads / 32, kThreads), stream, a);
  }
  a.parts = static_cast<uint32_t>(parts);
  return AmaxParts(a, stream);
}

}  // namespace jaxfp4::cuda
