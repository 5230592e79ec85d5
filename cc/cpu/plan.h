// What the drivers of run.cc work out once for the kernels, and how a matrix is cut into work
// items.
#pragma once

#include <cstdint>

#include "cc/codec/choice.h"
#include "cc/problem.h"

namespace jaxfp4 {

// Columns are worked on in panels that fit the first-level cache.
constexpr int64_t kPanelCols = 2048;
// With several rows to a block the panel is read twice, from the second-level cache.
constexpr int64_t kTilePanelCols = 512;

// An item is one panel of one tile (block_rows rows, or one) of one batch entry.
struct QuantizePlan {
  QuantizeProblem p;
  int64_t tile_rows;
  int64_t tiles;  // per batch entry
  int64_t panel_cols;
  int64_t panels;  // per tile
  int64_t rows_per_outer;
  int64_t bits;
  bool divides;
  ScaleFormula formula;
  // Stochastic rounding: the logical column of each column; or, when runs of four consecutive
  // columns stay together, a quarter of it for each four columns.
  const uint32_t* columns;
  bool columns_in_fours;

  int64_t items() const { return p.batch * tiles * panels; }
};

struct DequantizePlan {
  DequantizeProblem p;
  int64_t panel_cols;
  int64_t panels;  // per row
  int64_t rows_per_global;
  int64_t bits;

  int64_t items() const { return p.batch * p.rows * panels; }
};

}  // namespace jaxfp4
