// The kernels of scaled_dot, as their dispatch sees them.
#pragma once

#include "cc/cuda/block_scaled.h"
#include "cc/cuda/dot_operand.h"

namespace jaxfp4::cuda {

Status RunGemv(const ScaledDotProblem& problem, DotArgs* args, Stream stream);
Status RunSmallMma(const ScaledDotProblem& problem, DotArgs* args, Stream stream);
Status RunLargeMma(const ScaledDotProblem& problem, DotArgs* args, Stream stream);
Status RunWgmma(const ScaledDotProblem& problem, DotArgs* args, Stream stream);
Status RunFp8(const ScaledDotProblem& problem, DotArgs* args, Stream stream);
Status RunFp8ByMxfp4(const ScaledDotProblem& problem, DotArgs* args, Stream stream);
Status RunBlockScaled(const ScaledDotProblem& problem, DotArgs* args, Stream stream);
Status RunCublaslt(const ScaledDotProblem& problem, DotArgs* args, Stream stream);
Status RunTensor(const ScaledDotProblem& problem, DotArgs* args, Stream stream);
Status RunTile(const ScaledDotProblem& problem, DotArgs* args, Stream stream);
Status RunSmallTransposed(const ScaledDotProblem& problem, DotArgs* args, Stream stream);
Status RunLargeTransposed(const ScaledDotProblem& problem, DotArgs* args, Stream stream);
Status RunWgmmaTransposed(const ScaledDotProblem& problem, DotArgs* args, Stream stream);

// What they take, besides what the table in scaled_dot.cu says.
bool GemvTakes(const ScaledDotProblem& problem);
bool SmallMmaTakes(const ScaledDotProblem& problem);
bool LargeMmaTakes(const ScaledDotProblem& problem);
bool WgmmaTakes(const ScaledDotProblem& problem);
bool Fp8Takes(const ScaledDotProblem& problem);
bool Fp8ByMxfp4Takes(const ScaledDotProblem& problem);
bool BlockScaledTakes(const ScaledDotProblem& problem);
// The four by cuBLASLt: one scale for each tensor, for each row; blocks of 128; NVFP4 or MXFP8.
bool CublasltTakesTensors(const ScaledDotProblem& problem);
bool CublasltTakesRows(const ScaledDotProblem& problem);
bool CublasltTakesBlocks128(const ScaledDotProblem& problem);
bool CublasltTakesMicro(const ScaledDotProblem& problem);
bool TensorTakes(const ScaledDotProblem& problem);
bool TileTakes(const ScaledDotProblem& problem);
bool SmallTransposedTakes(const ScaledDotProblem& problem);
bool LargeTransposedTakes(const ScaledDotProblem& problem);
bool WgmmaTransposedTakes(const ScaledDotProblem& problem);

// Operands in whole units, which lie where wide loads may read them.
inline bool InUnits(const ScaledDotProblem& p) {
  return p.depth % kUnit == 0 && IsAligned(p.lhs.data) && IsAligned(p.rhs.data);
}

// NVFP4 or MXFP4: four-bit codes with one-byte scales.
inline bool IsBlockScaledFp4(const DotOperand& x) {
  const BlockFormat& f = x.format;
  return x.coded && f.element == Element::kE2M1 &&
         ((f.scale_type == ScaleType::kE4M3 && f.block_cols == 16) ||
          (f.scale_type == ScaleType::kE8M0 && f.block_cols == 32));
}
inline bool AreAlike(const DotOperand& a, const DotOperand& b) {
  return IsBlockScaledFp4(a) && IsBlockScaledFp4(b) && a.format.scale_type == b.format.scale_type;
}
// Eight-bit codes, thirty-two to a scale of type e8m0.
inline bool IsMxfp8(const DotOperand& x) {
  const BlockFormat& f = x.format;
  return x.coded && (f.element == Element::kE4M3 || f.element == Element::kE5M2) &&
         f.scale_type == ScaleType::kE8M0 && f.block_cols == 32;
}
// What tensor cores that apply block scales can multiply, as it lies in memory.
inline bool IsForBlockScaling(const ScaledDotProblem& p) {
  return (AreAlike(p.lhs, p.rhs) || (IsMxfp8(p.lhs) && IsMxfp8(p.rhs))) &&
         p.rhs_layout == Layout::kLogical && InUnits(p) && IsAligned(p.lhs.scale) &&
         IsAligned(p.rhs.scale);
}
inline BlockScaledKind KindOf(const DotOperand& x) {
  if (x.format.element != Element::kE2M1) return BlockScaledKind::kMxf8f6f4;
  return x.format.scale_type == ScaleType::kE4M3 ? BlockScaledKind::kMxf4Nvf4
                                                 : BlockScaledKind::kMxf4;
}

// The outputs of products with no depth: zeros.
Status StoreZeros(const ScaledDotProblem& problem, Stream stream);

constexpr Status kTooOld = "no kernel for this GPU: it needs sm_80 or later";
// Of a kernel that will not take the call after all; nor will it take another such call.
inline constexpr char kRefused[] = "cuBLASLt refused a product that it has an algorithm for";
constexpr Status kNotCompiled = "built without the architecture that this kernel is for";

// Cuts the outputs into tiles, a block each.
inline Status SetTiles(int64_t rows, int64_t cols, DotArgs* a, int64_t* blocks) {
  const int64_t down = CeilDiv(a->rows, rows), across = CeilDiv(a->cols, cols);
  a->tiles_down = Divider(down);
  a->tiles_across = Divider(across);
  *blocks = a->batch * down * across;
  return *blocks > kMostItems ? kTooLarge : nullptr;
}

}  // namespace jaxfp4::cuda
