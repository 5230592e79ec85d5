// scaled_dot by cuBLASLt: which calls it is asked for, and what it is given, by a cuBLASLt that
// computes on the host from the descriptors and scales that it gets.
#include "cc/test/cuda_dot_kernels.h"

#include <thread>

#include "cc/cpu/parallel.h"
#include "cc/test/cuda_cublaslt_fake.h"
#include "cc/test/cuda_dot_cases.h"

namespace jaxfp4 {
namespace {

// As jaxfp4/ops/_cublaslt.py asks for it, but with less for the library.
constexpr int64_t kLibraryBytes = 4096;
int64_t ArrangedBytes(const Operand& x) {
  const BlockFormat& f = x.spec.format;
  const bool wide = f.scale_type == ScaleType::kFloat32;
  const int64_t rows = wide && f.block_rows ? cuda::CeilDiv(x.rows, f.block_rows) : x.rows;
  return fake::Up(rows, 128) * fake::Up(x.ScaleCols(), 4) * (wide ? 4 : 1);
}
int64_t ScratchBytes(const Operand& lhs, const Operand& rhs) {
  return fake::Up(4 * (lhs.batch + 1), 256) + fake::Up(lhs.batch * ArrangedBytes(lhs), 256) +
         fake::Up(rhs.batch * ArrangedBytes(rhs), 256) + kLibraryBytes;
}

// Aligned as XLA's memory is, with a guard behind it.
struct Scratch {
  explicit Scratch(int64_t size)
      : bytes(size), memory(static_cast<size_t>(size) + 512, 0xee) {
    while (reinterpret_cast<uintptr_t>(memory.data() + skip) % 256 != 0) ++skip;
  }
  void* Data() { return memory.data() + skip; }
  bool IsGuardWhole() const {
    const size_t end = skip + static_cast<size_t>(bytes);
    return std::all_of(memory.begin() + static_cast<int64_t>(end), memory.end(),
                       [](unsigned char c) { return c == 0xee; });
  }
  int64_t bytes;
  std::vector<unsigned char> memory;
  size_t skip = 0;
};

struct Case {
  Operand lhs, rhs;
  Memory out;
  Scratch scratch;
  Dtype dtype;
  std::vector<int64_t> table;

  Case(const Spec& a, const Spec& b, int64_t batch, int64_t rows, int64_t cols, int64_t depth,
       Dtype out_dtype, Random* random)
      : lhs(Make(a, batch, rows, depth, random)),
        rhs(Make(b, batch, cols, depth, random)),
        out(batch * rows * cols * cuda::SizeOf(out_dtype)),
        scratch(ScratchBytes(lhs, rhs)),
        dtype(out_dtype) {}

