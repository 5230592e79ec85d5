// quantize_blocks and fake_quantize: x -> block scales -> codes, or the values that the codes stand
// for.
//
// Each panel of a tile goes through three steps: the largest magnitude of every block, the scales
// (sixteen blocks at a time), then the elements (sixteen at a time, with the scale of their block).
// The third is a table of small loops, one for each element type, rounding and way to scale.
#include "cc/codec/choice.h"
#include "cc/codec/random.h"
#include "cc/cpu/plan.h"
#include "cc/cpu/simd.h"

namespace jaxfp4::JAXFP4_TARGET {
namespace {

constexpr int kVectors = kPanelCols / kLanes;  // vectors, and at most blocks, in a panel

// ------------------------------------------------------------------ the parts of a panel

// One row's columns of one panel.
struct Span {
  int64_t row;  // of all batch * rows
  int64_t col;
  int64_t cols;
  int64_t vectors() const { return (cols + kLanes - 1) / kLanes; }
};

// The scales of a panel's blocks; or, repeated, of its vectors. Padded to whole vectors.
struct Scales {
  uint32_t stored[kVectors + kLanes];
  float encode[kVectors + kLanes];
  float decode[kVectors + kLanes];
  float decode2[kVectors + kLanes];

  JAXFP4_INLINE void Set(int64_t i, const BlockScale<Lanes>& s) {
    StoreU32(s.stored, stored + i);
    StoreF32(s.encode, encode + i);
    StoreF32(s.decode, decode + i);
    StoreF32(s.decode2, decode2 + i);
  }
  // One of them, in every lane.
  JAXFP4_INLINE BlockScale<Lanes> Get(int64_t i) const {
    return {U(stored[i]), F(encode[i]), F(decode[i]), F(decode2[i])};
  }
};

struct Panel {
  alignas(64) float x[kPanelCols];  // elements as float32, where x itself does not serve
  alignas(64) float y[kPanelCols];  // fake_quantize: results before they are narrowed
  alignas(64) uint8_t packed[kPanelCols + 64];
  alignas(64) uint32_t amax[kVectors + kLanes];
  alignas(64) uint32_t magnitudes[kPanelCols];  // over the rows of a tile
  alignas(64) uint32_t random24[kPanelCols];
  alignas(64) uint8_t random8[kPanelCols + 64];
  alignas(64) Scales scales;
  alignas(64) Scales scales4;  // the alternative of four over six
  alignas(64) Scales spread;   // scales, repeated for every vector
};

// ------------------------------------------------------------------ elements in and out

template <class Mem>
void Widen(const void* source, int64_t first, int64_t cols, float* x) {
  const auto* p = static_cast<const typename Mem::Type*>(source) + first;
  int64_t i = 0;
  for (; i + kLanes <= cols; i += kLanes) StoreF32(Mem::Load(p + i), x + i);
  if (i < cols) {
    typename Mem::Type last[kLanes] = {};
    memcpy(last, p + i, static_cast<size_t>(cols - i) * sizeof(*p));
    StoreF32(Mem::Load(last), x + i);
  }
}

// A span's elements as whole vectors of float32: x itself, or a zero-padded copy in buffer.
const float* LoadSpan(const QuantizeProblem& p, const Span& span, float* buffer) {
  const int64_t first = span.row * p.cols + span.col;
  if (p.dtype == Dtype::kF32 && span.cols % kLanes == 0) {
    return static_cast<const float*>(p.x) + first;
  }
  WithDtype(p.dtype, [&](auto memory) { Widen<decltype(memory)>(p.x, first, span.cols, buffer); });
  return buffer;
}

template <class Mem>
void Narrow(const float* y, void* out, int64_t first, int64_t cols) {
  auto* p = static_cast<typename Mem::Type*>(out) + first;
  int64_t i = 0;
  for (; i + kLanes <= cols; i += kLanes) Mem::Store(LoadF32(y + i), p + i);
  if (i < cols) {
    typename Mem::Type last[kLanes];
    Mem::Store(LoadF32(y + i), last);
    memcpy(p + i, last, static_cast<size_t>(cols - i) * sizeof(*p));
  }
}

// ------------------------------------------------------------------ step 1: block maxima

template <bool kFinite>
JAXFP4_INLINE U MagnitudeOf(F x) {
  return kFinite ? FiniteMagnitude(x) : Magnitude(x);
}

// amax[i] = the largest magnitude of block i of `width` vectors; kMagnitudes: x holds magnitude
// bits.
template <bool kFinite, bool kMagnitudes>
JAXFP4_INLINE void BlockMaxima(const float* x, int64_t blocks, int64_t width, uint32_t* amax) {
  const auto block_max = [&](int64_t block) {
    const float* p = x + block * width * kLanes;
    const auto load = [&](int64_t i) {
      const F v = LoadF32(p + i * kLanes);
      return kMagnitudes ? Lanes::Bits(v) : MagnitudeOf<kFinite>(v);
    };
    U largest = load(0);
    for (int64_t i = 1; i < width; ++i) largest = Lanes::Max(largest, load(i));
    return largest;
  };
  int64_t b = 0;
  for (; b + kLanes <= blocks; b += kLanes) {
    U each[kLanes];
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) each[i] = block_max(b + i);
    StoreU32(MaxOfEach(each), amax + b);
  }
  if (b < blocks) {
    U each[kLanes];
    for (int i = 0; i < kLanes; ++i) each[i] = b + i < blocks ? block_max(b + i) : U(0);
    StoreU32(MaxOfEach(each), amax + b);
  }
}

template <bool kFinite, bool kMagnitudes>
void BlockMaximaOf(const float* x, int64_t blocks, int64_t width, uint32_t* amax) {
  if (width == 1) return BlockMaxima<kFinite, kMagnitudes>(x, blocks, 1, amax);
  if (width == 2) return BlockMaxima<kFinite, kMagnitudes>(x, blocks, 2, amax);
  BlockMaxima<kFinite, kMagnitudes>(x, blocks, width, amax);
}

template <bool kFinite>
void TileMagnitudes(const float* x, int64_t vectors, bool first, uint32_t* magnitudes) {
  for (int64_t i = 0; i < vectors * kLanes; i += kLanes) {
    const U m = MagnitudeOf<kFinite>(LoadF32(x + i));
    StoreU32(first ? m : Lanes::Max(m, LoadU32(magnitudes + i)), magnitudes + i);
  }
}

// ------------------------------------------------------------------ step 2: scales

// The errors of up to 16 blocks of one vector each, under one candidate's scales.
JAXFP4_INLINE F BlockErrors(ScaleRule rule, const float* x, int64_t blocks, const Scales& s,
                            int64_t first) {
  F each[kLanes];
  for (int i = 0; i < kLanes; ++i) {
    if (i >= blocks) {
      each[i] = Zero();
      continue;
    }
    const F v = LoadF32(x + i * kLanes);
    const BlockScale<Lanes> scale = s.Get(first + i);
    each[i] = rule == ScaleRule::kFourOverSix ? SquaredError<Lanes>(v, scale)
                                              : Variance<Lanes>(v, scale);
  }
  return SumOfEach(each);
}

void StoreScales(const QuantizePlan& plan, const Scales& s, int64_t first, int64_t blocks) {
  if (plan.p.format.scale_type == ScaleType::kFloat32) {
    memcpy(static_cast<float*>(plan.p.scale) + first, s.stored,
           static_cast<size_t>(blocks) * sizeof(float));
    return;
  }
  uint8_t bytes[kVectors + kLanes];
  for (int64_t i = 0; i < blocks; i += kLanes) StoreBytes(LoadU32(s.stored + i), bytes + i);
  memcpy(static_cast<uint8_t*>(plan.p.scale) + first, bytes, static_cast<size_t>(blocks));
}

// ------------------------------------------------------------------ random bits

// body(i, columns i to i + kLanes) over `count` logical columns, the last few padded.
template <class Body>
JAXFP4_INLINE void ForColumns(const uint32_t* columns, int64_t count, const Body& body) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) body(i, LoadU32(columns + i));
  if (i < count) {
    uint32_t last[kLanes] = {};
    memcpy(last, columns + i, static_cast<size_t>(count - i) * sizeof(uint32_t));
    body(i, LoadU32(last));
  }
}

