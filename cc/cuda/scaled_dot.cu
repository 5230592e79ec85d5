// scaled_dot and scaled_dot_transposed: which kernel serves which operands. The first row of the
// table that takes a call has it.
#include <atomic>
#include <climits>

#include "cc/cuda/dot_describe.h"
#include "cc/cuda/dot_routes.h"

namespace jaxfp4::cuda {
namespace {

struct Route {
  const char* name;
  int least_architecture, most_architecture;
  int64_t least_rows, most_rows;
  int64_t least_outputs_per_multiprocessor;  // rows * columns of one batch entry, times the batch
  bool exact;  // within the bound of docs/numerics.md, known from how it sums
  bool transposed;  // rows of rhs are contracted
  bool (*takes)(const ScaledDotProblem&);
  Status (*run)(const ScaledDotProblem&, DotArgs*, Stream);
};

constexpr int64_t kNoLimit = INT64_MAX;
// With fewer than one large tile for every eight multiprocessors small ones spread better. (By
// counting products and loads; not measured.)
constexpr int64_t kSomeLargeTiles = 128 * 128 / 8;
constexpr int64_t kSomeWgmmaTiles = 256 * 128 / 4;
constexpr int64_t kAnyOutputs = 0;
constexpr int kLater = INT_MAX;

// All formats of lhs and rhs pass through the same kernels, which decode them where they load them;
// kernels of one architecture take the formats that it is fast with.
// clang-format off
constexpr Route kRoutes[] = {
    //                    sm           rows          outputs          exact  transposed operands         kernel
    {"gemv",              80,  kLater, 1, 8,         kAnyOutputs,     true,  false, GemvTakes,              RunGemv},
    {"cublaslt tensors",  89,  kLater, 65, kNoLimit, kAnyOutputs,     false, false, CublasltTakesTensors,   RunCublaslt},
    {"cublaslt rows",     90,  90,     65, kNoLimit, kAnyOutputs,     false, false, CublasltTakesRows,      RunCublaslt},
    {"cublaslt 128",      90,  90,     65, kNoLimit, kAnyOutputs,     false, false, CublasltTakesBlocks128, RunCublaslt},
    {"cublaslt micro",    100, kLater, 65, kNoLimit, kAnyOutputs,     false, false, CublasltTakesMicro,     RunCublaslt},
    {"wgmma",             90,  90,     65, kNoLimit, kSomeWgmmaTiles, true,  false, WgmmaTakes,             RunWgmma},
    {"fp8 by mxfp4",      90,  90,     9, kNoLimit,  kAnyOutputs,     false, false, Fp8ByMxfp4Takes,        RunFp8ByMxfp4},
    {"fp8",               90,  90,     9, kNoLimit,  kAnyOutputs,     false, false, Fp8Takes,               RunFp8},
    {"tensor",            100, 109,    65, kNoLimit, kSomeWgmmaTiles, false, false, TensorTakes,            RunTensor},
    {"block scaled",      120, 129,    65, kNoLimit, kSomeLargeTiles, false, false, BlockScaledTakes,       RunBlockScaled},
    {"mma large",         80,  kLater, 65, kNoLimit, kSomeLargeTiles, true,  false, LargeMmaTakes,          RunLargeMma},
    {"mma small",         80,  kLater, 1, kNoLimit,  kAnyOutputs,     true,  false, SmallMmaTakes,          RunSmallMma},
    {"tile",              80,  kLater, 1, kNoLimit,  kAnyOutputs,     true,  false, TileTakes,              RunTile},
    {"transposed wgmma",  90,  90,     65, kNoLimit, kSomeWgmmaTiles, true,  true,  WgmmaTransposedTakes,   RunWgmmaTransposed},
    {"transposed large",  80,  kLater, 65, kNoLimit, kSomeLargeTiles, true,  true,  LargeTransposedTakes,   RunLargeTransposed},
    {"transposed small",  80,  kLater, 1, kNoLimit,  kAnyOutputs,     true,  true,  SmallTransposedTakes,   RunSmallTransposed},
    {"transposed tile",   80,  kLater, 1, kNoLimit,  kAnyOutputs,     true,  true,  TileTakes,              RunTile},
};
// clang-format on

constexpr size_t kRouteCount = sizeof(kRoutes) / sizeof(kRoutes[0]);
std::atomic<int64_t> calls[kRouteCount];

const Route* FindRoute(const ScaledDotProblem& p, int architecture, int multiprocessors) {
  const int64_t outputs = p.batch * p.rows * p.cols;
  for (const Route& r : kRoutes) {
    if (architecture >= r.least_architecture && architecture <= r.most_architecture &&
        r.transposed == p.rhs.transposed && (r.exact || !p.exact) && p.rows >= r.least_rows &&
        p.rows <= r.most_rows &&
        outputs >= r.least_outputs_per_multiprocessor * multiprocessors && r.takes(p)) {
      return &r;
    }
  }
  return nullptr;
}

}  // namespace

Status ScaledDot(const ScaledDotProblem& p, Stream stream) {
  if (p.batch == 0 || p.rows == 0 || p.cols == 0) return nullptr;
  if (p.depth == 0) return StoreZeros(p, stream);
  DotArgs args;
  if (const Status s = Describe(p, &args)) return s;
  const int architecture = Architecture(), multiprocessors = Multiprocessors();
  while (const Route* route = FindRoute(p, architecture, multiprocessors)) {
    const Status status = route->run(p, &args, stream);
    if (status == kRefused) continue;
    calls[route - kRoutes].fetch_add(1, std::memory_order_relaxed);
    return status;
  }
  return kTooOld;
}

std::vector<RouteCalls> CallsOfRoutes() {
  std::vector<RouteCalls> counted;
  for (size_t i = 0; i < kRouteCount; ++i) counted.push_back({kRoutes[i].name, calls[i].load()});
  return counted;
}

}  // namespace jaxfp4::cuda
