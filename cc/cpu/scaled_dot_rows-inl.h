// Rows of an operand as floats, and where their scales are. Included by scaled_dot_kernel.cc only.
#pragma once

#include "cc/codec/decode.h"
#include "cc/codec/scale.h"
#include "cc/cpu/scaled_dot.h"
#include "cc/cpu/simd_decode.h"

namespace jaxfp4::JAXFP4_TARGET {
namespace {

constexpr int64_t Min64(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t RoundUp(int64_t a, int64_t b) { return CeilDiv(a, b) * b; }

class Scratch {
 public:
  Scratch(int64_t bytes, const ScaledDotProblem& p) : data_(AllocateScratch(bytes)) {
    if (data_ == nullptr) __atomic_store_n(p.out_of_memory, true, __ATOMIC_RELAXED);
  }
  ~Scratch() { FreeScratch(data_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  bool ok() const { return data_ != nullptr; }
  template <class T>
  T* As() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_;
};

constexpr int64_t BitsOf(Element element) {
  return element == Element::kE2M1 ? 4
         : element == Element::kE4M3 || element == Element::kE5M2 ? 8 : 6;
}

inline int64_t RowBytes(const DotOperand& x, int64_t depth) {
  if (x.coded) return depth * BitsOf(x.format.element) / 8;
  return depth * (x.dtype == Dtype::kF32 ? 4 : 2);
}

// Rows are counted through the batch.
inline const uint8_t* RowData(const DotOperand& x, int64_t row, int64_t depth) {
  return static_cast<const uint8_t*>(x.data) + row * RowBytes(x, depth);
}

inline int64_t ScaleIndex(const DotOperand& x, int64_t row, int64_t k) {
  const int64_t run = row / x.rows_per_offset;
  int64_t index = x.scale_offset[run];
  if (x.format.block_rows > 0) {
    index += (row - run * x.rows_per_offset) / x.format.block_rows * x.scale_row_stride;
  }
  return x.scale_cols == 1 ? index : index + k / x.format.block_cols;
}

// The same for the beginning of row n of a batch entry of rhs: no division where rows have scales of
// their own.
inline int64_t RowScaleIndex(const DotOperand& x, int64_t b, int64_t n) {
  const int64_t rows = x.format.block_rows;
  const int64_t row = rows == 0 ? 0 : rows == 1 ? n : n / rows;
  return x.scale_offset[b] + row * x.scale_row_stride;
}

// Scales of type float32 multiply sums of products, where other types multiply elements exactly. (A
// sum over rows has no one scale: transposed operands are decoded with all their scales.)
inline bool HasOuterScale(const DotOperand& x) {
  return x.coded && !x.transposed && x.format.scale_type == ScaleType::kFloat32;
}
inline bool HasOuterBlocks(const DotOperand& x) { return HasOuterScale(x) && x.scale_cols > 1; }
inline float OuterScale(const DotOperand& x, int64_t row, int64_t k) {
  return HasOuterScale(x) ? static_cast<const float*>(x.scale)[ScaleIndex(x, row, k)] : 1.0f;
}
// The part of it that does not change along the row.
inline float RowScale(const DotOperand& x, int64_t row) {
  return HasOuterBlocks(x) ? 1.0f : OuterScale(x, row, 0);
}

inline float GlobalScale(const DotOperand& x, int64_t row, int64_t total_rows) {
  return x.global_scale[x.global_count == 1 ? 0 : row * x.global_count / total_rows];
}

// ---- one-byte scales of sixteen rows or blocks, as factors of which the second is 1 but for e8m0

template <ScaleType kType>
struct Scale16 {
  F factor, factor2;

  explicit JAXFP4_INLINE Scale16(U codes) : factor2(1.0f) {
    if constexpr (kType == ScaleType::kE4M3) {
      factor = Decode<E4M3, Lanes>(codes);
    } else {
      DecodeE8M0<Lanes>(codes, &factor, &factor2);
    }
  }
  explicit JAXFP4_INLINE Scale16(const uint8_t* codes) : factor2(1.0f) {
    if constexpr (kType == ScaleType::kE4M3) {
      factor = LoadValues<E4M3>(codes);
    } else {
      *this = Scale16(LoadBytes(codes));
    }
  }

  JAXFP4_INLINE F Times(F x) const {
    return kType == ScaleType::kE4M3 ? x * factor : x * factor * factor2;
  }
  JAXFP4_INLINE F MulAdd(F x, F sum) const {
    return kType == ScaleType::kE4M3 ? Lanes::MulAdd(x, factor, sum)
                                     : Lanes::MulAdd(x * factor, factor2, sum);
  }
};

// ---- rows

// Codes of elements [begin, end), which may lie beyond the row. (Inlined, since compilers take a
// function that only prefetches for one without effects and drop its calls.)
JAXFP4_INLINE void PrefetchRow(const DotOperand& x, int64_t row, int64_t depth, int64_t begin,
                               int64_t end) {
  const uint8_t* codes = RowData(x, row, depth);
  const int64_t bits = BitsOf(x.format.element);
  for (int64_t i = begin * bits / 8; i < end * bits / 8; i += 64) __builtin_prefetch(codes + i);
}

// Sixteen elements from `k` on; zeros beyond `depth`.
template <class E>
JAXFP4_INLINE F LoadElements(const uint8_t* row, int64_t k, int64_t depth) {
  if (k + kLanes <= depth) return LoadValues<E>(row + k * E::kBits / 8);
  uint8_t codes[16] = {};
  memcpy(codes, row + k * E::kBits / 8, static_cast<size_t>((depth - k) * E::kBits / 8));
  return LoadValues<E>(codes);
}

// Elements [begin, end) of a row of codes; `begin` and blocks are multiples of 16.
template <class E>
void DecodeCodedRow(const DotOperand& x, int64_t row, int64_t depth, int64_t begin, int64_t end,
                    float* out) {
  const uint8_t* data = RowData(x, row, depth);
  const uint8_t* scale = static_cast<const uint8_t*>(x.scale) + ScaleIndex(x, row, 0);
  const ScaleType type = x.format.scale_type;
  const int64_t block = x.scale_cols == 1 ? depth : x.format.block_cols;
  int64_t k = begin;
  for (int64_t i = begin / block; k < end; ++i) {
    const int64_t stop = Min64((i + 1) * block, end);
    F factor(1.0f), factor2(1.0f);
    if (type == ScaleType::kE4M3) factor = Scale16<ScaleType::kE4M3>(U(uint32_t{scale[i]})).factor;
    if (type == ScaleType::kE8M0) DecodeE8M0<Lanes>(U(uint32_t{scale[i]}), &factor, &factor2);
    for (; k < stop; k += kLanes, out += kLanes) {
      StoreF32(LoadElements<E>(data, k, depth) * factor * factor2, out);
    }
  }
}

template <Dtype kDtype>
void DecodeFloatRow(const DotOperand& x, int64_t row, int64_t depth, int64_t begin, int64_t end,
                    float* out) {
  using Type = typename Memory<kDtype>::Type;
  const Type* data = static_cast<const Type*>(x.data) + row * depth;
  int64_t k = begin;
  for (; k + kLanes <= end; k += kLanes, out += kLanes) {
    StoreF32(Memory<kDtype>::Load(data + k), out);
  }
  if (k < end) {
    Type rest[kLanes] = {};
    memcpy(rest, data + k, static_cast<size_t>(end - k) * sizeof(Type));
    StoreF32(Memory<kDtype>::Load(rest), out);
  }
}

// Elements [begin, end) of a row as floats, one-byte scales applied, then zeros up to the next
// multiple of 32. `begin` is a multiple of 16 and `end` one too, or the depth.
inline void DecodeRow(const DotOperand& x, int64_t row, int64_t depth, int64_t begin, int64_t end,
                      float* out) {
  const int64_t size = RoundUp(end - begin, kLanes);
  StoreF32(Zero(), out + RoundUp(size, 2 * kLanes) - kLanes);
  if (!x.coded) {
    switch (x.dtype) {
      case Dtype::kF32: return DecodeFloatRow<Dtype::kF32>(x, row, depth, begin, end, out);
      case Dtype::kBF16: return DecodeFloatRow<Dtype::kBF16>(x, row, depth, begin, end, out);
      case Dtype::kF16: return DecodeFloatRow<Dtype::kF16>(x, row, depth, begin, end, out);
    }
  }
  switch (x.format.element) {
    case Element::kE2M1: return DecodeCodedRow<E2M1>(x, row, depth, begin, end, out);
    case Element::kE2M3: return DecodeCodedRow<E2M3>(x, row, depth, begin, end, out);
    case Element::kE3M2: return DecodeCodedRow<E3M2>(x, row, depth, begin, end, out);
    case Element::kE4M3: return DecodeCodedRow<E4M3>(x, row, depth, begin, end, out);
    case Element::kE5M2: return DecodeCodedRow<E5M2>(x, row, depth, begin, end, out);
  }
}

}  // namespace
}  // namespace jaxfp4::JAXFP4_TARGET