void FillRandom(const QuantizePlan& plan, const Span& span, Panel* panel) {
  const uint32_t* seed = plan.p.row_seed + 2 * span.row;
  const uint32_t s0 = seed[0], s1 = seed[1];
  if (plan.columns_in_fours) {
    // A word's four bytes are those of its four columns, in order.
    ForColumns(plan.columns + span.col / 4, (span.cols + 3) / 4, [&](int64_t i, U c) {
      StoreWords(RandomBits<U>(s0, s1, c), panel->random8 + 4 * i);
    });
  } else if (plan.p.rounding == Rounding::kStochastic8) {
    ForColumns(plan.columns + span.col, span.cols, [&](int64_t i, U c) {
      StoreBytes(Random8<U>(s0, s1, c), panel->random8 + i);
    });
  } else {
    ForColumns(plan.columns + span.col, span.cols, [&](int64_t i, U c) {
      StoreU32(Random24<U>(s0, s1, c), panel->random24 + i);
    });
  }
}

// ------------------------------------------------------------------ step 3: elements

struct Row {
  const float* x;
  int64_t vectors;
  int64_t ahead;  // the elements so far behind these are to come from memory meanwhile
  const Scales* scales;  // of each vector
  const Panel* panel;    // for its random bits
};

template <class E, Rounding kRounding>
JAXFP4_INLINE Rounded<Lanes> Round(const Row& row, int64_t i, U magnitude) {
  if constexpr (kRounding == Rounding::kNearest) {
    return RoundNearest<E, Lanes>(magnitude);
  } else if constexpr (kRounding == Rounding::kStochastic8) {
    return RoundStochastic8<E, Lanes>(magnitude, LoadBytes(row.panel->random8 + i * kLanes));
  } else {
    return RoundStochastic24<E, Lanes>(magnitude, LoadU32(row.panel->random24 + i * kLanes));
  }
}

