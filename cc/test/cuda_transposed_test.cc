// scaled_dot_transposed's CUDA kernels, run thread by thread on the host, against float64 products
// of the decoded operands.
#include "cc/test/cuda_dot_kernels.h"

#include "cc/cpu/parallel.h"
#include "cc/test/cuda_dot_cases.h"

namespace jaxfp4 {

const cuda::cublaslt::Library* cuda::cublaslt::FindLibrary() { return nullptr; }

namespace {

const Spec kFloats[] = {{"float32", false, Dtype::kF32, {}},
                        {"bfloat16", false, Dtype::kBF16, {}},
                        {"float16", false, Dtype::kF16, {}}};

struct Sizes {
  int64_t batch, rows, cols, depth;
};

// A call, and what it should give.
struct Call {
  Sizes sizes;
  Dtype dtype;
  bool lhs_transposed, out_transposed;
  Operand lhs, rhs;
  std::vector<int64_t> table;  // a scale offset for each row
  Memory out;
  std::string name;

  Call(const Spec& a, const Spec& b, const Sizes& s, Dtype out_dtype, bool contracted_first,
       bool transposed, Random* random)
      : sizes(s),
        dtype(out_dtype),
        lhs_transposed(contracted_first),
        out_transposed(transposed),
        lhs(contracted_first ? Make(a, s.batch, s.depth, s.rows, random)
                             : Make(a, s.batch, s.rows, s.depth, random)),
        rhs(Make(b, s.batch, s.depth, s.cols, random)),
        out(s.batch * s.rows * s.cols * cuda::SizeOf(out_dtype)),
        name(a.name + (contracted_first ? " transposed" : "") + " x " + b.name + " B=" +
             std::to_string(s.batch) + " M=" + std::to_string(s.rows) + " N=" +
             std::to_string(s.depth) + " K=" + std::to_string(s.cols) +
             (transposed ? " to transposed" : "")) {
    for (int64_t r = 0; r < s.batch * s.depth; ++r) {
      table.push_back((r / s.depth * rhs.ScaleRows() +
                       (rhs.ScaleRows() == 1 ? 0 : r % s.depth)) * rhs.ScaleCols());
    }
  }

  ScaledDotProblem Problem() {
    ScaledDotProblem p = {};
    p.batch = sizes.batch, p.rows = sizes.rows, p.cols = sizes.cols, p.depth = sizes.depth;
    p.lhs = lhs.Describe();
    p.rhs = rhs.Describe();
    p.lhs.transposed = lhs_transposed;
    p.rhs.transposed = true;
    if (rhs.spec.format.block_rows <= 1) {
      p.rhs.scale_offset = table.data();
      p.rhs.rows_per_offset = 1;
    }
    p.out_transposed = out_transposed;
    p.out_dtype = dtype;
    p.out = out.data;
    return p;
  }

  double Lhs(int64_t b, int64_t m, int64_t n) const {
    const int64_t at = lhs_transposed ? (b * sizes.depth + n) * sizes.rows + m
                                      : (b * sizes.rows + m) * sizes.depth + n;
    return lhs.values[static_cast<size_t>(at)];
  }
  double Rhs(int64_t b, int64_t n, int64_t k) const {
    return rhs.values[static_cast<size_t>((b * sizes.depth + n) * sizes.cols + k)];
  }
  double Out(int64_t b, int64_t m, int64_t k) const {
    return OutputAt(dtype, out,
                    out_transposed ? (b * sizes.cols + k) * sizes.rows + m
                                   : (b * sizes.rows + m) * sizes.cols + k);
  }

