// scaled_dot's CUDA kernels, run thread by thread on the host, against float64 products of the
// decoded operands; and the parts they are made of: decoding to pairs of bfloat16, splitting
// floats, fragments.
#include "cc/test/cuda_dot_kernels.h"

#include "cc/cpu/parallel.h"
#include "cc/test/cuda_dot_cases.h"

namespace jaxfp4 {

// Not here: cuda_cublaslt_test.cc has one.
const cuda::cublaslt::Library* cuda::cublaslt::FindLibrary() { return nullptr; }

namespace {

// Every kernel on every pair of formats that it takes.
void TestKernels() {
  Random random(1);
  int number = 0;
  for (const Spec& a : LhsSpecs()) {
    for (const Spec& b : CodedSpecs()) {
      const int64_t unit = Unit(a, b);
      for (const cuda::Route& route : cuda::kRoutes) {
        if (++number % kEvery != 0) continue;
        simt::descending = number % 2 == 0;
        const int64_t few[] = {1, 2, 3, 5, 8}, more[] = {1, 9, 33, 70};
        const bool gemv = route.run == cuda::RunGemv, large = route.run == cuda::RunLargeMma;
        const int64_t rows = gemv ? few[number % 5] : large ? 1 + random() % 140 : more[number % 4];
        const int64_t cols = 1 + random() % (large ? 140 : 70);
        const int64_t batch = large ? 1 : 1 + random() % 2;
        const int64_t most = large ? 200 : 700;
        const int64_t depth = unit * (1 + random() % std::max<int64_t>(1, most / unit));
        const Operand lhs = Make(a, batch, rows, depth, &random);
        const Operand rhs = Make(b, batch, cols, depth, &random);
        const auto dtype = static_cast<Dtype>(random() % 3);
        Memory out(batch * rows * cols * cuda::SizeOf(dtype));
        const ScaledDotProblem p = ProblemOf(lhs, rhs, dtype, out.data);
        if (!route.takes(p)) continue;
        const std::string name = NameOf(lhs, rhs, route.name);
        const cuda::Status status = RunWith(route.run, p);
        Check(status == nullptr, "%s: %s", name.c_str(), status);
        CheckOutputs(lhs, rhs, dtype, out, name);
      }
    }
  }
}

// The formats of the warpgroups' kernel: lhs like rhs, or bfloat16. A block has several tiles.
void TestWgmma() {
  Random random(10);
  int number = 0;
  for (const Spec& b : CodedSpecs()) {
    for (const Spec& a : {b, Spec{"bfloat16", false, Dtype::kBF16, {}}}) {
      for (const Dtype dtype : {Dtype::kF32, Dtype::kBF16, Dtype::kF16}) {
        if (++number % kEvery != 0) continue;
        simt::descending = number % 2 == 0;
        const int64_t batch = 1 + number % 2, rows = 1 + random() % 280;
        const int64_t cols = 2 * (1 + random() % 260), depth = 128 * (1 + random() % 6);
        const Operand lhs = Make(a, batch, rows, depth, &random);
        const Operand rhs = Make(b, batch, cols, depth, &random);
        Memory out(batch * rows * cols * cuda::SizeOf(dtype));
        const ScaledDotProblem p = ProblemOf(lhs, rhs, dtype, out.data);
        const bool fp4 =
            b.format.element == Element::kE2M1 && b.format.scale_type != ScaleType::kFloat32;
        Check(cuda::WgmmaTakes(p) == fp4, "%s", NameOf(lhs, rhs, "wgmma takes").c_str());
        if (!fp4) continue;
        const std::string name = NameOf(lhs, rhs, "wgmma");
        Check(RunWith(cuda::RunWgmma, p) == nullptr, "%s fails", name.c_str());
        CheckOutputs(lhs, rhs, dtype, out, name);
      }
    }
  }
}

// Pairs of formats for tensor cores that apply block scales.
void TestBlockScaled() {
  Random random(12);
  int number = 0;
  for (const Spec& a : CodedSpecs()) {
    for (const Spec& b : CodedSpecs()) {
      const int64_t unit = Unit(a, b) % 128 == 0 ? Unit(a, b) : Unit(a, b) * 128;
      const bool takes = AreForBlockScaling(a, b);
      if (++number % kEvery != 0) continue;
      simt::descending = number % 2 == 0;
      const auto dtype = static_cast<Dtype>(random() % 3);
      const int64_t batch = 1 + number % 2, rows = 1 + random() % 200, cols = 1 + random() % 200;
      const int64_t depth = takes ? 128 * (1 + random() % 9) : unit;
      const Operand lhs = Make(a, batch, takes ? rows : 1, depth, &random);
      const Operand rhs = Make(b, batch, takes ? cols : 1, depth, &random);
      Memory out(batch * rows * cols * cuda::SizeOf(dtype));
      const ScaledDotProblem p = ProblemOf(lhs, rhs, dtype, out.data);
      const std::string name = NameOf(lhs, rhs, "block scaled");
      Check(cuda::BlockScaledTakes(p) == takes, "%s: takes", name.c_str());
      if (!takes) continue;
      Check(RunWith(cuda::RunBlockScaled, p) == nullptr, "%s fails", name.c_str());
      CheckOutputs(lhs, rhs, dtype, out, name);
    }
  }
}

// Depths that fill no unit go to the kernel for anything.
void TestOddDepths() {
  Random random(2);
  for (const Spec& a : LhsSpecs()) {
    if (a.coded && a.format.block_cols) continue;
    for (const Spec& b : CodedSpecs()) {
      if (b.format.block_cols) continue;
      for (const int64_t depth : {1, 7, 37}) {
        const Operand lhs = Make(a, 2, 3, depth, &random), rhs = Make(b, 2, 5, depth, &random);
        Memory out(2 * 3 * 5 * 4);
        const ScaledDotProblem p = ProblemOf(lhs, rhs, Dtype::kF32, out.data);
        Check(cuda::FindRoute(p, 90, 132)->run == cuda::RunTile,
              "odd depths take the wrong kernel");
        Check(cuda::ScaledDot(p, nullptr) == nullptr, "odd depths fail");
        CheckOutputs(lhs, rhs, Dtype::kF32, out, NameOf(lhs, rhs, "odd depth"));
      }
    }
  }
}

// The interleaved layout gives the bits of the logical one.
void TestInterleaved() {
  Random random(3);
  for (const Spec& b : CodedSpecs()) {
    if (b.format.element != Element::kE2M1 || b.format.scale_type == ScaleType::kFloat32) continue;
    for (const cuda::Route& route : cuda::kRoutes) {
      const int64_t depth = 96, rows = route.run == cuda::RunGemv ? 3 : 12, cols = 48;
      const Operand lhs = Make({"bfloat16", false, Dtype::kBF16, {}}, 2, rows, depth, &random);
      const Operand rhs = Make(b, 2, cols, depth, &random);
      Memory data(static_cast<int64_t>(rhs.data->size)),
          scale(static_cast<int64_t>(rhs.scale->size));
      const int64_t row_bytes = depth / 2, scale_cols = rhs.ScaleCols();
      for (int64_t r = 0; r < 2 * cols; ++r) {
        for (int64_t c = 0; c < row_bytes; ++c) {
          data.data[r / 16 * 16 * row_bytes + c / 4 * 64 + r % 16 * 4 + c % 4] =
              rhs.data->data[r * row_bytes + c];
        }
        for (int64_t c = 0; b.format.block_rows == 1 && c < scale_cols; ++c) {
          scale.data[(r / 16 * scale_cols + c) * 16 + r % 16] = rhs.scale->data[r * scale_cols + c];
        }
      }
      Memory expected(2 * rows * cols * 4), got(2 * rows * cols * 4);
      ScaledDotProblem p = ProblemOf(lhs, rhs, Dtype::kF32, expected.data);
      if (!route.takes(p)) continue;
      Check(RunWith(route.run, p) == nullptr, "%s fails", route.name);
      p.rhs.data = data.data;
      if (b.format.block_rows == 1) p.rhs.scale = scale.data;
      p.rhs_layout = Layout::kInterleaved16;
      p.out = got.data;
      Check(RunWith(route.run, p) == nullptr, "%s fails on interleaved rows", route.name);
      CheckOutputs(lhs, rhs, Dtype::kF32, got, std::string("interleaved ") + route.name);
      Check(std::memcmp(got.data, expected.data, got.size) == 0, "%s: layouts differ", route.name);
    }
  }
}

// A row's outputs do not depend on the rows around it, within one kernel.
void TestRowsAlone() {
  Random random(4);
  const Spec w = CodedSpecs()[0];
  for (const Spec& a : {Spec{"bfloat16", false, Dtype::kBF16, {}}, w}) {
    for (const cuda::Route& route : cuda::kRoutes) {
      const int64_t rows = route.run == cuda::RunGemv ? 8 : 40, cols = 20, depth = 640;
      const Operand lhs = Make(a, 1, rows, depth, &random), rhs = Make(w, 1, cols, depth, &random);
      Memory all(rows * cols * 4), part(cols * 4);
      ScaledDotProblem p = ProblemOf(lhs, rhs, Dtype::kF32, all.data);
      if (!route.takes(p)) continue;
      Check(RunWith(route.run, p) == nullptr, "%s fails", route.name);
      p.rows = p.lhs.rows_per_offset = 1;
      p.out = part.data;
      Check(RunWith(route.run, p) == nullptr, "%s fails", route.name);
      Check(std::memcmp(all.data, part.data, part.size) == 0, "%s: other rows matter", route.name);
    }
  }
}

// One NaN or infinity of either operand reaches its row or column, and nothing else.
void TestSpecials() {
  Random random(5);
  for (const Spec& b : CodedSpecs()) {
    if (oracle::TypeOf(b.format.element).bits != 8) continue;
    for (const cuda::Route& route : cuda::kRoutes) {
      const int64_t rows = 6, cols = 9, depth = 128;
      for (const int lhs_dtype : {0, 1, 2}) {
        Operand lhs =
            Make({"floats", false, static_cast<Dtype>(lhs_dtype), {}}, 1, rows, depth, &random);
        Operand rhs = Make(b, 1, cols, depth, &random);
        rhs.data->data[4 * depth + 77] = 0x7f;
        if (lhs_dtype == 0) {
          const float infinity = INFINITY;
          std::memcpy(lhs.data->data + 4 * (2 * depth + 5), &infinity, 4);
        } else {
          const uint16_t infinity = lhs_dtype == 1 ? 0x7f80 : 0x7c00;
          std::memcpy(lhs.data->data + 2 * (2 * depth + 5), &infinity, 2);
        }
        for (int64_t n = 0; n < cols; ++n) rhs.data->data[n * depth + 5] = n == 4 ? 0x7f : 0x30;
        Memory out(rows * cols * 4);
        ScaledDotProblem p = ProblemOf(lhs, rhs, Dtype::kF32, out.data);
        if (!route.takes(p)) continue;
        Check(RunWith(route.run, p) == nullptr, "%s fails", route.name);
        for (int64_t i = 0; i < rows * cols; ++i) {
          const double y = OutputAt(Dtype::kF32, out, i);
          const bool nan = i % cols == 4, infinite = i / cols == 2;
          Check(nan        ? std::isnan(y)
                : infinite ? y == INFINITY
                           : std::isfinite(y),
                "%s, %s, dtype %d: out[%ld, %ld] is %g", route.name, b.name.c_str(), lhs_dtype,
                static_cast<long>(i / cols), static_cast<long>(i % cols), y);
        }
      }
    }
  }
}

// Scales of lhs that broadcast over some of its row axes: offsets of every row.
void TestOffsets() {
  Random random(6);
  const Spec fp8 = CodedSpecs()[9];
  Operand lhs = Make(fp8, 1, 12, 256, &random), rhs = Make(CodedSpecs()[0], 1, 24, 256, &random);
  Memory expected(12 * 24 * 4), got(12 * 24 * 4);
  for (const cuda::Route& route : cuda::kRoutes) {
    if (route.run == cuda::RunGemv) continue;
    // Rows are [2, 3, 2], scales [2, 1, 2]: the table, and the same scales written out.
    DotOperand x = lhs.Describe();
    std::vector<int64_t> table;
    std::vector<float> spread;
    const auto* scales = reinterpret_cast<const float*>(lhs.scale->data);
    for (int64_t row = 0; row < 12; ++row) {
      table.push_back((row / 6 * 2 + row % 2) * 2);
      spread.insert(spread.end(), {scales[table.back()], scales[table.back() + 1]});
    }
    ScaledDotProblem p = ProblemOf(lhs, rhs, Dtype::kF32, got.data);
    if (!route.takes(p)) continue;
    p.lhs.rows_per_offset = 1;
    p.lhs.scale_offset = table.data();
    p.lhs.scale_row_stride = 0;
    Check(RunWith(route.run, p) == nullptr, "%s fails", route.name);
    x.scale = spread.data();
    p.lhs = x;
    p.out = expected.data;
    Check(RunWith(route.run, p) == nullptr, "%s fails", route.name);
    Check(std::memcmp(expected.data, got.data, got.size) == 0, "%s: broadcast scales", route.name);
  }
}

void TestRoutes() {
  Random random(7);
  const auto route = [&](const Spec& a, int64_t rows, int64_t cols, int64_t depth,
                         int architecture = 90, bool exact = false) {
    Operand lhs = Make(a, 1, 1, depth, &random), rhs = Make(CodedSpecs()[0], 1, 1, depth, &random);
    ScaledDotProblem p = ProblemOf(lhs, rhs, Dtype::kF32, nullptr);
    p.rows = rows, p.cols = cols, p.exact = exact;
    return std::string(cuda::FindRoute(p, architecture, 132)->name);
  };
  const Spec bf16 = {"bfloat16", false, Dtype::kBF16, {}}, nvfp4 = CodedSpecs()[0];
  Check(route(bf16, 1, 4096, 64) == "gemv", "one row");
  Check(route(nvfp4, 8, 4096, 64) == "gemv", "eight rows");
  Check(route(bf16, 9, 4096, 64) == "mma small", "nine rows");
  Check(route(bf16, 128, 1024, 64) == "mma small", "outputs for few multiprocessors");
  Check(route(nvfp4, 4096, 4096, 64) == "mma large", "many rows");
  Check(route(nvfp4, 4096, 4096, 128) == "wgmma", "many rows, deep enough for warpgroups");
  for (const int architecture : {100, 103}) {
    Check(route(nvfp4, 4096, 4096, 256, architecture) == "tensor", "many rows on sm_100f");
    Check(route(nvfp4, 4096, 4096, 256, architecture, true) == "mma large", "precision");
    Check(route(nvfp4, 4096, 4096, 128, architecture) == "mma large", "half a slab");
    Check(route(bf16, 4096, 4096, 256, architecture) == "mma large", "bfloat16 on sm_100f");
  }
  Check(route(nvfp4, 4096, 4096, 256, 110) == "mma large", "another family");
  Check(route(nvfp4, 4096, 4096, 256, 120) == "block scaled", "many rows on sm_120f");
  const Spec fp8 = CodedSpecs()[9];
  Operand lhs = Make(fp8, 1, 1, 128, &random), mxfp4 = Make(CodedSpecs()[2], 1, 1, 128, &random);
  Operand rhs = Make(fp8, 1, 1, 128, &random);
  for (const int64_t rows : {9, 64, 4096}) {
    ScaledDotProblem p = ProblemOf(lhs, mxfp4, Dtype::kF32, nullptr);
    p.rows = rows, p.cols = 4096;
    Check(std::string(cuda::FindRoute(p, 90, 132)->name) == "fp8 by mxfp4", "fp8 by mxfp4");
    Check(std::string(cuda::FindRoute(p, 100, 148)->name) != "fp8 by mxfp4", "on sm_100");
    p.exact = true;
    Check(std::string(cuda::FindRoute(p, 90, 132)->name) != "fp8 by mxfp4", "exact sums");
    p = ProblemOf(lhs, rhs, Dtype::kF32, nullptr);
    p.rows = rows, p.cols = 4096;
    Check(std::string(cuda::FindRoute(p, 90, 132)->name) == "fp8", "fp8");
  }
  ScaledDotProblem p = {};
  p.batch = p.rows = p.cols = p.depth = 1;
  Check(cuda::FindRoute(p, 75, 40) == nullptr, "an old GPU");
}

void TestNoDepth() {
  Memory out(6 * 4);
  ScaledDotProblem p = {};
  p.batch = 1, p.rows = 2, p.cols = 3;
  p.out = out.data;
  Check(cuda::ScaledDot(p, nullptr) == nullptr, "depth 0 fails");
  for (int64_t i = 0; i < 6; ++i) Check(OutputAt(Dtype::kF32, out, i) == 0, "depth 0 is not 0");
}

// ---- parts

float LowHalf(uint32_t pair) { return FromBF16<ScalarLanes>(pair & 0xffffu); }
float HighHalf(uint32_t pair) { return FromBF16<ScalarLanes>(pair >> 16); }

// Every code under every one-byte scale, exactly as the codec decodes them.
template <class E>
void TestDecode() {
  Random random(8);
  for (const ScaleType type : {ScaleType::kFloat32, ScaleType::kE4M3, ScaleType::kE8M0}) {
    for (uint32_t scale = 0; scale < (type == ScaleType::kFloat32 ? 1 : 256); ++scale) {
      for (uint32_t first = 0; first < (1u << E::kBits); first += 16) {
        uint32_t words[4] = {}, pairs[cuda::kPairs];
        float floats[cuda::kUnit];
        for (uint32_t i = 0; i < 16; ++i) {
          cuda::PutCode<E::kBits>((first + i) & ((1u << E::kBits) - 1), static_cast<int>(i), words);
        }
        cuda::DecodePairs<E>(type, words, scale, pairs);
        const float power = cuda::DecodeFloats<E>(words, floats);
        for (int i = 0; i < 16; ++i) {
          const float value =
              Decode<E, ScalarLanes>((first + static_cast<uint32_t>(i)) & ((1u << E::kBits) - 1));
          float decode = 1, decode2 = 1;
          if (type != ScaleType::kFloat32) cuda::DecodeScale(type, scale, &decode, &decode2);
          const float expected = (value * decode) * decode2;
          const int pair = i / 8 * 4 + i % 4;
          float got = i % 8 < 4 ? LowHalf(pairs[pair]) : HighHalf(pairs[pair]);
          if (std::fabs(got) < 1.1754944e-38f) got = std::copysign(0.0f, got);  // as float32 has it
          Check(std::isnan(expected) ? std::isnan(got)
                                     : oracle::BitsOf(got) == oracle::BitsOf(expected),
                "%d-bit code %u, scale type %d code %u: %a, expected %a", E::kBits,
                first + static_cast<uint32_t>(i), static_cast<int>(type), scale, got, expected);
          const float unscaled = floats[i] * power;
          Check(std::isnan(value) ? std::isnan(unscaled)
                                  : oracle::BitsOf(unscaled) == oracle::BitsOf(value),
                "%d-bit code %u as float: %a", E::kBits, first + static_cast<uint32_t>(i),
                unscaled);
        }
      }
    }
  }
}

// Every code of e2m1 under every scale, decoded in pairs for warpgroups.
template <ScaleType kType>
void TestWgmmaDecode() {
  using Parts = cuda::WgmmaParts<kType, true>;
  for (uint32_t scale = 0; scale < 256; ++scale) {
    const uint32_t factor = Parts::Scale::Factors(scale, scale);
    float decode = 1, decode2 = 1;
    cuda::DecodeScale(kType, scale, &decode, &decode2);
    const auto check = [&](uint32_t code, float got) {
      got *= static_cast<float>(1 << Parts::Scale::kOutputPower);
      if (std::fabs(got) < 1.1754944e-38f) got = std::copysign(0.0f, got);
      const float expected = (Decode<E2M1, ScalarLanes>(code) * decode) * decode2;
      Check(std::isnan(expected) ? std::isnan(got)
                                 : oracle::BitsOf(got) == oracle::BitsOf(expected),
            "e2m1 code %u, scale type %d code %u: %a, expected %a", code,
            static_cast<int>(kType), scale, got, expected);
    };
    for (const uint32_t sign : {0u, 8u}) {
      const uint32_t word = 0x76543210u | sign * 0x11111111u;
      for (uint32_t i = 0; i < 4; ++i) {
        const uint32_t neighbours = Parts::DecodeNeighbours(word, i, factor);
        check(sign + 2 * i, LowHalf(neighbours));
        check(sign + 2 * i + 1, HighHalf(neighbours));
        const uint32_t pair = Parts::DecodePair(word, static_cast<int>(i), factor);
        check(sign + i, LowHalf(pair));
        check(sign + i + 4, HighHalf(pair));
      }
    }
  }
}

// The terms of a float add up to it.
void TestSplit() {
  Random random(9);
  for (int round = 0; round < 3000; ++round) {
    uint32_t words[16], pairs[3][cuda::kPairs];
    for (uint32_t& w : words) w = (random() & 0x807fffffu) | (64 + random() % 128) << 23;
    words[3] = 0x7f800000u, words[9] = 0xff800001u;
    cuda::SplitFloats<3>(Dtype::kF32, words, pairs);
    for (int i = 0; i < 16; ++i) {
      const int pair = i / 8 * 4 + i % 4;
      float sum = 0;
      for (int t = 2; t >= 0; --t) {
        sum += i % 8 < 4 ? LowHalf(pairs[t][pair]) : HighHalf(pairs[t][pair]);
      }
      const float x = oracle::FloatOf(words[i]);
      Check(std::isnan(x) ? std::isnan(sum) : sum == x, "three terms of %a make %a", x, sum);
    }
  }
  for (uint32_t half = 0; half < 0x7c00u; half += 16) {
    uint32_t words[8], pairs[2][cuda::kPairs];
    for (uint32_t i = 0; i < 8; ++i) words[i] = (half + 2 * i) | (half + 2 * i + 1) << 16;
    cuda::SplitFloats<2>(Dtype::kF16, words, pairs);
    for (int i = 0; i < 16; ++i) {
      const int pair = i / 8 * 4 + i % 4;
      const float high = i % 8 < 4 ? LowHalf(pairs[0][pair]) : HighHalf(pairs[0][pair]);
      const float low = i % 8 < 4 ? LowHalf(pairs[1][pair]) : HighHalf(pairs[1][pair]);
      const float x = FromF16<ScalarLanes>(half + static_cast<uint32_t>(i));
      Check(high + low == x, "two terms of %a make %a", x, high + low);
    }
  }
}

// The kernels' fragments, put together by ldmatrix and mma as the PTX ISA describes them, multiply
// a 16 x 32 matrix by the transpose of another.
struct FragmentArgs {
  const uint16_t* a;
  const uint16_t* b;
  float* c;
};
void FragmentKernel(const FragmentArgs args) {
  using Shape = cuda::MmaShape<1, 16, 16, 32, 1, 1, 1>;
  auto* buffer = static_cast<unsigned char*>(cuda::DynamicShared());
  if (threadIdx.x == 0) {
    for (int row = 0; row < 32; ++row) {
      const uint16_t* source = row < 16 ? args.a + row * 32 : args.b + (row - 16) * 32;
      std::memcpy(buffer + row * Shape::Lhs::kStride, source, 64);
    }
  }
  __syncthreads();
  cuda::WarpTile<Shape> tile;
  tile.Multiply(buffer);
  for (int n = 0; n < 2; ++n) {
    for (int i = 0; i < 4; ++i) {
      args.c[tile.RowOfSum(0, i) * 16 + tile.ColOfSum(n, i)] = tile.sum[0][n][i];
    }
  }
}
void TestFragments() {
  uint16_t a[512], b[512];
  float c[256];
  for (uint32_t i = 0; i < 512; ++i) {
    a[i] = static_cast<uint16_t>(ToBF16<ScalarLanes>(static_cast<float>(i * 7 % 31)));
    b[i] = static_cast<uint16_t>(ToBF16<ScalarLanes>(static_cast<float>(i * 11 % 29)));
  }
  Check(cuda::Launch(FragmentKernel, {1, 1, 1, 32, 0}, nullptr, FragmentArgs{a, b, c}) == nullptr,
        "the fragments' launch fails");
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t sum = 0;
    for (uint32_t k = 0; k < 32; ++k) {
      sum += (i / 16 * 32 + k) * 7 % 31 * ((i % 16 * 32 + k) * 11 % 29);
    }
    Check(c[i] == static_cast<float>(sum), "fragments: element %u is %g, expected %u", i, c[i],
          sum);
  }
}

// Shared memory within what a block may have on the smallest of the GPUs, sm_86 and sm_120.
void TestSharedMemory() {
  constexpr int kMost = 99 * 1024;
  constexpr int kMostOnHopper = 227 * 1024;
  Check(cuda::WgmmaShape::kSharedBytes <= kMostOnHopper, "the warpgroups' kernel wants %d bytes",
        cuda::WgmmaShape::kSharedBytes);
  using cuda::BlockScaledKind;
  using cuda::BlockScaledParts;
  constexpr Element e2m1 = Element::kE2M1, e4m3 = Element::kE4M3;
  for (const int bytes : {BlockScaledParts<BlockScaledKind::kMxf4Nvf4, e2m1, e2m1>::kSharedBytes,
                          BlockScaledParts<BlockScaledKind::kMxf8f6f4, e4m3, e4m3>::kSharedBytes,
                          cuda::SmallShape<1>::kSharedBytes, cuda::SmallShape<2>::kSharedBytes,
                          cuda::SmallShape<3>::kSharedBytes, cuda::LargeShape<1>::kSharedBytes,
                          cuda::LargeShape<2>::kSharedBytes, cuda::LargeShape<3>::kSharedBytes}) {
    Check(bytes <= kMost, "a kernel wants %d bytes of shared memory", bytes);
  }
}

void TestAll() {
  const ScopedFlushToZero flush;
  TestSharedMemory();
  TestDecode<E2M1>();
  TestDecode<E2M3>();
  TestDecode<E3M2>();
  TestDecode<E4M3>();
  TestDecode<E5M2>();
  TestWgmmaDecode<ScaleType::kE4M3>();
  TestWgmmaDecode<ScaleType::kE8M0>();
  TestSplit();
  TestFragments();
  TestRoutes();
  TestNoDepth();
  TestOddDepths();
  TestInterleaved();
  TestRowsAlone();
  TestSpecials();
  TestOffsets();
  TestWgmma();
  TestBlockScaled();
  TestKernels();
}

}  // namespace
}  // namespace jaxfp4

int main() {
  jaxfp4::TestAll();
  return jaxfp4::Finish("cuda_scaled_dot_test");
}