template <bool kDivide>
JAXFP4_INLINE F Scaled(const Row& row, int64_t i) {
  __builtin_prefetch(row.x + i * kLanes + row.ahead);
  const F x = LoadF32(row.x + i * kLanes);
  const F factor(row.scales->encode[i]);
  return kDivide ? x / factor : x * factor;
}

// kOrdinary: no scaled element can be NaN, and E2M1 has its short cut.
template <class E, Rounding kRounding, bool kDivide, bool kOrdinary>
JAXFP4_INLINE U CodesOf(const Row& row, int64_t i) {
  const F v = Scaled<kDivide>(row, i);
  if constexpr (kOrdinary) {
    return E2M1CodeNearest<Lanes>(v);
  } else {
    const U bits = Lanes::Bits(v);
    return Code<E, Lanes>(Round<E, kRounding>(row, i, bits & ~kSignBit), bits);
  }
}

template <class E, Rounding kRounding, bool kDivide, bool kOrdinary>
void EncodeRow(const Row& row, uint8_t* data) {
  constexpr int kBytes = kLanes * E::kBits / 8;
  int64_t i = 0;
  if constexpr (E::kBits == 4) {
    for (; i + kNibbleGroup <= row.vectors; i += kNibbleGroup) {
      U codes[kNibbleGroup];
#pragma GCC unroll 8
      for (int j = 0; j < kNibbleGroup; ++j) {
        codes[j] = CodesOf<E, kRounding, kDivide, kOrdinary>(row, i + j);
      }
      StoreNibbleGroup(codes, data + i * kBytes);
    }
  }
  for (; i < row.vectors; ++i) {
    StoreCodes<E::kBits>(CodesOf<E, kRounding, kDivide, kOrdinary>(row, i), data + i * kBytes);
  }
}

