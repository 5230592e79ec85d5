// scaled_dot: which kernel serves which operands.
//
//   both of one FP4 format   integers; the same bits however many rows
//   rhs of an FP4 format     floats; few rows with codes decoded in registers, else in panels
//   transposed rhs           floats, in panels
//   all else                 floats; few rows of lhs with rows of rhs streamed past, else in panels
//                            (in panels only, where blocks do not fit the 64 codes it takes)
// FP4 is e2m1 with e4m3 scales of 16 or e8m0 scales of 32. "Floats" are pairs of bfloat16 where the
// target has their dot product and bfloat16 holds the decoded elements of both operands exactly,
// else float32. "Few" rows sum in another order than many, but how many there are makes no other
// difference.
#include "cc/cpu/scaled_dot_gemm-inl.h"
#include "cc/cpu/scaled_dot_gemv-inl.h"
#include "cc/cpu/scaled_dot_stream-inl.h"
#include "cc/cpu/scaled_dot_vnni-inl.h"
#if defined(__AVX512F__)
#include "cc/cpu/scaled_dot_units-inl.h"
#endif
#if defined(JAXFP4_NEON)
#include "cc/cpu/scaled_dot_neon-inl.h"
#endif

namespace jaxfp4::JAXFP4_TARGET {
namespace {

// The most rows of lhs that are few: with more, decoding again for every four takes longer than
// panels. Without vectors to decode with, panels serve any number.
#if defined(__AVX512F__)
constexpr int64_t kFewOfInt[] = {4, 16};  // by layout, since both ways give the same bits
constexpr int64_t kFewOfFp4 = 12;
constexpr int64_t kFewOfGroups[] = {4, 8};  // by elements a word, less one
constexpr int64_t kFewOfRows = 3;           // that FP4, too, is best multiplied row by row
#elif defined(__AVX2__) || defined(JAXFP4_NEON)
constexpr int64_t kFewOfInt[] = {8, 8}, kFewOfFp4 = 8, kFewOfGroups[] = {8, 8};
#else
constexpr int64_t kFewOfInt[] = {0, 0}, kFewOfFp4 = 0, kFewOfGroups[] = {0, 0};
#endif

// The schemes of products of FP4.
#if defined(JAXFP4_NEON)
template <ScaleType kType>
using IntFew = NeonIntGemv<kType>;
template <ScaleType kType>
using IntMany = NeonIntGemm<kType>;
template <class Math, ScaleType kType>
using FloatFew = NeonGemv<Math, kType>;
#else
template <ScaleType kType>
using IntFew = IntGemv<kType>;
template <ScaleType kType>
using IntMany = IntScheme<kType>;
#if defined(__AVX512F__)
template <class Math, ScaleType kType>
using FloatFew = UnitGemv<Math, kType>;
#else
template <class Math, ScaleType kType>
using FloatFew = FloatGemv<kType>;
#endif
#endif

template <ScaleType kType>
void RunInt(const ScaledDotProblem& p, Parallel& parallel) {
  if constexpr (kFewOfInt[0] > 0) {
    const int64_t few = kFewOfInt[static_cast<int>(p.rhs_layout)];
    if (p.rows <= few) return Gemv<IntFew<kType>>(p, parallel).Run();
  }
#if defined(__AVX512VNNI__)
  if constexpr (kType == ScaleType::kE8M0) {
    const LhsPowers powers(p.lhs, p.batch * p.rows);
    if (!powers.huge()) {
      return Gemm<OriginScheme<kType>>(p, parallel, {powers.Partners()}).Run();
    }
  } else {
    return Gemm<OriginScheme<kType>>(p, parallel).Run();
  }
#endif
  Gemm<IntMany<kType>>(p, parallel).Run();
}

template <class Math, ScaleType kType>
void RunFp4(const ScaledDotProblem& p, Parallel& parallel) {
  if constexpr (kFewOfFp4 > 0) {
    if (p.rows <= kFewOfFp4 && !HasOuterBlocks(p.lhs)) {
#if defined(__AVX512F__)
      using Rows = Stream<UnitCoding<Math, kType>>;
      if (p.rhs_layout == Layout::kLogical && p.rows <= kFewOfRows && Rows::InOnePart(p)) {
        return Rows(p, parallel).Run();
      }
#endif
      return Gemv<FloatFew<Math, kType>>(p, parallel).Run();
    }
  }
  Gemm<typename ManyRows<Math>::Scheme>(p, parallel, {{PackFp4<Math, kType>}}).Run();
}

template <class Math>
void RunAny(const ScaledDotProblem& p, Parallel& parallel) {
  if (HasGroups(p)) return RunGroups<kFewOfGroups[Math::kPerWord - 1], Math>(p, parallel);
  Gemm<typename ManyRows<Math>::Scheme>(p, parallel, {{PackAny<Math>}}).Run();
}

template <class Math>
void RunFloat(const ScaledDotProblem& p, Parallel& parallel) {
  if (p.rhs.transposed) {
    return Gemm<typename ManyRows<Math>::Scheme>(p, parallel, {{PackColumns<Math>}}).Run();
  }
  if (!IsFp4(p.rhs)) return RunAny<Math>(p, parallel);
  if (p.rhs.format.scale_type == ScaleType::kE4M3) {
    return RunFp4<Math, ScaleType::kE4M3>(p, parallel);
  }
  RunFp4<Math, ScaleType::kE8M0>(p, parallel);
}

void RunInt(const ScaledDotProblem& p, Parallel& parallel) {
  if (p.rhs.format.scale_type == ScaleType::kE4M3) return RunInt<ScaleType::kE4M3>(p, parallel);
  RunInt<ScaleType::kE8M0>(p, parallel);
}

// Whether bfloat16 holds every decoded element: codes have at most four significant bits and so
// have e4m3 scales; float32 scales multiply the elements of transposed operands only.
[[maybe_unused]] bool ExactInBFloat16(const DotOperand& x) {
  if (!x.coded) return x.dtype == Dtype::kBF16;
  return !(x.transposed && x.format.scale_type == ScaleType::kFloat32);
}

// depth == 0
void StoreZeros(const ScaledDotProblem& p) {
  const size_t size = p.out_dtype == Dtype::kF32 ? 4 : 2;
  memset(p.out, 0, static_cast<size_t>(p.batch * p.rows * p.cols) * size);
}

}  // namespace

void ScaledDot(const ScaledDotProblem& p, Parallel& parallel) {
  if (p.batch == 0 || p.rows == 0 || p.cols == 0) return;
  if (p.depth == 0) return StoreZeros(p);
  if (IsFp4(p.lhs) && IsFp4(p.rhs) && p.lhs.format.scale_type == p.rhs.format.scale_type) {
    return RunInt(p, parallel);
  }
#if defined(__AVX512BF16__) || defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
  if (ExactInBFloat16(p.lhs) && ExactInBFloat16(p.rhs)) return RunFloat<BFloat16>(p, parallel);
#endif
  RunFloat<Float32>(p, parallel);
}

}  // namespace jaxfp4::JAXFP4_TARGET
