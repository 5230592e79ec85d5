// dequantize_blocks: codes and block scales -> values. A row goes panel by panel: decode the scales
// of its blocks, then sixteen codes at a time.
#include "cc/codec/scale.h"
#include "cc/cpu/plan.h"
#include "cc/cpu/simd_decode.h"

namespace jaxfp4::JAXFP4_TARGET {
namespace {

constexpr int kVectors = kPanelCols / kLanes;

// What multiplies the elements of a block, one after the other.
struct Factors {
  float decode[kVectors + kLanes];
  float decode2[kVectors + kLanes];
};

// The factors of kLanes consecutive scales. Those of float32 come second: times `unit` they could be
// infinite. The first of the others are at most 2^64.
JAXFP4_INLINE void DecodeScales(ScaleType type, const void* scale, float g, float unit, F* decode,
                                F* decode2) {
  switch (type) {
    case ScaleType::kFloat32:
      *decode = F(unit);
      *decode2 = LoadF32(static_cast<const float*>(scale));
      return;
    case ScaleType::kE4M3:
      *decode = LoadValues<E4M3>(static_cast<const uint8_t*>(scale)) * F(unit);
      *decode2 = F(g);
      return;
    case ScaleType::kE8M0:
      DecodeE8M0<Lanes>(LoadBytes(static_cast<const uint8_t*>(scale)), decode, decode2);
      *decode = *decode * F(unit);
      return;
  }
}

// The factors of `blocks` scales, which may end where memory does, for elements over `unit`.
void BlockFactors(ScaleType type, const void* scale, int64_t blocks, float g, float unit,
                  Factors* f) {
  const int64_t bytes = type == ScaleType::kFloat32 ? 4 : 1;
  const auto* p = static_cast<const uint8_t*>(scale);
  for (int64_t b = 0; b < blocks; b += kLanes) {
    uint8_t last[kLanes * 4] = {};
    const uint8_t* source = p + b * bytes;
    if (b + kLanes > blocks) {
      memcpy(last, source, static_cast<size_t>((blocks - b) * bytes));
      source = last;
    }
    F decode, decode2;
    DecodeScales(type, source, g, unit, &decode, &decode2);
    StoreF32(decode, f->decode + b);
    StoreF32(decode2, f->decode2 + b);
  }
}

template <class E, class Mem>
JAXFP4_INLINE void DecodeVector(const uint8_t* data, const Factors& f, int64_t i,
                                typename Mem::Type* out) {
  const F q = LoadOverUnit<E>(data);
  Mem::Store((q * F(f.decode[i])) * F(f.decode2[i]), out);
}

template <class E, class Mem>
void DecodeSpan(const uint8_t* data, const Factors& f, int64_t cols, void* out) {
  constexpr int kBytes = kLanes * E::kBits / 8;
  auto* p = static_cast<typename Mem::Type*>(out);
  const int64_t vectors = cols / kLanes, left = cols % kLanes;
#pragma GCC unroll 4
  for (int64_t i = 0; i < vectors; ++i) {
    DecodeVector<E, Mem>(data + i * kBytes, f, i, p + i * kLanes);
  }
  if (left > 0) {
    uint8_t codes[kBytes] = {};
    typename Mem::Type values[kLanes];
    memcpy(codes, data + vectors * kBytes, static_cast<size_t>(left * E::kBits / 8));
    DecodeVector<E, Mem>(codes, f, vectors, values);
    memcpy(p + vectors * kLanes, values, static_cast<size_t>(left) * sizeof(*p));
  }
}

using SpanKernel = void (*)(const uint8_t*, const Factors&, int64_t, void*);

template <class E>
SpanKernel SpanKernelFor(Dtype dtype) {
  switch (dtype) {
    case Dtype::kF32: return DecodeSpan<E, Memory<Dtype::kF32>>;
    case Dtype::kBF16: return DecodeSpan<E, Memory<Dtype::kBF16>>;
    case Dtype::kF16: return DecodeSpan<E, Memory<Dtype::kF16>>;
  }
  return nullptr;
}

SpanKernel SpanKernelOf(const DequantizeProblem& p) {
  switch (p.format.element) {
    case Element::kE2M1: return SpanKernelFor<E2M1>(p.dtype);
    case Element::kE2M3: return SpanKernelFor<E2M3>(p.dtype);
    case Element::kE3M2: return SpanKernelFor<E3M2>(p.dtype);
    case Element::kE4M3: return SpanKernelFor<E4M3>(p.dtype);
    case Element::kE5M2: return SpanKernelFor<E5M2>(p.dtype);
  }
  return nullptr;
}

float UnitOf(Element element) { return element == Element::kE4M3 ? kLoadedUnit<E4M3> : 1.0f; }

void DequantizeItem(const DequantizePlan& plan, SpanKernel decode, int64_t item) {
  const DequantizeProblem& p = plan.p;
  const int64_t row = item / plan.panels;
  const int64_t col = item % plan.panels * plan.panel_cols;
  const int64_t cols = p.cols - col < plan.panel_cols ? p.cols - col : plan.panel_cols;
  const int64_t tile_rows = p.format.block_rows;
  const int64_t tile = tile_rows == 0 ? 0 : row % p.rows / tile_rows;
  const bool shared = p.scale_cols == 1;  // one scale for the whole row
  const int64_t scale = p.scale_batch_offset[row / p.rows] + tile * p.scale_row_stride +
                        (shared ? 0 : col / p.format.block_cols);
  const int64_t scale_bytes = p.format.scale_type == ScaleType::kFloat32 ? 4 : 1;
  // A shared scale is that of one block as wide as the panel.
  const int64_t blocks = shared ? 1 : cols / p.format.block_cols;
  const int64_t width = shared ? (cols + kLanes - 1) / kLanes : p.format.block_cols / kLanes;
  Factors factors, repeated;
  BlockFactors(p.format.scale_type, static_cast<const uint8_t*>(p.scale) + scale * scale_bytes,
               blocks, p.global_scale[row / plan.rows_per_global], UnitOf(p.format.element),
               &factors);
  if (width > 1) {
    Repeat(factors.decode, blocks, width, repeated.decode);
    Repeat(factors.decode2, blocks, width, repeated.decode2);
  }
  const int64_t out_bytes = p.dtype == Dtype::kF32 ? 4 : 2;
  decode(p.data + (row * p.cols + col) * plan.bits / 8, width > 1 ? repeated : factors, cols,
         static_cast<uint8_t*>(p.out) + (row * p.cols + col) * out_bytes);
}

}  // namespace

void DequantizeBlocks(const DequantizePlan& plan, int64_t begin, int64_t end) {
  const SpanKernel decode = SpanKernelOf(plan.p);
  for (int64_t item = begin; item < end; ++item) DequantizeItem(plan, decode, item);
}

}  // namespace jaxfp4::JAXFP4_TARGET