  ScaledDotProblem Problem() {
    ScaledDotProblem p = ProblemOf(lhs, rhs, dtype, out.data);
    p.scratch = scratch.Data();
    p.scratch_bytes = scratch.bytes;
    return p;
  }
  // The same, with an offset for each row of lhs, as calls have it.
  ScaledDotProblem ProblemByRows() {
    ScaledDotProblem p = Problem();
    if (!lhs.spec.coded || lhs.spec.format.block_rows > 1) return p;
    table.clear();
    for (int64_t i = 0; i < lhs.batch * lhs.rows; ++i) {
      table.push_back(lhs.offsets[static_cast<size_t>(i / lhs.rows)] +
                      i % lhs.rows * p.lhs.scale_row_stride);
    }
    p.lhs.rows_per_offset = 1;
    p.lhs.scale_offset = table.data();
    p.lhs.scale_row_stride = 0;
    return p;
  }
};

constexpr int kAda = 89, kHopper = 90, kBlackwell = 100, kGeForce = 120;

std::string RouteOf(const ScaledDotProblem& p, int architecture) {
  return cuda::FindRoute(p, architecture, 2)->name;
}

// What cuBLASLt can serve, in words of its documentation.
std::string Expected(const Spec& a, const Spec& b) {
  const auto name = [](const Spec& s) { return s.name; };
  const auto starts = [&](const Spec& s, const char* word) { return name(s).rfind(word, 0) == 0; };
  const bool two_e5m2 = a.coded && b.coded && a.format.element == Element::kE5M2 &&
                        b.format.element == Element::kE5M2;
  if (!a.coded || two_e5m2) return "";
  if (starts(a, "nvfp4") && starts(b, "nvfp4")) return "cublaslt micro";
  if (starts(a, "mxfp8") && starts(b, "mxfp8")) return "cublaslt micro";
  const auto is = [&](const Spec& s, const char* word) { return name(s) == word; };
  const auto whole = [&](const Spec& s) { return is(s, "fp8 tensor") || is(s, "fp8 channel"); };
  if (whole(a) && whole(b)) {
    return is(a, "fp8 tensor") && is(b, "fp8 tensor") ? "cublaslt tensors" : "cublaslt rows";
  }
  const auto blocks = [&](const Spec& s) { return is(s, "fp8 1x128") || is(s, "fp8 128x128"); };
  return blocks(a) && blocks(b) && !(is(a, "fp8 128x128") && is(b, "fp8 128x128")) ? "cublaslt 128"
                                                                                  : "";
}

std::vector<Spec> Specs() {
  std::vector<Spec> specs = LhsSpecs();
  specs.push_back({"fp8 channel", true, Dtype::kF32,
                   {Element::kE4M3, ScaleType::kFloat32, 1, 0}});
  return specs;
}

// Every pair of formats: served by the route that it should be, and right.
void TestPairs() {
  Random random(1);
  int number = 0, served = 0;
  for (const Spec& a : Specs()) {
    for (const Spec& b : Specs()) {
      if (!b.coded) continue;
      simt::descending = ++number % 2 == 0;
      const int64_t unit = fake::Up(Unit(a, b), 32), batch = 1 + number % 2;
      const int64_t rows = 4 * (17 + random() % 20), cols = 16 * (1 + random() % 20);
      const int64_t depth = unit * (1 + random() % (1 + 600 / unit));
      const auto dtype = static_cast<Dtype>(random() % 3);
      Case c(a, b, batch, rows, cols, depth, dtype, &random);
      const ScaledDotProblem p = number % 3 ? c.ProblemByRows() : c.Problem();
      const std::string expected = Expected(a, b), name = NameOf(c.lhs, c.rhs, "cublaslt");
      std::string found;
      for (const int architecture : {kAda, kHopper, kBlackwell, kGeForce}) {
        const std::string route = RouteOf(p, architecture);
        if (route.rfind("cublaslt", 0) == 0) found = route;
      }
      Check(found == expected, "%s: route '%s', expected '%s'", name.c_str(), found.c_str(),
            expected.c_str());
      if (expected.empty() || found != expected) continue;
      Check(RunWith(cuda::RunCublaslt, p) == nullptr, "%s fails", name.c_str());
      CheckOutputs(c.lhs, c.rhs, dtype, c.out, name);
      Check(c.scratch.IsGuardWhole(), "%s: writes beyond the scratch memory", name.c_str());
      ++served;
    }
  }
  Check(served == 18, "%d pairs were served", served);
  Check(fake::descriptors == 0, "%d descriptors are left", fake::descriptors);
}

Spec Named(const char* name) {
  for (const Spec& s : Specs()) {
    if (s.name == name) return s;
  }
  std::abort();
}

// One scale a row where the format has one a tensor: a batch that became rows.
void TestBroadcastTensors() {
  Random random(2);
  const Spec tensor = Named("fp8 tensor");
  Case c(tensor, tensor, 1, 72, 32, 64, Dtype::kF32, &random);
  ScaledDotProblem p = c.ProblemByRows();
  Check(RouteOf(p, kHopper) == "cublaslt tensors", "one scale for all rows");
  std::vector<float> scales = {0.5f, 2.0f};
  p.lhs.scale = scales.data();
  for (size_t i = 0; i < c.table.size(); ++i) c.table[i] = i < 36 ? 0 : 1;
  Check(RouteOf(p, kHopper) == "cublaslt rows", "two scales among the rows");
  Check(RouteOf(p, kAda) == "mma small", "which Ada does not serve");
  float was;
  std::memcpy(&was, c.lhs.scale->data, 4);
  for (size_t i = 0; i < c.lhs.values.size(); ++i) {
    c.lhs.values[i] *= static_cast<double>(scales[i / 64 < 36 ? 0 : 1]) / static_cast<double>(was);
  }
  Check(RunWith(cuda::RunCublaslt, p) == nullptr, "fails");
  CheckOutputs(c.lhs, c.rhs, Dtype::kF32, c.out, "broadcast tensors");
}

// What keeps calls from cuBLASLt.
void TestOthers() {
  Random random(3);
  const auto route = [&](const char* a, const char* b, int64_t rows, int64_t cols, int64_t depth,
                         int architecture, const auto& change) {
    Case c(Named(a), Named(b), 2, rows, cols, depth, Dtype::kBF16, &random);
    ScaledDotProblem p = c.Problem();
    change(&p);
    const std::string name = RouteOf(p, architecture);
    return name.rfind("cublaslt", 0) == 0;
  };
  const auto as_is = [](ScaledDotProblem*) {};
  const char *nvfp4 = "nvfp4", *tensor = "fp8 tensor", *row = "fp8 1x128", *block = "fp8 128x128";
  Check(route(nvfp4, nvfp4, 65, 48, 96, kBlackwell, as_is), "NVFP4 on Blackwell");
  Check(route(nvfp4, nvfp4, 65, 48, 96, kGeForce, as_is), "NVFP4 on GeForce");
  Check(!route(nvfp4, nvfp4, 65, 48, 96, kHopper, as_is), "NVFP4 on Hopper");
  Check(!route(nvfp4, nvfp4, 64, 48, 96, kBlackwell, as_is), "few rows");
  Check(!route(nvfp4, nvfp4, 65, 40, 96, kBlackwell, as_is), "40 columns");
  Check(!route(nvfp4, nvfp4, 65, 48, 80, kBlackwell, as_is), "rows of 40 bytes");
  Check(route(tensor, tensor, 65, 48, 80, kAda, as_is), "rows of 80 bytes");
  Check(!route(row, block, 68, 48, 128, kAda, as_is), "blocks on Ada");
  Check(!route(row, block, 68, 48, 128, kBlackwell, as_is), "blocks on Blackwell");
  Check(route(row, block, 68, 48, 128, kHopper, as_is), "blocks on Hopper");
  Check(!route(row, block, 70, 48, 128, kHopper, as_is), "70 rows of blocks");
  const auto not_if = [&](const char* what, const auto& change) {
    Check(route(tensor, tensor, 65, 48, 80, kHopper, as_is), "65 x 48 x 80");
    Check(!route(tensor, tensor, 65, 48, 80, kHopper, change), "%s", what);
  };
  not_if("exact", [](ScaledDotProblem* p) { p->exact = true; });
  not_if("no scratch memory", [](ScaledDotProblem* p) { p->scratch_bytes = 0; });
  constexpr int64_t kOurs = 3 * 256;  // factors, and a scale for each operand
  not_if("too little", [](ScaledDotProblem* p) { p->scratch_bytes = kOurs - 1; });
  not_if("too little for the library", [](ScaledDotProblem* p) {
    p->scratch_bytes = kOurs + static_cast<int64_t>(fake::kWorkspace) - 1;
  });
  not_if("a global scale for each row", [](ScaledDotProblem* p) {
    p->lhs.global_count = p->batch * p->rows;
  });
  not_if("another layout", [](ScaledDotProblem* p) { p->rhs_layout = Layout::kInterleaved16; });
  not_if("unaligned", [](ScaledDotProblem* p) { p->out = static_cast<char*>(p->out) + 2; });
}

// Without a library, with one that has no algorithm, or is too old: the next route.
void TestNext() {
  Random random(4);
  const auto routes = [&](int64_t depth) {
    Case c(Named("mxfp8 e4m3"), Named("mxfp8 e5m2"), 1, 130, 64, depth, Dtype::kF32, &random);
    const ScaledDotProblem p = c.Problem();
    return RouteOf(p, kBlackwell);
  };
  fake::present = false;
  Check(routes(64) == "mma large", "no library");
  fake::present = true;
  Check(routes(64) == "cublaslt micro", "a library that is there");
  fake::has_algorithms = false;
  Check(routes(96) == "mma large", "no algorithm");
  fake::has_algorithms = true;
  Check(routes(96) == "mma large", "no algorithm was found once");
  fake::knows_scale_modes = false;
  Check(routes(128) == "mma large", "an old library");
  fake::knows_scale_modes = true;
}

// A call of a kind is asked for once on each device, whatever the threads.
void TestAsksOnce() {
  Random random(5);
  Case c(Named("fp8 tensor"), Named("fp8 tensor"), 1, 100, 32, 48, Dtype::kF16, &random);
  const ScaledDotProblem p = c.Problem();
  const int handles = fake::handles, heuristics = fake::heuristics, layouts = fake::layouts;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int j = 0; j < 20; ++j) cuda::CublasltTakesTensors(p);
    });
  }
  for (std::thread& t : threads) t.join();
  Check(fake::heuristics == heuristics + 1, "%d heuristics", fake::heuristics - heuristics);
  Check(fake::layouts == layouts + 3, "%d layouts", fake::layouts - layouts);
  simt::device = 1;
  Check(cuda::CublasltTakesTensors(p) && cuda::CublasltTakesTensors(p), "another device");
  simt::device = 0;
  Check(fake::heuristics == heuristics + 2 && fake::handles == handles + 1,
        "another device has its own");
}

