// What quantize_blocks and fake_quantize share: cutting the rows into tiles (the elements of one
// scale), and from a tile's elements to its scale.
#pragma once

#include "cc/codec/choice.h"
#include "cc/codec/random.h"
#include "cc/cuda/divider.h"
#include "cc/cuda/segment.h"
#include "cc/cuda/team.h"

namespace jaxfp4::cuda {

// A tile is `tile_rows` rows (fewer at the end of a batch entry) by `width` segments. A team of
// `lanes` lanes shares it, lane i taking segments i, i + lanes, ... in row order.
struct QuantizeArgs {
  QuantizeProblem p;
  ScaleFormula formula;
  bool divides;  // elements are divided by the encoding factor
  bool uniform;  // no blocks: the scale is given
  bool aligned;
  int lanes;
  uint32_t tile_rows, width;
  uint32_t tile_count;
  Divider across;           // tiles in a row of tiles
  Divider down;             // tiles in a column of tiles of one batch entry
  Divider segments_across;  // width
  Divider rows_per_outer;
  Divider column_run;  // cols / col_index_count
};

template <class E>
void SetElement(QuantizeArgs* args) {
  args->formula.power = PowerRuleOf<E>(args->p.rule);
  args->formula.largest = One::Float(E::kMax);
}

// Null, or why this call cannot be served. Leaves args->tile_count 0 if there is nothing to do.
inline Status PlanQuantize(const QuantizeProblem& p, QuantizeArgs* args) {
  QuantizeArgs& a = *args;
  a = {};
  a.p = p;
  const int64_t rows = p.batch * p.rows;
  if (rows * p.cols == 0) return nullptr;
  if (CeilDiv(p.cols, kSegment) * rows > kMostItems) return kTooLarge;
  a.formula = {p.format.scale_type, p.rule, p.arithmetic, {}, 0};
  a.divides = Divides(p.format.scale_type, p.arithmetic);
  a.uniform = p.format.block_cols == 0;
  a.aligned = p.cols % kSegment == 0 && IsAligned(p.x) && IsAligned(p.data) && IsAligned(p.out);
  const int64_t block_cols = a.uniform ? kSegment : p.format.block_cols;
  const int64_t tile_rows = p.format.block_rows > 1 ? p.format.block_rows : 1;
  const int64_t across = CeilDiv(p.cols, block_cols), down = CeilDiv(p.rows, tile_rows);
  a.tile_rows = static_cast<uint32_t>(tile_rows);
  a.width = static_cast<uint32_t>(block_cols / kSegment);
  a.tile_count = static_cast<uint32_t>(p.batch * down * across);
  const int64_t most_rows = tile_rows < p.rows ? tile_rows : p.rows;
  a.lanes = 1;
  while (a.lanes < 32 && a.lanes < most_rows * a.width) a.lanes *= 2;
  a.across = Divider(across);
  a.down = Divider(down);
  a.segments_across = Divider(a.width);
  a.rows_per_outer = Divider(rows / p.outer_count);
  a.column_run = Divider(p.rounding == Rounding::kNearest ? 1 : p.cols / p.col_index_count);
  return nullptr;
}

inline Geometry QuantizeGeometry(const QuantizeArgs& a) {
  constexpr unsigned kThreads = 256;
  return GridStride(a.tile_count, kThreads / static_cast<unsigned>(a.lanes), kThreads);
}

struct Tile {
  int64_t first_row;  // of all batch * rows
  uint32_t col;       // of its first segment, in elements
  uint32_t segments;  // rows * width
  float G, g;
};

JAXFP4_HD Tile TileAt(const QuantizeArgs& a, uint32_t index) {
  const uint32_t row = a.across.Divide(index);  // of tiles
  const uint32_t col = a.across.Remainder(index, row);
  Tile t;
  uint32_t rows = 1;
  t.first_row = row;
  if (a.tile_rows > 1) {
    const uint32_t batch = a.down.Divide(row);
    const uint32_t first = a.down.Remainder(row, batch) * a.tile_rows;
    const uint32_t left = static_cast<uint32_t>(a.p.rows) - first;
    rows = left < a.tile_rows ? left : a.tile_rows;
    t.first_row = batch * a.p.rows + first;
  }
  t.col = col * a.width * kSegment;
  t.segments = rows * a.width;
  const uint32_t outer = a.rows_per_outer.Divide(static_cast<uint32_t>(t.first_row));
  t.G = a.p.outer[2 * outer];
  t.g = a.p.outer[2 * outer + 1];
  return t;
}

// Where a segment of a tile is.
struct Place {
  int64_t row;
  uint32_t col;
  int count;  // of its elements: 16 but at the end of a row without blocks
};

JAXFP4_HD Place PlaceOf(const QuantizeArgs& a, const Tile& t, uint32_t segment) {
  const uint32_t row = a.segments_across.Divide(segment);
  const uint32_t across = a.segments_across.Remainder(segment, row);
  Place place;
  place.row = t.first_row + row;
  place.col = t.col + across * kSegment;
  const int64_t left = a.p.cols - place.col;
  place.count = left < kSegment ? static_cast<int>(left) : kSegment;
  return place;
}

JAXFP4_HD void LoadElements(const QuantizeArgs& a, const Place& at, float* x) {
  LoadSegment(a.p.dtype, a.p.x, at.row * a.p.cols + at.col, at.count, a.aligned, x);
}

JAXFP4_HD uint32_t LargestMagnitude(const float* x, bool finite) {
  uint32_t largest = 0;
#pragma unroll
  for (int i = 0; i < kSegment; ++i) {
    const uint32_t magnitude = One::Bits(x[i]) & ~kSignBit;
    const uint32_t counts = finite && magnitude >= kInfinity ? 0 : magnitude;
    largest = counts > largest ? counts : largest;
  }
  return largest;
}

// The sum of a row's sixteen errors, by halves.
JAXFP4_HD float RowError(ScaleRule rule, const float* x, const BlockScale<One>& s) {
  float e[kSegment];
#pragma unroll
  for (int i = 0; i < kSegment; ++i) {
    e[i] = rule == ScaleRule::kFourOverSix ? SquaredError<One>(x[i], s) : Variance<One>(x[i], s);
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) e[i] = e[i] + e[i + 8];
#pragma unroll
  for (int i = 0; i < 4; ++i) e[i] = e[i] + e[i + 4];
#pragma unroll
  for (int i = 0; i < 2; ++i) e[i] = e[i] + e[i + 2];
  return e[0] + e[1];
}

// Whether the candidate with four has the smaller error. Rows are one segment wide, and their
// errors are added in row order; x is the lane's segment, if it has only one.
__device__ inline bool FourIsBetter(const QuantizeArgs& a, const Team& team, const Tile& t,
                                    float* x, const BlockScale<One>& six,
                                    const BlockScale<One>& four) {
  float total6 = 0.0f, total4 = 0.0f;
  for (uint32_t base = 0; base < t.segments; base += static_cast<uint32_t>(team.lanes)) {
    const uint32_t mine = base + static_cast<uint32_t>(team.lane);
    float error6 = 0.0f, error4 = 0.0f;
    if (mine < t.segments) {
      if (t.segments > static_cast<uint32_t>(team.lanes)) LoadElements(a, PlaceOf(a, t, mine), x);
      error6 = RowError(a.p.rule, x, six);
      error4 = RowError(a.p.rule, x, four);
    }
    for (int from = 0; from < team.lanes && base + static_cast<uint32_t>(from) < t.segments;
         ++from) {
      const float row6 = team.Of(error6, from), row4 = team.Of(error4, from);
      const bool first = base + static_cast<uint32_t>(from) == 0;
      total6 = first ? row6 : total6 + row6;
      total4 = first ? row4 : total4 + row4;
    }
  }
  return total4 < total6;
}

// The scale of a tile, the same on all lanes; leaves the lane's elements in x if it has one
// segment.
__device__ inline BlockScale<One> ScaleOfTile(const QuantizeArgs& a, const Team& team,
                                              const Tile& t, float* x) {
  const auto lane = static_cast<uint32_t>(team.lane), lanes = static_cast<uint32_t>(team.lanes);
  uint32_t largest = 0;
  for (uint32_t segment = lane; segment < t.segments; segment += lanes) {
    LoadElements(a, PlaceOf(a, t, segment), x);
    const uint32_t magnitude = LargestMagnitude(x, a.formula.type == ScaleType::kFloat32);
    largest = magnitude > largest ? magnitude : largest;
  }
  if (a.uniform) return {One::Bits(t.g), t.g, t.g, 1.0f};
  largest = team.Max(largest);
  if (!IsFourOverSix(a.p.rule)) return ScaleOfBlock<One>(a.formula, largest, t.G, t.g);
  BlockScale<One> six, four;
  CandidateScales<One>(a.p.rule, largest, t.G, t.g, &six, &four);
  return FourIsBetter(a, team, t, x, six, four) ? four : six;
}

// ---- random bits of a segment's elements

struct RandomSource {
  uint32_t seed0, seed1;
  const QuantizeArgs& a;