template <class E, Rounding kRounding, bool kDivide>
void FakeRow(const Row& row, float* y) {
  for (int64_t i = 0; i < row.vectors; ++i) {
    const U bits = Lanes::Bits(Scaled<kDivide>(row, i));
    const F q = Value<E, Lanes>(Round<E, kRounding>(row, i, bits & ~kSignBit), bits);
    StoreF32((q * F(row.scales->decode[i])) * F(row.scales->decode2[i]), y + i * kLanes);
  }
}

struct RowKernels {
  void (*encode)(const Row&, uint8_t*);
  void (*encode_ordinary)(const Row&, uint8_t*);
  void (*fake)(const Row&, float*);
};

template <class E, Rounding kRounding, bool kDivide>
RowKernels KernelsFor() {
  constexpr bool kShort = E::kBits == 4 && kRounding == Rounding::kNearest;
  return {EncodeRow<E, kRounding, kDivide, false>, EncodeRow<E, kRounding, kDivide, kShort>,
          FakeRow<E, kRounding, kDivide>};
}

template <class E, Rounding kRounding>
RowKernels KernelsFor(bool divides) {
  return divides ? KernelsFor<E, kRounding, true>() : KernelsFor<E, kRounding, false>();
}

template <class E>
RowKernels KernelsFor(Rounding rounding, bool divides) {
  switch (rounding) {
    case Rounding::kNearest: return KernelsFor<E, Rounding::kNearest>(divides);
    case Rounding::kStochastic8: return KernelsFor<E, Rounding::kStochastic8>(divides);
    case Rounding::kStochastic24: return KernelsFor<E, Rounding::kStochastic24>(divides);
  }
  return {};
}

RowKernels KernelsOf(const QuantizePlan& plan) {
  const Rounding rounding = plan.p.rounding;
  switch (plan.p.format.element) {
    case Element::kE2M1: return KernelsFor<E2M1>(rounding, plan.divides);
    case Element::kE2M3: return KernelsFor<E2M3>(rounding, plan.divides);
    case Element::kE3M2: return KernelsFor<E3M2>(rounding, plan.divides);
    case Element::kE4M3: return KernelsFor<E4M3>(rounding, plan.divides);
    case Element::kE5M2: return KernelsFor<E5M2>(rounding, plan.divides);
  }
  return {};
}

// ------------------------------------------------------------------ a tile's panel

class Tile {
 public:
  Tile(const QuantizePlan& plan, const RowKernels& rows, int64_t item, Panel* panel)
      : plan_(plan), rows_(rows), panel_(*panel) {
    const int64_t tile = item / plan.panels;  // of all batch entries
    const int64_t batch = tile / plan.tiles;
    const int64_t first = tile % plan.tiles * plan.tile_rows;
    const int64_t left = plan.p.rows - first;
    first_row_ = batch * plan.p.rows + first;
    row_count_ = left < plan.tile_rows ? left : plan.tile_rows;
    col_ = item % plan.panels * plan.panel_cols;
    cols_ = plan.p.cols - col_ < plan.panel_cols ? plan.p.cols - col_ : plan.panel_cols;
    const float* outer = plan.p.outer + 2 * (first_row_ / plan.rows_per_outer);
    G_ = outer[0];
    g_ = outer[1];
    const int64_t block_cols = plan.p.format.block_cols;
    width_ = block_cols / kLanes;
    blocks_ = block_cols == 0 ? 0 : cols_ / block_cols;
    first_scale_ = block_cols == 0 ? 0 : (tile * plan.p.cols + col_) / block_cols;
    if (blocks_ == 0) {
      SetUniformFactors();
    } else {
      FindMaxima();
      SetScales();
    }
  }

