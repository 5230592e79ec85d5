// ragged_dot: which kernel serves which operands. The first row of the table that takes a call has
// it.
#include <climits>

#include "cc/cuda/dot_groups.h"

namespace jaxfp4::cuda {
namespace {

struct RaggedRoute {
  const char* name;
  int64_t least_rows, most_rows;  // of a group, if all had as many
  int64_t least_outputs_per_multiprocessor;
  bool (*takes)(const ScaledDotProblem&);
  RaggedRunner run;
};

constexpr int kLeastArchitecture = 80;
// By counting, as for scaled_dot; not measured. Groups that are twice as large as all on average
// are no rarity.
// clang-format off
constexpr RaggedRoute kRaggedRoutes[] = {
    //                   rows           outputs        operands        kernel
    {"ragged gemv",      0,  4,         0,             GemvTakes,      RunRaggedGemv},
    {"ragged mma large", 65, INT64_MAX, 128 * 128 / 8, LargeMmaTakes,  RunRaggedLargeMma},
    {"ragged mma small", 0,  INT64_MAX, 0,             SmallMmaTakes,  RunRaggedSmallMma},
    {"ragged tile",      0,  INT64_MAX, 0,             TileTakes,      RunRaggedTile},
};
// clang-format on

const RaggedRoute* FindRaggedRoute(const RaggedDotProblem& p, int architecture,
                                   int multiprocessors) {
  if (architecture < kLeastArchitecture) return nullptr;
  const int64_t outputs = p.dot.batch * p.dot.rows * p.dot.cols;
  const int64_t rows = CeilDiv(p.dot.rows, p.groups > 0 ? p.groups : 1);
  for (const RaggedRoute& r : kRaggedRoutes) {
    if (rows >= r.least_rows && rows <= r.most_rows &&
        outputs >= r.least_outputs_per_multiprocessor * multiprocessors && r.takes(p.dot)) {
      return &r;
    }
  }
  return nullptr;
}

}  // namespace

Status RaggedDot(const RaggedDotProblem& p, Stream stream) {
  if (p.dot.batch == 0 || p.dot.rows == 0 || p.dot.cols == 0) return nullptr;
  if (p.dot.depth == 0 || p.groups == 0) return StoreZeros(p.dot, stream);
  RaggedArgs args;
  if (const Status s = Describe(p, &args)) return s;
  const RaggedRoute* route = FindRaggedRoute(p, Architecture(), Multiprocessors());
  return route == nullptr ? kTooOld : route->run(p, &args, stream);
}

}  // namespace jaxfp4::cuda
