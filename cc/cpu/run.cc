#include "cc/cpu/run.h"

#include <memory>
#include <vector>

#include "cc/cpu/plan.h"
#include "cc/cpu/targets.h"

namespace jaxfp4 {
namespace {

// The least work to hand to a thread, in elements: some 10 to 20 microseconds.
constexpr int64_t kGrain = 1 << 16;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t AtLeastOne(int64_t n) { return n > 0 ? n : 1; }

template <class E>
void SetElement(QuantizePlan* plan) {
  plan->bits = E::kBits;
  const QuantizeProblem& p = plan->p;
  plan->formula = {p.format.scale_type, p.rule, p.arithmetic, PowerRuleOf<E>(p.rule),
                   ScalarLanes::Float(E::kMax)};
}

void SetElement(QuantizePlan* plan) {
  switch (plan->p.format.element) {
    case Element::kE2M1: return SetElement<E2M1>(plan);
    case Element::kE2M3: return SetElement<E2M3>(plan);
    case Element::kE3M2: return SetElement<E3M2>(plan);
    case Element::kE4M3: return SetElement<E4M3>(plan);
    case Element::kE5M2: return SetElement<E5M2>(plan);
  }
}

// Panels hold whole blocks, and as many columns as fit.
int64_t PanelCols(const BlockFormat& format) {
  const int64_t cols = format.block_rows > 1 ? kTilePanelCols : kPanelCols;
  if (format.block_cols == 0) return cols;
  return AtLeastOne(cols / format.block_cols) * format.block_cols;
}

// Rows that share everything and lie one after the other are one long row.
void JoinRows(QuantizeProblem* p) {
  if (p->format.block_rows > 1 || p->rounding != Rounding::kNearest) return;
  p->cols *= p->batch * p->rows / p->outer_count;
  p->rows = p->outer_count;
  p->batch = 1;
}

// The logical column of every column, or of every four (a quarter of it).
std::vector<uint32_t> LogicalColumns(const QuantizeProblem& p, bool in_fours) {
  const int64_t step = in_fours ? 4 : 1;
  const int64_t run = p.cols / p.col_index_count / step;
  std::vector<uint32_t> columns(static_cast<size_t>(p.cols / step));
  for (int64_t i = 0; i < p.col_index_count; ++i) {
    const uint32_t first = p.col_index[i] * static_cast<uint32_t>(run);
    for (int64_t j = 0; j < run; ++j) {
      columns[static_cast<size_t>(i * run + j)] = first + static_cast<uint32_t>(j);
    }
  }
  return columns;
}

// A format without inner blocks has the scales it was given.
void CopyScales(const QuantizeProblem& p) {
  auto* scale = static_cast<float*>(p.scale);
  for (int64_t i = 0; i < p.outer_count; ++i) scale[i] = p.outer[2 * i + 1];
}

using QuantizeKernel = void (*)(const QuantizePlan&, int64_t, int64_t);

void RunQuantize(const QuantizeProblem& problem, Parallel& parallel, QuantizeKernel kernel) {
  QuantizePlan plan = {};
  plan.p = problem;
  SetElement(&plan);
  JoinRows(&plan.p);
  const QuantizeProblem& p = plan.p;
  plan.divides = Divides(p.format.scale_type, p.arithmetic);
  plan.tile_rows = AtLeastOne(p.format.block_rows);
  plan.tiles = CeilDiv(p.rows, plan.tile_rows);
  plan.panel_cols = PanelCols(p.format);
  plan.panels = CeilDiv(p.cols, plan.panel_cols);
  plan.rows_per_outer = p.batch * p.rows / p.outer_count;
  std::vector<uint32_t> columns;
  if (p.rounding != Rounding::kNearest) {
    plan.columns_in_fours =
        p.rounding == Rounding::kStochastic8 && p.cols / p.col_index_count % 4 == 0;
    columns = LogicalColumns(p, plan.columns_in_fours);
    plan.columns = columns.data();
  }
  const int64_t item_cols = p.cols < plan.panel_cols ? p.cols : plan.panel_cols;
  const int64_t grain = CeilDiv(kGrain, plan.tile_rows * item_cols);
  parallel.For(plan.items(), grain,
               [&](int64_t begin, int64_t end) { kernel(plan, begin, end); });
}

bool Empty(const QuantizeProblem& p) { return p.batch * p.rows * p.cols == 0; }

}  // namespace

void RunQuantizeBlocks(const QuantizeProblem& p, Parallel& parallel) {
  if (p.format.block_cols == 0) CopyScales(p);
  if (!Empty(p)) RunQuantize(p, parallel, ActiveKernels().quantize_blocks);
}

void RunFakeQuantize(const QuantizeProblem& p, Parallel& parallel) {
  if (!Empty(p)) RunQuantize(p, parallel, ActiveKernels().fake_quantize);
}

void RunDequantizeBlocks(const DequantizeProblem& p, Parallel& parallel) {
  if (p.batch * p.rows * p.cols == 0) return;
  DequantizePlan plan = {};
  plan.p = p;
  plan.bits = p.format.element == Element::kE2M1 ? 4
              : p.format.element == Element::kE2M3 || p.format.element == Element::kE3M2 ? 6
                                                                                         : 8;
  plan.panel_cols = PanelCols({p.format.element, p.format.scale_type, 1, p.format.block_cols});
  plan.panels = CeilDiv(p.cols, plan.panel_cols);
  plan.rows_per_global = p.batch * p.rows / p.global_count;
  const auto kernel = ActiveKernels().dequantize_blocks;
  const int64_t item_cols = p.cols < plan.panel_cols ? p.cols : plan.panel_cols;
  parallel.For(plan.items(), CeilDiv(kGrain, item_cols),
               [&](int64_t begin, int64_t end) { kernel(plan, begin, end); });
}

void RunAmax(const AmaxProblem& p, Parallel& parallel) {
  const auto kernel = ActiveKernels().amax;
  // A maximum is the same in any order, so each batch entry may be cut up freely.
  const int64_t parts = p.batch >= parallel.threads() ? 1 : CeilDiv(p.size, kGrain);
  std::vector<float> partial(static_cast<size_t>(p.batch * parts));
  const int64_t grain = CeilDiv(kGrain * 2, AtLeastOne(p.size / AtLeastOne(parts)));
  parallel.For(p.batch * parts, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i / parts * p.size;
      const int64_t part = i % parts;
      partial[static_cast<size_t>(i)] = kernel(p.dtype, p.x, first + p.size * part / parts,
                                               first + p.size * (part + 1) / parts);
    }
  });
  for (int64_t b = 0; b < p.batch; ++b) {
    float largest = 0.0f;
    for (int64_t i = b * parts; i < (b + 1) * parts; ++i) {
      const float a = partial[static_cast<size_t>(i)];
      if (a > largest) largest = a;
    }
    p.out[b] = largest;
  }
}

void RunHadamard(const HadamardProblem& p, Parallel& parallel) {
  const auto kernel = ActiveKernels().hadamard;
  parallel.For(p.count / p.n, CeilDiv(kGrain, p.n), [&](int64_t begin, int64_t end) {
    kernel(p, begin * p.n, end * p.n);
  });
}

}  // namespace jaxfp4
