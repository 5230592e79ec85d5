// scaled_dot's kernel for sm_100f, run on the host with its tensor cores and tensor memory, against
// float64 products of the decoded operands.
#include "cc/test/cuda_simt_tcgen05.h"

#include "cc/cuda/dot_tcgen05.h"

#include "cc/cpu/parallel.h"
#include "cc/test/cuda_dot_cases.h"

namespace jaxfp4 {
namespace {

using simt::TensorOrder;

bool IsFp8(const Spec& s) { return oracle::TypeOf(s.format.element).bits == 8; }

void Run(const Spec& a, const Spec& b, Dtype dtype, int64_t batch, int64_t rows, int64_t cols,
         int64_t depth, Random* random) {
  const Operand lhs = Make(a, batch, rows, depth, random);
  const Operand rhs = Make(b, batch, cols, depth, random);
  Memory out(batch * rows * cols * cuda::SizeOf(dtype));
  const ScaledDotProblem p = ProblemOf(lhs, rhs, dtype, out.data);
  const std::string name = NameOf(lhs, rhs, "tensor");
  Check(cuda::TensorTakes(p), "%s is not taken", name.c_str());
  Check(RunWith(cuda::RunTensor, p) == nullptr, "%s fails", name.c_str());
  CheckOutputs(lhs, rhs, dtype, out, name);
}

// Every pair of formats, rows and columns that end within a tile, one slab to several, and types of
// outputs, in each order that the tensor cores may work in. A block has several tiles.
void TestFormats() {
  Random random(1);
  int number = 0;
  for (const Spec& a : CodedSpecs()) {
    for (const Spec& b : CodedSpecs()) {
      if (!AreForBlockScaling(a, b)) continue;
      for (const TensorOrder order :
           {TensorOrder::kAtOnce, TensorOrder::kLate, TensorOrder::kCopiesFirst}) {
        if (++number % kEvery != 0) continue;
        simt::tensor_order = order;
        simt::descending = number % 2 == 0;
        const int64_t batch = 1 + number % 2, rows = 1 + random() % 300, cols = 1 + random() % 600;
        Run(a, b, static_cast<Dtype>(number % 3), batch, rows, cols,
            (IsFp8(a) ? 128 : 256) * (1 + random() % 3), &random);
      }
    }
  }
}

// More slabs than stages, more tiles than sums have places.
void TestRing() {
  Random random(2);
  const Spec nvfp4 = CodedSpecs()[0];
  for (const TensorOrder order :
       {TensorOrder::kAtOnce, TensorOrder::kLate, TensorOrder::kCopiesFirst}) {
    simt::tensor_order = order;
    Run(nvfp4, nvfp4, Dtype::kF32, 1, 50, 1100, 256 * 7, &random);
    Run(nvfp4, nvfp4, Dtype::kBF16, 7, 65, 48, 256, &random);
  }
}

// Columns that fill no sixteen bytes, and those that do.
void TestColumns() {
  Random random(3);
  const Spec mxfp4 = CodedSpecs()[2];
  for (const Dtype dtype : {Dtype::kF32, Dtype::kBF16, Dtype::kF16}) {
    for (const int64_t cols : {1, 4, 7, 8, 30, 32, 40, 255, 256, 264, 265}) {
      Run(mxfp4, mxfp4, dtype, 1, 3, cols, 256, &random);
    }
  }
}

// NaN scales reach their row or column, and nothing else; signs of e4m3 scales are not read.
void TestSpecials() {
  Random random(4);
  for (const Spec& s : CodedSpecs()) {
    if (!AreForBlockScaling(s, s) || s.format.block_rows != 1) continue;
    const int64_t rows = 5, cols = 7, depth = 256;
    Operand lhs = Make(s, 1, rows, depth, &random), rhs = Make(s, 1, cols, depth, &random);
    Memory expected(rows * cols * 4), out(rows * cols * 4);
    ScaledDotProblem p = ProblemOf(lhs, rhs, Dtype::kF32, expected.data);
    Check(RunWith(cuda::RunTensor, p) == nullptr, "%s fails", s.name.c_str());
    const bool nvfp4 = s.format.scale_type == ScaleType::kE4M3;
    lhs.scale->data[3 * lhs.ScaleCols() + 2] = nvfp4 ? 0x7f : 0xff;
    if (nvfp4) rhs.scale->data[rhs.ScaleCols()] |= 0x80;
    p.out = out.data;
    Check(RunWith(cuda::RunTensor, p) == nullptr, "%s fails", s.name.c_str());
    for (int64_t i = 0; i < rows * cols; ++i) {
      const double got = OutputAt(Dtype::kF32, out, i);
      Check(i / cols == 3 ? std::isnan(got) : got == OutputAt(Dtype::kF32, expected, i),
            "%s: a NaN scale in row 3, and output %ld is %g", s.name.c_str(), static_cast<long>(i),
            got);
    }
  }
}

void TestTakes() {
  Random random(5);
  for (const Spec& a : LhsSpecs()) {
    for (const Spec& b : CodedSpecs()) {
      const int64_t unit = Unit(a, b) * 256 / std::__gcd<int64_t>(Unit(a, b), 256);
      const Operand lhs = Make(a, 1, 2, unit, &random), rhs = Make(b, 1, 2, unit, &random);
      Memory out(16);
      ScaledDotProblem p = ProblemOf(lhs, rhs, Dtype::kF32, out.data);
      Check(cuda::TensorTakes(p) == AreForBlockScaling(a, b), "%s",
            NameOf(lhs, rhs, "takes").c_str());
      p.depth -= 64;
      Check(!cuda::TensorTakes(p), "half a slab is taken");
      p.depth += 64;
      p.rhs_layout = Layout::kInterleaved16;
      Check(!cuda::TensorTakes(p), "interleaved rows are taken");
    }
  }
}

void TestSharedMemory() {
  constexpr int kMost = 227 * 1024;
  static_assert(cuda::TensorShape<cuda::BlockScaledKind::kMxf4Nvf4>::kSharedBytes <= kMost);
  static_assert(cuda::TensorShape<cuda::BlockScaledKind::kMxf4>::kSharedBytes <= kMost);
  static_assert(cuda::TensorShape<cuda::BlockScaledKind::kMxf8f6f4>::kSharedBytes <= kMost);
}

void TestAll() {
  const ScopedFlushToZero flush;
  TestTakes();
  TestSharedMemory();
  TestColumns();
  TestSpecials();
  TestRing();
  TestFormats();
}

}  // namespace
}  // namespace jaxfp4

int main() {
  jaxfp4::TestAll();
  return jaxfp4::Finish("cuda_tcgen05_test");
}
