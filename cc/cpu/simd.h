// Sixteen lanes of float and of uint32 on every CPU target: what kernels are written in.
//
// Lanes is the `V` of the codec (cc/codec/lanes.h). Beside it stand loads, stores, conversions and
// the few lane crossings that quantization needs. Included by *_kernel.cc only; everything is in
// the target's namespace and always inlined.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "cc/codec/decode.h"
#include "cc/codec/half.h"
#include "cc/problem.h"

#define JAXFP4_INLINE inline __attribute__((always_inline))

namespace jaxfp4::JAXFP4_TARGET {

constexpr int kLanes = 16;

}  // namespace jaxfp4::JAXFP4_TARGET

#if defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#include "cc/cpu/simd_avx512.h"
#elif defined(JAXFP4_NEON)  // not __ARM_NEON, which the scalar target has as well
#include "cc/cpu/simd_neon.h"
#else
#include "cc/cpu/simd_generic.h"
#endif

namespace jaxfp4::JAXFP4_TARGET {

using F = Lanes::F;
using U = Lanes::U;

// ---- memory of any of the three float types

template <Dtype kDtype>
struct Memory;

template <>
struct Memory<Dtype::kF32> {
  using Type = float;
  static JAXFP4_INLINE F Load(const float* p) { return LoadF32(p); }
  static JAXFP4_INLINE void Store(F x, float* p) { StoreF32(x, p); }
};
template <>
struct Memory<Dtype::kBF16> {
  using Type = uint16_t;
  static JAXFP4_INLINE F Load(const uint16_t* p) { return FromBF16<Lanes>(LoadU16(p)); }
  static JAXFP4_INLINE void Store(F x, uint16_t* p) { StoreU16(ToBF16<Lanes>(x), p); }
};
template <>
struct Memory<Dtype::kF16> {
  using Type = uint16_t;
  static JAXFP4_INLINE F Load(const uint16_t* p) { return LoadF16(p); }
  static JAXFP4_INLINE void Store(F x, uint16_t* p) { StoreF16(x, p); }
};

// Calls body.template operator()<kDtype>() for the type at run time.
template <class Body>
JAXFP4_INLINE void WithDtype(Dtype dtype, const Body& body) {
  switch (dtype) {
    case Dtype::kF32: return body(Memory<Dtype::kF32>());
    case Dtype::kBF16: return body(Memory<Dtype::kBF16>());
    case Dtype::kF16: return body(Memory<Dtype::kF16>());
  }
}

JAXFP4_INLINE F Zero() { return F(0.0f); }
JAXFP4_INLINE U Magnitude(F x) { return Lanes::Bits(x) & ~kSignBit; }

// The magnitude of a finite lane, 0 for an infinity or NaN.
JAXFP4_INLINE U FiniteMagnitude(F x) {
  const U m = Magnitude(x);
  return Lanes::Select(Lanes::Less(m, U(kInfinity)), m, U(0));
}

// Lane i is the largest of v[i]'s lanes; or the sum of v[i]'s lanes, added by halves.
JAXFP4_INLINE U MaxOfEach(const U v[16]) { return FoldEach<MaxOp>(v); }
JAXFP4_INLINE F SumOfEach(const F v[16]) { return FoldEach<AddOp>(v); }

// The lanes' bytes, in order.
JAXFP4_INLINE void StoreWords(U x, uint8_t* p) { memcpy(p, &x, sizeof(x)); }

// ---- packed codes, kLanes at a time: kLanes * bits / 8 bytes

template <int kBits>
JAXFP4_INLINE void StoreCodes(U codes, uint8_t* p) {
  if constexpr (kBits == 8) {
    StoreBytes(codes, p);
  } else if constexpr (kBits == 4) {
    StoreNibbles(codes, p);
  } else {
    static_assert(kBits == 6, "codes have 4, 6 or 8 bits");
    StoreSixes(codes, p);
  }
}

template <int kBits>
JAXFP4_INLINE U LoadCodes(const uint8_t* p) {
  if constexpr (kBits == 8) {
    return LoadBytes(p);
  } else if constexpr (kBits == 4) {
    return LoadNibbles(p);
  } else {
    static_assert(kBits == 6, "codes have 4, 6 or 8 bits");
    return LoadSixes(p);
  }
}

// Each of `count` values `width` times. (Twice is what blocks of 32 take: a loop that compilers turn
// into shuffles.)
inline void Repeat(const float* __restrict x, int64_t count, int64_t width, float* __restrict y) {
  if (width == 2) {
    for (int64_t i = 0; i < count; ++i) y[2 * i] = y[2 * i + 1] = x[i];
    return;
  }
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t j = 0; j < width; ++j) *y++ = x[i];
  }
}

// The values of codes, which for four bits are looked up.
template <class E>
JAXFP4_INLINE F DecodeCodes(U codes) {
  if constexpr (E::kBits == 4) {
    return LookUpE2M1(codes);
  } else {
    return Decode<E, Lanes>(codes);
  }
}

}  // namespace jaxfp4::JAXFP4_TARGET
