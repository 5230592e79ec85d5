// scaled_dot: which kernel serves which operands. The first row of the table that takes a call has
// it.
#include <climits>

#include "cc/cuda/dot_routes.h"

namespace jaxfp4::cuda {
namespace {

struct Route {
  const char* name;
  int least_architecture, most_architecture;
  int64_t least_rows, most_rows;
  int64_t least_outputs_per_multiprocessor;  // rows * columns of one batch entry, times the batch
  bool (*takes)(const ScaledDotProblem&);
  Status (*run)(const ScaledDotProblem&, DotArgs*, Stream);
};

constexpr int64_t kNoLimit = INT64_MAX;
// With fewer than one large tile for every eight multiprocessors small ones spread better. (By
// counting products and loads; not measured.)
constexpr int64_t kSomeLargeTiles = 128 * 128 / 8;
constexpr int64_t kSomeWgmmaTiles = 256 * 128 / 4;
constexpr int kLater = INT_MAX;

// All formats of lhs and rhs pass through the same kernels, which decode them where they load them;
// kernels of one architecture take the formats that it is fast with.
// clang-format off
constexpr Route kRoutes[] = {
    //               sm           rows          outputs          operands          kernel
    {"gemv",         80,  kLater, 1, 8,         0,               GemvTakes,        RunGemv},
    {"wgmma",        90,  90,     65, kNoLimit, kSomeWgmmaTiles, WgmmaTakes,       RunWgmma},
    {"block scaled", 120, 129,    65, kNoLimit, kSomeLargeTiles, BlockScaledTakes, RunBlockScaled},
    {"mma large",    80,  kLater, 65, kNoLimit, kSomeLargeTiles, LargeMmaTakes,    RunLargeMma},
    {"mma small",    80,  kLater, 1, kNoLimit,  0,               SmallMmaTakes,    RunSmallMma},
    {"tile",         80,  kLater, 1, kNoLimit,  0,               TileTakes,        RunTile},
};
// clang-format on

const Route* FindRoute(const ScaledDotProblem& p, int architecture, int multiprocessors) {
  const int64_t outputs = p.batch * p.rows * p.cols;
  for (const Route& r : kRoutes) {
    if (architecture >= r.least_architecture && architecture <= r.most_architecture &&
        p.rows >= r.least_rows && p.rows <= r.most_rows &&
        outputs >= r.least_outputs_per_multiprocessor * multiprocessors && r.takes(p)) {
      return &r;
    }
  }
  return nullptr;
}

int BitsOf(const DotOperand& x) {
  if (!x.coded) return SizeOf(x.dtype) * 8;
  switch (x.format.element) {
    case Element::kE2M1: return E2M1::kBits;
    case Element::kE2M3: return E2M3::kBits;
    case Element::kE3M2: return E3M2::kBits;
    case Element::kE4M3: return E4M3::kBits;
    case Element::kE5M2: break;
  }
  return E5M2::kBits;
}

Status Describe(const DotOperand& x, int64_t rows, int64_t depth, bool interleaved, Operand* out) {
  Operand& o = *out;
  o = {};
  o.data = static_cast<const uint8_t*>(x.data);
  o.global = x.global_scale;
  o.rows_per_global = Divider(rows / x.global_count);
  o.coded = x.coded;
  o.dtype = x.dtype;
  o.bits = BitsOf(x);
  o.row_bytes = depth * o.bits / 8;
  if (!x.coded) return nullptr;
  o.interleaved = interleaved;
  o.element = x.format.element;
  o.scale_type = x.format.scale_type;
  o.scale = x.scale;
  o.scale_row_stride = x.scale_row_stride;
  o.scale_cols = static_cast<uint32_t>(x.scale_cols);
  o.rows_per_offset = Divider(x.rows_per_offset);
  o.rows_share_scales = x.format.block_rows > 1;
  o.block_rows = Divider(x.format.block_rows > 1 ? x.format.block_rows : 1);
  o.units_per_scale = Divider(x.format.block_cols > 0 ? x.format.block_cols / kUnit : 1);
  return o.scale_offset.Fit(x.scale_offset, rows / x.rows_per_offset) ? nullptr : kTooManyAxes;
}

struct ZeroArgs {
  unsigned char* out;
  int64_t bytes;
};

__global__ void __launch_bounds__(256) ZeroKernel(const ZeroArgs a) {
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < a.bytes; i += stride) {
    a.out[i] = 0;
  }
}

// A sum of no products.
Status StoreZeros(const ScaledDotProblem& p, Stream stream) {
  const ZeroArgs a = {static_cast<unsigned char*>(p.out),
                      p.batch * p.rows * p.cols * SizeOf(p.out_dtype)};
  return Launch(ZeroKernel, GridStride(a.bytes, 256, 256), stream, a);
}

}  // namespace

Status ScaledDot(const ScaledDotProblem& p, Stream stream) {
  if (p.batch == 0 || p.rows == 0 || p.cols == 0) return nullptr;
  if (p.depth == 0) return StoreZeros(p, stream);
  if (p.batch * p.rows > kMostItems || p.batch * p.cols > kMostItems || p.depth > kMostItems) {
    return kTooLarge;
  }
  DotArgs args = {};
  args.batch = static_cast<uint32_t>(p.batch);
  args.rows = static_cast<uint32_t>(p.rows);
  args.cols = static_cast<uint32_t>(p.cols);
  args.depth = static_cast<uint32_t>(p.depth);
  args.out_dtype = p.out_dtype;
  args.out = p.out;
  const bool interleaved = p.rhs_layout == Layout::kInterleaved16;
  if (const Status s = Describe(p.lhs, p.batch * p.rows, p.depth, false, &args.lhs)) return s;
  if (const Status s = Describe(p.rhs, p.batch * p.cols, p.depth, interleaved, &args.rhs)) return s;
  const Route* route = FindRoute(p, Architecture(), Multiprocessors());
  return route == nullptr ? "no kernel for this GPU: it needs sm_80 or later"
                          : route->run(p, &args, stream);
}

}  // namespace jaxfp4::cuda