// A product that the library refuses goes to the next route, and so do others of its kind.
void TestRefused() {
  Random random(7);
  Case c(Named("nvfp4"), Named("nvfp4"), 2, 70, 48, 64, Dtype::kF32, &random);
  const ScaledDotProblem p = c.Problem();
  const auto run = [&] {
    std::memset(c.out.data, 0xee, c.out.size);
    Check(cuda::ScaledDot(p, nullptr) == nullptr, "a refused product fails");
    CheckOutputs(c.lhs, c.rhs, Dtype::kF32, c.out, "a refused product");
  };
  simt::architecture = kBlackwell;
  const int products = fake::products;
  run();
  Check(fake::products == products + 2, "a product for each entry of the batch");
  fake::refuses = true;
  run();
  fake::refuses = false;
  run();
  Check(fake::products == products + 3, "it is asked again");
  simt::architecture = 80;
}

// Calls are counted by the route that takes them.
void TestCounts() {
  Random random(6);
  Case c(Named("nvfp4"), Named("nvfp4"), 1, 9, 16, 32, Dtype::kF32, &random);
  const auto counted = [](const char* name) {
    for (const cuda::RouteCalls& r : cuda::CallsOfRoutes()) {
      if (std::string(r.name) == name) return r.calls;
    }
    return int64_t{-1};
  };
  const int64_t before = counted("mma small");
  Check(cuda::ScaledDot(c.Problem(), nullptr) == nullptr, "nine rows fail");
  Check(counted("mma small") == before + 1 && counted("gemv") == 0, "a call of nine rows");
}

void TestAll() {
  const ScopedFlushToZero flush;
  TestPairs();
  TestBroadcastTensors();
  TestOthers();
  TestNext();
  TestAsksOnce();
  TestRefused();
  TestCounts();
}

}  // namespace
}  // namespace jaxfp4

int main() {
  jaxfp4::TestAll();
  return jaxfp4::Finish("cuda_cublaslt_test");
}
