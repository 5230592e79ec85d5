// fake_quantize: elements to the values that their codes stand for, in one pass and without codes.
#include "cc/cuda/quantize.h"

namespace jaxfp4::cuda {
namespace {

template <class E, Rounding kRounding>
__global__ void __launch_bounds__(256) FakeQuantizeKernel(const QuantizeArgs a) {
  ForEachSegment(
      a, [&](uint32_t, const BlockScale<One>& scale, const Place& at, uint32_t, const float* v) {
        uint32_t r[kSegment];
        float y[kSegment];
        DrawRandom<kRounding>(a, at, r);
#pragma unroll
        for (int i = 0; i < kSegment; ++i) {
          const uint32_t bits = One::Bits(v[i]);
          const float q = Value<E, One>(RoundElement<E, kRounding>(bits & ~kSignBit, r[i]), bits);
          y[i] = (q * scale.decode) * scale.decode2;
        }
        StoreSegment(a.p.dtype, y, a.p.out, at.row * a.p.cols + at.col, at.count, a.aligned);
      });
}

template <class E, Rounding kRounding>
struct FakeQuantizer {
  static auto Entry() { return FakeQuantizeKernel<E, kRounding>; }
};

}  // namespace

Status FakeQuantize(const QuantizeProblem& problem, Stream stream) {
  QuantizeArgs args;
  if (const Status status = PlanQuantize(problem, &args)) return status;
  return args.tile_count == 0 ? nullptr : LaunchQuantize<FakeQuantizer>(&args, stream);
}

}  // namespace jaxfp4::cuda