  void Quantize() {
    if (blocks_ != 0) StoreScales(plan_, panel_.scales, first_scale_, blocks_);
    const auto encode = ordinary_ ? rows_.encode_ordinary : rows_.encode;
    for (int64_t r = 0; r < row_count_; ++r) {
      const Span span = SpanOf(r);
      uint8_t* data = plan_.p.data + (span.row * plan_.p.cols + span.col) * plan_.bits / 8;
      if (span.cols % kLanes == 0) {
        encode(RowOf(span), data);
      } else {
        encode(RowOf(span), panel_.packed);
        memcpy(data, panel_.packed, static_cast<size_t>(span.cols * plan_.bits / 8));
      }
    }
  }

  void FakeQuantize() {
    for (int64_t r = 0; r < row_count_; ++r) {
      const Span span = SpanOf(r);
      const int64_t first = span.row * plan_.p.cols + span.col;
      if (plan_.p.dtype == Dtype::kF32 && span.cols % kLanes == 0) {
        rows_.fake(RowOf(span), static_cast<float*>(plan_.p.out) + first);
      } else {
        rows_.fake(RowOf(span), panel_.y);
        WithDtype(plan_.p.dtype, [&](auto memory) {
          Narrow<decltype(memory)>(panel_.y, plan_.p.out, first, span.cols);
        });
      }
    }
  }

 private:
  Span SpanOf(int64_t r) const { return {first_row_ + r, col_, cols_}; }

  const float* Load(const Span& span) { return LoadSpan(plan_.p, span, panel_.x); }

  // The elements of a row as step 3 takes them.
  Row RowOf(const Span& span) {
    const float* x = row_count_ == 1 && loaded_ != nullptr ? loaded_ : Load(span);
    if (halve_) x = Halve(x, span.vectors());
    // Step 1 would wait for memory, so step 3 fetches the rest of the next panel and the beginning
    // of the one behind it. A copy has none behind it; looking for memory there takes long.
    const int64_t ahead = x == panel_.x ? 0 : plan_.panel_cols * 7 / 4;
    if (plan_.p.rounding != Rounding::kNearest) FillRandom(plan_, span, &panel_);
    return {x, span.vectors(), ahead, scales_, &panel_};
  }

  void SetUniformFactors() {
    ordinary_ = false;  // no block was looked through for NaN
    const int64_t vectors = SpanOf(0).vectors();
    for (int64_t i = 0; i < vectors; ++i) {
      panel_.spread.encode[i] = panel_.spread.decode[i] = g_;
      panel_.spread.decode2[i] = 1.0f;
    }
    scales_ = &panel_.spread;
  }

  void FindMaxima() {
    const bool finite = plan_.p.format.scale_type == ScaleType::kFloat32;
    if (row_count_ == 1) {
      loaded_ = Load(SpanOf(0));
      (finite ? BlockMaximaOf<true, false> : BlockMaximaOf<false, false>)(loaded_, blocks_, width_,
                                                                          panel_.amax);
      return;
    }
    for (int64_t r = 0; r < row_count_; ++r) {
      const Span span = SpanOf(r);
      (finite ? TileMagnitudes<true> : TileMagnitudes<false>)(Load(span), span.vectors(), r == 0,
                                                              panel_.magnitudes);
    }
    BlockMaximaOf<false, true>(reinterpret_cast<const float*>(panel_.magnitudes), blocks_, width_,
                               panel_.amax);
  }

  void SetScales() {
    const bool both = IsFourOverSix(plan_.p.rule);
    for (int64_t b = 0; b < blocks_; b += kLanes) {
      const U amax = LoadU32(panel_.amax + b);
      if (both) {
        BlockScale<Lanes> six, four;
        CandidateScales<Lanes>(plan_.p.rule, amax, G_, g_, &six, &four);
        panel_.scales.Set(b, six);
        panel_.scales4.Set(b, four);
      } else {
        panel_.scales.Set(b, ScaleOfBlock<Lanes>(plan_.formula, amax, G_, g_));
      }
    }
    if (both) ChooseFour();
    InspectScales();
    scales_ = &panel_.scales;
    if (width_ > 1) {
      Repeat(panel_.scales.encode, blocks_, width_, panel_.spread.encode);
      Repeat(panel_.scales.decode, blocks_, width_, panel_.spread.decode);
      Repeat(panel_.scales.decode2, blocks_, width_, panel_.spread.decode2);
      scales_ = &panel_.spread;
    }
  }

