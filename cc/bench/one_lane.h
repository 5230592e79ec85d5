// The operations one element at a time, by the codec of one lane: the base of what vectors are said
// to save. Compiled without vectorization. Serves float32 (lhs of products: bfloat16, too), one
// batch entry and one global scale, which is what is counted.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "cc/codec/choice.h"
#include "cc/codec/decode.h"
#include "cc/codec/random.h"
#include "cc/problem.h"

namespace jaxfp4::one_lane {

using V = ScalarLanes;

template <class Body>
void WithElement(Element element, const Body& body) {
  element == Element::kE2M1 ? body(E2M1()) : body(E4M3());
}

// ------------------------------------------------------------------ quantize_blocks, fake_quantize

template <class E>
ScaleFormula FormulaOf(const QuantizeProblem& p) {
  return {p.format.scale_type, p.rule, p.arithmetic, PowerRuleOf<E>(p.rule), V::Float(E::kMax)};
}

// keep(scale) for each block of a row, and store(i, rounded, bits, scale) for each of its elements.
template <class E, class Keep, class Store>
void RoundRow(const QuantizeProblem& p, int64_t row, const Keep& keep, const Store& store) {
  const ScaleFormula formula = FormulaOf<E>(p);
  const float* x = static_cast<const float*>(p.x) + row * p.cols;
  for (int64_t first = 0; first < p.cols; first += p.format.block_cols) {
    const int64_t end = first + p.format.block_cols;
    uint32_t amax = 0;
    for (int64_t i = first; i < end; ++i) amax = V::Max(amax, V::Bits(x[i]) & ~kSignBit);
    const auto scale = ScaleOfBlock<V>(formula, amax, p.outer[0], p.outer[1]);
    keep(scale);
    uint32_t random = 0;
    for (int64_t i = first; i < end; ++i) {
      const uint32_t bits = V::Bits(x[i] * scale.encode), magnitude = bits & ~kSignBit;
      if (p.rounding == Rounding::kNearest) {
        store(i, RoundNearest<E, V>(magnitude), bits, scale);
      } else {
        random = i % 4 == 0 ? RandomBits(p.row_seed[2 * row], p.row_seed[2 * row + 1],
                                         static_cast<uint32_t>(i / 4))
                            : random >> 8;
        store(i, RoundStochastic8<E, V>(magnitude, random & 255u), bits, scale);
      }
    }
  }
}

template <class E>
void QuantizeRow(const QuantizeProblem& p, int64_t row) {
  uint8_t* data = p.data + row * p.cols * E::kBits / 8;
  uint8_t* scale = static_cast<uint8_t*>(p.scale) + row * p.cols / p.format.block_cols;
  uint32_t even = 0;
  const auto keep = [&](const BlockScale<V>& s) { *scale++ = static_cast<uint8_t>(s.stored); };
  RoundRow<E>(p, row, keep, [&](int64_t i, const Rounded<V>& q, uint32_t bits, auto) {
    const uint32_t code = Code<E, V>(q, bits);
    if (E::kBits == 8) {
      data[i] = static_cast<uint8_t>(code);
    } else if (i % 2 == 0) {
      even = code;
    } else {
      data[i / 2] = static_cast<uint8_t>(even | code << 4);
    }
  });
}

template <class E>
void FakeQuantizeRow(const QuantizeProblem& p, int64_t row) {
  float* out = static_cast<float*>(p.out) + row * p.cols;
  const auto keep = [](auto) {};
  RoundRow<E>(p, row, keep, [&](int64_t i, const Rounded<V>& q, uint32_t bits, const auto& s) {
    out[i] = Value<E, V>(q, bits) * s.decode * s.decode2;
  });
}

inline void QuantizeBlocks(const QuantizeProblem& p) {
  WithElement(p.format.element, [&](auto e) {
    for (int64_t row = 0; row < p.rows; ++row) QuantizeRow<decltype(e)>(p, row);
  });
}

inline void FakeQuantize(const QuantizeProblem& p) {
  WithElement(p.format.element, [&](auto e) {
    for (int64_t row = 0; row < p.rows; ++row) FakeQuantizeRow<decltype(e)>(p, row);
  });
}

// ------------------------------------------------------------------ dequantize_blocks, scaled_dot

inline float ScaleValue(ScaleType type, const void* scale, int64_t i) {
  if (type == ScaleType::kFloat32) return static_cast<const float*>(scale)[i];
  const uint32_t code = static_cast<const uint8_t*>(scale)[i];
  if (type == ScaleType::kE4M3) return Decode<E4M3, V>(code);
  float decode, decode2;
  DecodeE8M0<V>(code, &decode, &decode2);
  return decode * decode2;
}

// The values of the element type's codes.
template <class E>
struct Values {
  float of[1 << E::kBits];
  Values() {
    for (uint32_t code = 0; code < 1u << E::kBits; ++code) of[code] = Decode<E, V>(code);
  }
};

// A row of `cols` codes whose scales begin at first_scale, `block` columns to each.
template <class E>
void DecodeRow(const Values<E>& values, const uint8_t* data, int64_t cols, ScaleType type,
               const void* scale, int64_t first_scale, int64_t block, float global, float* out) {
  for (int64_t first = 0; first < cols; first += block, ++first_scale) {
    const float factor = ScaleValue(type, scale, first_scale) * global;
    for (int64_t i = first; i < first + block; i += 8 / E::kBits) {
      const uint32_t byte = data[i * E::kBits / 8];
      out[i] = values.of[E::kBits == 8 ? byte : byte & 15] * factor;
      if (E::kBits == 4) out[i + 1] = values.of[byte >> 4] * factor;
    }
  }
}

inline void DequantizeBlocks(const DequantizeProblem& p) {
  WithElement(p.format.element, [&](auto e) {
    using E = decltype(e);
    const Values<E> values;
    for (int64_t row = 0; row < p.rows; ++row) {
      DecodeRow<E>(values, p.data + row * p.cols * E::kBits / 8, p.cols, p.format.scale_type,
                   p.scale, row * p.scale_row_stride, p.format.block_cols, p.global_scale[0],
                   static_cast<float*>(p.out) + row * p.cols);
    }
  });
}

// An operand of a product as float32 [rows, depth].
inline std::vector<float> Decoded(const DotOperand& x, int64_t rows, int64_t depth) {
  std::vector<float> out(static_cast<size_t>(rows * depth));
  if (x.coded) {
    WithElement(x.format.element, [&](auto e) {
      using E = decltype(e);
      const Values<E> values;
      for (int64_t row = 0; row < rows; ++row) {
        DecodeRow<E>(values, static_cast<const uint8_t*>(x.data) + row * depth * E::kBits / 8,
                     depth, x.format.scale_type, x.scale, row * x.scale_row_stride,
                     depth / x.scale_cols, x.global_scale[0], out.data() + row * depth);
      }
    });
  } else if (x.dtype == Dtype::kF32) {
    memcpy(out.data(), x.data, out.size() * sizeof(float));
  } else {
    const auto* half = static_cast<const uint16_t*>(x.data);
    for (size_t i = 0; i < out.size(); ++i) out[i] = V::Float(uint32_t{half[i]} << 16);
  }
  return out;
}

inline void ScaledDot(const ScaledDotProblem& p) {
  const std::vector<float> lhs = Decoded(p.lhs, p.rows, p.depth);
  const std::vector<float> rhs = Decoded(p.rhs, p.cols, p.depth);
  float* out = static_cast<float*>(p.out);
  for (int64_t m = 0; m < p.rows; ++m) {
    for (int64_t n = 0; n < p.cols; ++n) {
      const float* a = lhs.data() + m * p.depth;
      const float* b = rhs.data() + n * p.depth;
      float sum = 0.0f;
#pragma GCC unroll 8
      for (int64_t k = 0; k < p.depth; ++k) sum += a[k] * b[k];
      out[m * p.out_stride + n] = sum;
    }
  }
}

// ------------------------------------------------------------------ amax, hadamard

inline void Amax(const AmaxProblem& p) {
  const float* x = static_cast<const float*>(p.x);
  uint32_t largest = 0;
#pragma GCC unroll 4
  for (int64_t i = 0; i < p.size; ++i) {
    const uint32_t magnitude = V::Bits(x[i]) & ~kSignBit;
    largest = V::Max(largest, magnitude < kInfinity ? magnitude : 0);
  }
  *p.out = V::Float(largest);
}

template <int n>
void TransformGroups(const HadamardProblem& p, float norm) {
  const float* x = static_cast<const float*>(p.x);
  float* out = static_cast<float*>(p.out);
  for (int64_t group = 0; group < p.count; group += n, x += n, out += n) {
    float y[n];
    for (int i = 0; i < n; ++i) y[i] = x[i] * p.signs[i];
#pragma GCC unroll 8
    for (int h = 1; h < n; h *= 2) {
#pragma GCC unroll 16
      for (int i = 0; i < n; ++i) {
        if (i & h) continue;
        const float a = y[i], b = y[i + h];
        y[i] = a + b;
        y[i + h] = a - b;
      }
    }
    for (int i = 0; i < n; ++i) out[i] = y[i] * norm;
  }
}

// Forward, of 16 or 128.
inline void Hadamard(const HadamardProblem& p) {
  p.n == 16 ? TransformGroups<16>(p, 0.25f) : TransformGroups<128>(p, 0.0883883461f);
}

}  // namespace jaxfp4::one_lane
