// quantize_blocks: elements to block scales and packed codes, in one pass over x.
#include "cc/cuda/quantize.h"

namespace jaxfp4::cuda {
namespace {

// Whether no scaled element can be NaN: the factor is a normal number, and every element took part
// in the maximum that it comes from.
JAXFP4_HD bool IsOrdinary(ScaleType type, const BlockScale<One>& s) {
  const uint32_t factor = One::Bits(s.encode);
  return type != ScaleType::kFloat32 && factor >= (1u << 23) && factor < kInfinity;
}

// To nearest, ties to even; beyond the largest value, that; the sign of zeros stays.
JAXFP4_HD void EncodeE2M1(const float* v, uint32_t* words) {
#if __CUDA_ARCH_FAMILY_SPECIFIC__ >= 1000
#pragma unroll
  for (int i = 0; i < kSegment; i += 8) {
    asm("{\n.reg .b8 a, b, c, d;\n"
        "cvt.rn.satfinite.e2m1x2.f32 a, %2, %1;\n"
        "cvt.rn.satfinite.e2m1x2.f32 b, %4, %3;\n"
        "cvt.rn.satfinite.e2m1x2.f32 c, %6, %5;\n"
        "cvt.rn.satfinite.e2m1x2.f32 d, %8, %7;\n"
        "mov.b32 %0, {a, b, c, d};\n}"
        : "=r"(words[i / 8])
        : "f"(v[i]), "f"(v[i + 1]), "f"(v[i + 2]), "f"(v[i + 3]), "f"(v[i + 4]), "f"(v[i + 5]),
          "f"(v[i + 6]), "f"(v[i + 7]));
  }
#else
#pragma unroll
  for (int i = 0; i < kSegment; ++i) PutCode<4>(E2M1CodeNearest<One>(v[i]), i, words);
#endif
}

template <class E, Rounding kRounding>
JAXFP4_HD void EncodeSegment(const float* v, const uint32_t* r, bool ordinary, uint32_t* words) {
#pragma unroll
  for (int i = 0; i < kSegment * E::kBits / 32; ++i) words[i] = 0;
  if constexpr (E::kBits == 4 && kRounding == Rounding::kNearest) {
    if (ordinary) return EncodeE2M1(v, words);
  }
#pragma unroll
  for (int i = 0; i < kSegment; ++i) {
    const uint32_t bits = One::Bits(v[i]);
    PutCode<E::kBits>(Code<E, One>(RoundElement<E, kRounding>(bits & ~kSignBit, r[i]), bits), i,
                      words);
  }
}

JAXFP4_HD void StoreScale(const QuantizeArgs& a, uint32_t tile, uint32_t stored) {
  if (a.formula.type == ScaleType::kFloat32) {
    static_cast<uint32_t*>(a.p.scale)[tile] = stored;
  } else {
    static_cast<uint8_t*>(a.p.scale)[tile] = static_cast<uint8_t>(stored);
  }
}

template <class E, Rounding kRounding>
__global__ void __launch_bounds__(256) QuantizeKernel(const QuantizeArgs a) {
  ForEachSegment(a, [&](uint32_t tile, const BlockScale<One>& scale, const Place& at,
                        uint32_t segment, const float* v) {
    if (segment == 0 && !a.uniform) StoreScale(a, tile, scale.stored);
    uint32_t r[kSegment], words[kSegment * E::kBits / 32];
    DrawRandom<kRounding>(a, at, r);
    EncodeSegment<E, kRounding>(v, r, IsOrdinary(a.formula.type, scale), words);
    StoreCodes<E::kBits>(words, at.count, a.aligned,
                         a.p.data + (at.row * a.p.cols + at.col) * E::kBits / 8);
  });
}

template <class E, Rounding kRounding>
struct Quantize {
  static auto Entry() { return QuantizeKernel<E, kRounding>; }
};

// A format without blocks has the scales it was given.
__global__ void CopyScalesKernel(const QuantizeProblem p) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < p.outer_count) static_cast<float*>(p.scale)[i] = p.outer[2 * i + 1];
}

Status CopyScales(const QuantizeProblem& p, Stream stream) {
  if (p.outer_count == 0) return nullptr;
  if (p.outer_count > kMostItems) return kTooLarge;
  return Launch(CopyScalesKernel,
                {static_cast<unsigned>(CeilDiv(p.outer_count, 256)), 1, 1, 256, 0}, stream, p);
}

}  // namespace

Status QuantizeBlocks(const QuantizeProblem& problem, Stream stream) {
  QuantizeArgs args;
  if (const Status status = PlanQuantize(problem, &args)) return status;
  if (problem.format.block_cols == 0) {
    if (const Status status = CopyScales(problem, stream)) return status;
  }
  return args.tile_count == 0 ? nullptr : LaunchQuantize<Quantize>(&args, stream);
}

}  // namespace jaxfp4::cuda