  JAXFP4_HD uint32_t Column(uint32_t col) const {
    const uint32_t run = a.column_run.Divide(col);
    return a.p.col_index[run] * a.column_run.divisor + a.column_run.Remainder(col, run);
  }
};

template <Rounding kRounding>
JAXFP4_HD void DrawRandom(const QuantizeArgs& a, const Place& at, uint32_t* r) {
  if constexpr (kRounding == Rounding::kNearest) return;
  const uint32_t* seed = a.p.row_seed + 2 * at.row;
  const RandomSource source{seed[0], seed[1], a};
  if (kRounding == Rounding::kStochastic8 && a.column_run.divisor % 4 == 0) {
    // Four neighbours stay together, and share a word.
#pragma unroll
    for (int i = 0; i < kSegment; i += 4) {
      const uint32_t c = i < at.count ? source.Column(at.col + static_cast<uint32_t>(i)) : 0;
      const uint32_t word = RandomBits<uint32_t>(source.seed0, source.seed1, c >> 2);
#pragma unroll
      for (int j = 0; j < 4; ++j) r[i + j] = (word >> (8 * j)) & 255u;
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < kSegment; ++i) {
    const uint32_t c = i < at.count ? source.Column(at.col + static_cast<uint32_t>(i)) : 0;
    r[i] = kRounding == Rounding::kStochastic8 ? Random8<uint32_t>(source.seed0, source.seed1, c)
                                               : Random24<uint32_t>(source.seed0, source.seed1, c);
  }
}

template <class E, Rounding kRounding>
JAXFP4_HD Rounded<One> RoundElement(uint32_t magnitude, uint32_t r) {
  if constexpr (kRounding == Rounding::kNearest) return RoundNearest<E, One>(magnitude);
  if constexpr (kRounding == Rounding::kStochastic8) return RoundStochastic8<E, One>(magnitude, r);
  return RoundStochastic24<E, One>(magnitude, r);
}

// x in the element type's range.
JAXFP4_HD void ScaleElements(const QuantizeArgs& a, const BlockScale<One>& s, float* x) {
  // A scale of 2^127 needs the factor 2^-127, which is not a normal float.
  const float before = a.formula.type == ScaleType::kE8M0 && s.stored == 254 ? 0.5f : 1.0f;
  if (a.divides) {
#pragma unroll
    for (int i = 0; i < kSegment; ++i) x[i] = x[i] / s.encode;
  } else {
#pragma unroll
    for (int i = 0; i < kSegment; ++i) x[i] = (x[i] * before) * s.encode;
  }
}

// Runs work(tile, scale, place, x) on every segment of the launch, x being its elements.
template <class Work>
__device__ void ForEachSegment(const QuantizeArgs& a, const Work& work) {
  const Team team(a.lanes);
  const auto lane = static_cast<uint32_t>(team.lane), lanes = static_cast<uint32_t>(team.lanes);
  for (uint32_t index = FirstTeam(a.lanes); index < a.tile_count; index += TeamStride(a.lanes)) {
    const Tile t = TileAt(a, index);
    float x[kSegment];
    const BlockScale<One> scale = ScaleOfTile(a, team, t, x);
    for (uint32_t segment = lane; segment < t.segments; segment += lanes) {
      const Place place = PlaceOf(a, t, segment);
      if (t.segments > lanes) LoadElements(a, place, x);
      ScaleElements(a, scale, x);
      work(index, scale, place, segment, x);
    }
  }
}

// ---- one kernel for each element type and rounding

template <template <class, Rounding> class Kernel, class E>
Status LaunchRounding(const QuantizeArgs& a, Stream stream) {
  switch (a.p.rounding) {
    case Rounding::kNearest:
      return Launch(Kernel<E, Rounding::kNearest>::Entry(), QuantizeGeometry(a), stream, a);
    case Rounding::kStochastic8:
      return Launch(Kernel<E, Rounding::kStochastic8>::Entry(), QuantizeGeometry(a), stream, a);
    case Rounding::kStochastic24:
      return Launch(Kernel<E, Rounding::kStochastic24>::Entry(), QuantizeGeometry(a), stream, a);
  }
  return "unknown rounding";
}

template <template <class, Rounding> class Kernel, class E>
Status LaunchElement(QuantizeArgs* args, Stream stream) {
  SetElement<E>(args);
  return LaunchRounding<Kernel, E>(*args, stream);
}

template <template <class, Rounding> class Kernel>
Status LaunchQuantize(QuantizeArgs* args, Stream stream) {
  switch (args->p.format.element) {
    case Element::kE2M1: return LaunchElement<Kernel, E2M1>(args, stream);
    case Element::kE2M3: return LaunchElement<Kernel, E2M3>(args, stream);
    case Element::kE3M2: return LaunchElement<Kernel, E3M2>(args, stream);
    case Element::kE4M3: return LaunchElement<Kernel, E4M3>(args, stream);
    case Element::kE5M2: return LaunchElement<Kernel, E5M2>(args, stream);
  }
  return "unknown element type";
}

}  // namespace jaxfp4::cuda