  // Replaces the scales of blocks whose error is smaller with four than with six.
  void ChooseFour() {
    for (int64_t b = 0; b < blocks_; b += kLanes) {
      F error6 = Zero(), error4 = Zero();
      for (int64_t r = 0; r < row_count_; ++r) {
        const float* x = row_count_ == 1 ? loaded_ : Load(SpanOf(r));
        const auto errors = [&](const Scales& s) {
          return BlockErrors(plan_.p.rule, x + b * kLanes, blocks_ - b, s, b);
        };
        const F six = errors(panel_.scales), four = errors(panel_.scales4);
        error6 = r == 0 ? six : error6 + six;
        error4 = r == 0 ? four : error4 + four;
      }
      const Lanes::M choose = Lanes::Less(error4, error6);
      Scales& s = panel_.scales;
      const Scales& t = panel_.scales4;
      s.Set(b, {Lanes::Select(choose, LoadU32(t.stored + b), LoadU32(s.stored + b)),
                Lanes::Select(choose, LoadF32(t.encode + b), LoadF32(s.encode + b)),
                Lanes::Select(choose, LoadF32(t.decode + b), LoadF32(s.decode + b)),
                LoadF32(s.decode2 + b)});
    }
  }

  // Elements come out NaN only where a factor is NaN, zero or infinite, or where infinite elements
  // did not count for the scale.
  void InspectScales() {
    const ScaleType type = plan_.p.format.scale_type;
    if (type == ScaleType::kFloat32) {
      ordinary_ = false;
      return;
    }
    for (int64_t b = 0; b < blocks_; b += kLanes) {
      const U factor = LoadU32(reinterpret_cast<const uint32_t*>(panel_.scales.encode) + b);
      if (Lanes::Any(Lanes::Less(U(kInfinity - (1u << 23) - 1u), factor - (1u << 23)))) {
        ordinary_ = false;
      }
      if (type == ScaleType::kE8M0 &&
          Lanes::Any(Lanes::Equal(LoadU32(panel_.scales.stored + b), U(254)))) {
        halve_ = true;
      }
    }
  }

  // Blocks of scale 2^127 need the factor 2^-127, which is not a normal float.
  const float* Halve(const float* x, int64_t vectors) {
    for (int64_t i = 0; i < vectors; ++i) {
      const F factor(panel_.scales.stored[i / width_] == 254 ? 0.5f : 1.0f);
      StoreF32(LoadF32(x + i * kLanes) * factor, panel_.x + i * kLanes);
    }
    return panel_.x;
  }

  const QuantizePlan& plan_;
  const RowKernels& rows_;
  Panel& panel_;
  int64_t first_row_, row_count_, col_, cols_;
  int64_t width_, blocks_;  // vectors to a block, blocks to the panel
  int64_t first_scale_;
  float G_, g_;
  const Scales* scales_;           // of each vector of the panel
  const float* loaded_ = nullptr;  // a single row's elements, kept from step 1
  bool ordinary_ = true;
  bool halve_ = false;
};

}  // namespace

void QuantizeBlocks(const QuantizePlan& plan, int64_t begin, int64_t end) {
  const RowKernels rows = KernelsOf(plan);
  Panel panel;
  for (int64_t item = begin; item < end; ++item) Tile(plan, rows, item, &panel).Quantize();
}

void FakeQuantize(const QuantizePlan& plan, int64_t begin, int64_t end) {
  const RowKernels rows = KernelsOf(plan);
  Panel panel;
  for (int64_t item = begin; item < end; ++item) Tile(plan, rows, item, &panel).FakeQuantize();
}

}  // namespace jaxfp4::JAXFP4_TARGET