  // (N + 2) 2^-23 of the sum of the magnitudes, and the rounding of the output type.
  void Check(const char* route) const {
    const double tolerance = static_cast<double>(sizes.depth + 2) * std::ldexp(1.0, -23);
    const double rounding =
        dtype == Dtype::kF32 ? 0 : std::ldexp(1.01, dtype == Dtype::kBF16 ? -8 : -11);
    for (int64_t i = 0; i < sizes.batch * sizes.rows * sizes.cols; ++i) {
      const int64_t k = i % sizes.cols, m = i / sizes.cols % sizes.rows;
      const int64_t b = i / sizes.cols / sizes.rows;
      const double g = static_cast<double>(
          rhs.global[rhs.global.size() == 1 ? 0 : static_cast<size_t>(b)]);
      double sum = 0, magnitude = 0;
      for (int64_t n = 0; n < sizes.depth; ++n) {
        sum += Lhs(b, m, n) * Rhs(b, n, k) * g;
        magnitude += std::fabs(Lhs(b, m, n) * Rhs(b, n, k)) * g;
      }
      const double got = Out(b, m, k), off = std::fabs(got - sum);
      if (dtype == Dtype::kF16 && (std::fabs(sum) > 6e4 || off < 1e-7)) continue;
      jaxfp4::Check(off <= tolerance * magnitude + rounding * std::fabs(sum),
                    "%s: %s: out[%ld, %ld, %ld] is %g, expected %g", route, name.c_str(),
                    static_cast<long>(b), static_cast<long>(m), static_cast<long>(k), got, sum);
    }
  }
};

int64_t UpTo(int64_t most, int64_t unit, Random* random) {
  return unit * (1 + static_cast<int64_t>((*random)() % static_cast<uint64_t>(most / unit)));
}

// Every kernel on every format and float type, with lhs and out either way, and ragged sizes.
void TestKernels() {
  Random random(1);
  int number = 0;
  for (const cuda::Route& route : cuda::kRoutes) {
    if (!route.transposed) continue;
    const bool small = route.run == cuda::RunSmallTransposed, tile = route.run == cuda::RunTile;
    if (route.run == cuda::RunWgmmaTransposed) continue;  // has larger units
    int taken = 0;
    for (const Spec& b : CodedSpecs()) {
      for (const Spec& a : kFloats) {
        for (int flags = 0; flags < 4; ++flags) {
          if (++number % kEvery != 0) continue;
          simt::descending = number % 2 == 0;
          const bool first = flags % 2, transposed = flags / 2;
          const int64_t most = small ? 70 : 150;
          const int64_t block = b.format.block_cols ? b.format.block_cols : tile ? 2 : 16;
          const Sizes s = {tile || small ? 1 + number % 2 : 1,
                           UpTo(most, first && !tile ? 16 : 1, &random),
                           UpTo(std::max(most, block), block, &random),
                           UpTo(small ? 300 : 160, first || tile ? 1 : 16, &random)};
          Call call(a, b, s, static_cast<Dtype>(random() % 3), first, transposed, &random);
          const ScaledDotProblem p = call.Problem();
          if (!route.takes(p)) continue;
          ++taken;
          const cuda::Status status = RunWith(route.run, p);
          Check(status == nullptr, "%s: %s: %s", route.name, call.name.c_str(), status);
          call.Check(route.name);
        }
      }
    }
    Check(taken * kEvery >= 100, "%s: took %d calls only", route.name, taken);
  }
}

// The warpgroups' kernel, with several tiles a block.
void TestWgmma() {
  Random random(5);
  int number = 0;
  for (const Spec& b : CodedSpecs()) {
    const bool fp4 =
        b.format.element == Element::kE2M1 && b.format.scale_type != ScaleType::kFloat32;
    for (const Dtype dtype : {Dtype::kF32, Dtype::kBF16, Dtype::kF16}) {
      for (int flags = 0; flags < 4; ++flags) {
        if (++number % kEvery != 0) continue;
        simt::descending = number % 2 == 0;
        const bool first = flags % 2, transposed = flags / 2;
        const Sizes s = {1 + number % 2, UpTo(280, first ? 8 : transposed ? 2 : 1, &random),
                         UpTo(640, b.format.block_cols == 48 ? 48 : 128, &random),
                         UpTo(700, 128, &random)};
        Call call(kFloats[1], b, s, dtype, first, transposed, &random);
        const ScaledDotProblem p = call.Problem();
        Check(cuda::WgmmaTransposedTakes(p) == fp4, "%s: takes", call.name.c_str());
        if (!fp4) continue;
        Check(RunWith(cuda::RunWgmmaTransposed, p) == nullptr, "%s fails", call.name.c_str());
        call.Check("transposed wgmma");
      }
    }
  }
}

// What is wrong in one row of codes, or of lhs, reaches what it is multiplied by, and nothing else.
void TestSpecials() {
  Random random(2);
  for (const cuda::Route& route : cuda::kRoutes) {
    if (!route.transposed) continue;
    for (const Spec& b : CodedSpecs()) {
      if (b.format.block_rows != 1 || b.format.block_cols == 0) continue;
      for (const bool first : {false, true}) {
        const int64_t block = b.format.block_cols, cols = 256, depth = 128, blocks = cols / block;
        if (cols % block != 0) continue;
        Call call(kFloats[1], b, {1, 48, cols, depth}, Dtype::kF32, first, false, &random);
        const ScaledDotProblem p = call.Problem();
        if (!route.takes(p)) continue;
        const int64_t scale = 7 * blocks + 1;  // the second block of row 7
        const float nan = NAN;
        const uint16_t infinity = 0x7f80;
        if (b.format.scale_type == ScaleType::kFloat32) {
          std::memcpy(call.rhs.scale->data + 4 * scale, &nan, 4);
        } else {
          call.rhs.scale->data[scale] = b.format.scale_type == ScaleType::kE4M3 ? 0x7f : 0xff;
        }
        const int64_t at = first ? 3 * 48 + 5 : 5 * depth + 3;  // row 5 of the result, depth 3
        std::memcpy(call.lhs.data->data + 2 * at, &infinity, 2);
        Check(RunWith(route.run, p) == nullptr, "%s fails", route.name);
        for (int64_t i = 0; i < 48 * cols; ++i) {
          const bool is_nan = i % cols / block == 1, infinite = i / cols == 5;
          const double y = call.Out(0, i / cols, i % cols);
          Check(is_nan ? std::isnan(y) : infinite ? !std::isfinite(y) : std::isfinite(y),
                "%s: %s: out[%ld, %ld] is %g", route.name, call.name.c_str(),
                static_cast<long>(i / cols), static_cast<long>(i % cols), y);
        }
      }
    }
  }
}

// Scales that broadcast over some of the contracted axes: offsets of every row.
void TestOffsets() {
  Random random(3);
  for (const cuda::Route& route : cuda::kRoutes) {
    if (!route.transposed) continue;
    for (const Spec& b : CodedSpecs()) {
      if (b.format.block_rows > 1) continue;
      // Rows are [32, 3, 4] with scales of [32, 1, 4]; of a tensor, [32, 1, 1].
      constexpr int64_t kDepth = 384;
      Call call(kFloats[1], b, {1, 33, 384, kDepth}, Dtype::kF32, false, false, &random);
      if (call.rhs.ScaleRows() == 1) call.rhs.scale = std::make_unique<Memory>(kDepth * 4);
      for (int64_t n = 0; n < kDepth; ++n) {
        const int64_t row = n / 12 * 4 + (b.format.block_rows ? n % 4 : 0);
        call.table[static_cast<size_t>(n)] = row * call.rhs.ScaleCols();
      }
      if (b.format.block_rows == 0) {
        for (int i = 0; i < kDepth; ++i) {
          const float s = 0.5f + static_cast<float>(i);
          std::memcpy(call.rhs.scale->data + 4 * i, &s, 4);
        }
      }
      ScaledDotProblem p = call.Problem();
      p.rhs.scale_row_stride = 0;
      // The same scales written out.
      const int64_t bytes = b.format.scale_type == ScaleType::kFloat32 ? 4 : 1;
      const int64_t row_bytes = call.rhs.ScaleCols() * bytes;
      Memory spread(kDepth * row_bytes), expected(static_cast<int64_t>(call.out.size));
      std::vector<int64_t> plain;
      for (int64_t n = 0; n < kDepth; ++n) {
        std::memcpy(spread.data + n * row_bytes,
                    call.rhs.scale->data + call.table[static_cast<size_t>(n)] * bytes,
                    static_cast<size_t>(row_bytes));
        plain.push_back(n * call.rhs.ScaleCols());
      }
      ScaledDotProblem same = p;
      same.rhs.scale = spread.data;
      same.rhs.scale_offset = plain.data();
      same.out = expected.data;
      if (!route.takes(p)) continue;
      Check(RunWith(route.run, p) == nullptr && RunWith(route.run, same) == nullptr, "%s fails",
            route.name);
      Check(std::memcmp(expected.data, call.out.data, expected.size) == 0,
            "%s: %s: broadcast scales", route.name, call.name.c_str());
    }
  }
}

void TestRoutes() {
  Random random(4);
  const auto route = [&](int64_t rows, int64_t cols, int64_t depth, bool first,
                         int architecture = 80) {
    Call call(kFloats[1], CodedSpecs()[0], {1, 1, 16, 1}, Dtype::kF32, first, false, &random);
    ScaledDotProblem p = call.Problem();
    p.rows = rows, p.cols = cols, p.depth = depth;
    return std::string(cuda::FindRoute(p, architecture, 108)->name);
  };
  Check(route(4096, 4096, 64, false, 90) == "transposed large", "too little depth for warpgroups");
  Check(route(4096, 4096, 256, true, 90) == "transposed wgmma", "many rows on Hopper");
  Check(route(4096, 4096, 256, true) == "transposed large", "many rows");
  Check(route(4096, 4096, 33, true) == "transposed large", "any depth if both have it first");
  Check(route(4096, 4096, 33, false) == "transposed tile", "a depth of no whole units");
  Check(route(20, 4096, 64, false) == "transposed small", "few rows");
  Check(route(20, 4096, 64, true) == "transposed tile", "rows of no whole units");
}

void TestSharedMemory() {
  constexpr int kMost = 99 * 1024;
  for (const int bytes : {cuda::SmallTransposed::Shape<1, false>::kSharedBytes,
                          cuda::SmallTransposed::Shape<3, false>::kSharedBytes,
                          cuda::SmallTransposed::Shape<3, true>::kSharedBytes,
                          cuda::LargeTransposed::Shape<1, false>::kSharedBytes,
                          cuda::LargeTransposed::Shape<3, false>::kSharedBytes,
                          cuda::LargeTransposed::Shape<3, true>::kSharedBytes}) {
    Check(bytes <= kMost, "a kernel wants %d bytes of shared memory", bytes);
  }
}

void TestAll() {
  const ScopedFlushToZero flush;
  TestSharedMemory();
  TestRoutes();
  TestSpecials();
  TestOffsets();
  TestWgmma();
  TestKernels();
}

}  // namespace
}  // namespace jaxfp4

int main() {
  jaxfp4::TestAll();
  return jaxfp4::Finish("cuda_transposed_test");
}
