// Columns of transposed operands, whose rows are contracted. Included by scaled_dot_kernel.cc only.
//
// Sixteen columns of codes are decoded to a vector of the panel as they lie in memory. Sixteen
// columns of floats are rows of lhs: they go through the registers sixteen of depth at a time.
#pragma once

#include "cc/cpu/scaled_dot_rows-inl.h"
#include "cc/cpu/scaled_dot_transpose-inl.h"

namespace jaxfp4::JAXFP4_TARGET {
namespace {

// ---- floats

// `count` elements, at most 16, then zeros.
template <class Memory>
JAXFP4_INLINE F LoadSome(const typename Memory::Type* from, int64_t count) {
  if (count == kLanes) return Memory::Load(from);
  typename Memory::Type some[kLanes] = {};
  memcpy(some, from, static_cast<size_t>(count) * sizeof(some[0]));
  return Memory::Load(some);
}

// Depth [begin, end) of `count` neighbouring columns, at most 16, then zeros up to the next multiple
// of 32. Column i is out + i * stride. Columns are counted through the batch.
template <class Memory>
void DecodeFloatColumns(const ScaledDotProblem& p, int64_t column, int64_t count, int64_t begin,
                        int64_t end, float* out, int64_t stride) {
  const int64_t entry = column / p.rows;
  const auto* first = static_cast<const typename Memory::Type*>(p.lhs.data) +
                      entry * p.depth * p.rows + column % p.rows;
  alignas(64) float tile[kLanes * kLanes];
  for (int64_t k = begin; k < RoundUp(end, 2 * kLanes); k += kLanes) {
    for (int i = 0; i < kLanes; ++i) {
      const bool inside = k + i < end;
      StoreF32(inside ? LoadSome<Memory>(first + (k + i) * p.rows, count) : Zero(),
               tile + i * kLanes);
    }
    TransposeWords([&](int i) { return tile + i * kLanes; },
                   reinterpret_cast<uint32_t*>(out + (k - begin)),
                   [=](int j) { return j * stride; });
  }
}

inline void DecodeColumns(const ScaledDotProblem& p, int64_t column, int64_t count, int64_t begin,
                          int64_t end, float* out, int64_t stride) {
  WithDtype(p.lhs.dtype, [&](auto memory) {
    DecodeFloatColumns<decltype(memory)>(p, column, count, begin, end, out, stride);
  });
}

// ---- codes

// The scales, at one column, of sixteen rows or as many as there are before `end`, as two factors
// each of which the second is 1 but for e8m0. Rows are counted through the batch.
struct RowScales {
  alignas(64) float factor[kLanes], factor2[kLanes];

  RowScales(const DotOperand& x, int64_t row, int64_t end, int64_t column) {
    alignas(64) uint8_t codes[kLanes] = {};
    StoreF32(F(1.0f), factor2);
    for (int64_t i = 0; i < Min64(kLanes, end - row); ++i) {
      const int64_t at = ScaleIndex(x, row + i, column);
      if (x.format.scale_type == ScaleType::kFloat32) {
        factor[i] = static_cast<const float*>(x.scale)[at];
      } else {
        codes[i] = static_cast<const uint8_t*>(x.scale)[at];
      }
    }
    if (x.format.scale_type == ScaleType::kE4M3) Set(Scale16<ScaleType::kE4M3>(codes));
    if (x.format.scale_type == ScaleType::kE8M0) Set(Scale16<ScaleType::kE8M0>(codes));
  }

  template <class Scales>
  JAXFP4_INLINE void Set(Scales scales) {
    StoreF32(scales.factor, factor);
    StoreF32(scales.factor2, factor2);
  }
};

// Words of the panel, `stride` apart: sixteen columns of rows [begin, end), all scales applied. A
// block has all sixteen columns or none.
template <class Math, class E>
void PackCodeColumns(const ScaledDotProblem& p, int64_t entry, int64_t column, int64_t begin,
                     int64_t end, uint32_t* panel, int64_t stride) {
  const int64_t first = entry * p.depth;
  for (int64_t k = begin; k < end; k += kLanes) {
    const RowScales scales(p.rhs, first + k, first + end, column);
    const auto value = [&](int64_t i) {
      const uint8_t* row = RowData(p.rhs, first + k + i, p.cols);
      return LoadElements<E>(row, column, p.cols) * F(scales.factor[i]) * F(scales.factor2[i]);
    };
    for (int64_t i = 0; i < Min64(kLanes, end - k); i += Math::kPerWord, panel += stride) {
      const bool pair = Math::kPerWord == 2 && k + i + 1 < end;
      StoreU32(Math::Word(value(i), pair ? value(i + 1) : Zero()), panel);
    }
  }
}

template <class Math>
void PackColumns(const ScaledDotProblem& p, int64_t entry, int64_t column, int64_t begin,
                 int64_t end, uint32_t* panel, int64_t stride) {
  switch (p.rhs.format.element) {
    case Element::kE2M1:
      return PackCodeColumns<Math, E2M1>(p, entry, column, begin, end, panel, stride);
    case Element::kE2M3:
      return PackCodeColumns<Math, E2M3>(p, entry, column, begin, end, panel, stride);
    case Element::kE3M2:
      return PackCodeColumns<Math, E3M2>(p, entry, column, begin, end, panel, stride);
    case Element::kE4M3:
      return PackCodeColumns<Math, E4M3>(p, entry, column, begin, end, panel, stride);
    case Element::kE5M2:
      return PackCodeColumns<Math, E5M2>(p, entry, column, begin, end, panel, stride);
  }
}

}  // namespace
}  // namespace jaxfp4::JAXFP4_TARGET
