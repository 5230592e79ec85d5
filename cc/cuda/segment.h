// Sixteen consecutive elements of a row: what one thread works on. Blocks are whole segments; only
// a row without blocks may end in a part of one.
#pragma once

#include "cc/codec/decode.h"
#include "cc/codec/half.h"
#include "cc/codec/scale.h"
#include "cc/cuda/launch.h"
#include "cc/problem.h"

namespace jaxfp4::cuda {

using One = ScalarLanes;

constexpr int kSegment = 16;

// From global memory that nothing writes to meanwhile. The compiler does not always see that it is
// global, and loads from whatever memory otherwise, which is slower.
template <class T>
JAXFP4_HD T LoadAs(const void* p) {
#if defined(__CUDA_ARCH__)
  return __ldg(static_cast<const T*>(p));
#else
  return *static_cast<const T*>(p);
#endif
}

// `kBytes` (a multiple of 4) as words, with the widest accesses that segments are aligned to.
template <int kBytes>
JAXFP4_HD void LoadWords(const void* p, uint32_t* words) {
  constexpr int kWidth = kBytes % 16 == 0 ? 16 : kBytes % 8 == 0 ? 8 : 4;
  const auto* bytes = static_cast<const unsigned char*>(p);
#pragma unroll
  for (int i = 0; i < kBytes; i += kWidth) {
    uint32_t* w = words + i / 4;
    if constexpr (kWidth == 16) {
      const uint4 v = LoadAs<uint4>(bytes + i);
      w[0] = v.x, w[1] = v.y, w[2] = v.z, w[3] = v.w;
    } else if constexpr (kWidth == 8) {
      const uint2 v = LoadAs<uint2>(bytes + i);
      w[0] = v.x, w[1] = v.y;
    } else {
      w[0] = LoadAs<uint32_t>(bytes + i);
    }
  }
}

// 4, 8 or 16 bytes of shared memory.
template <int kBytes>
JAXFP4_HD void LoadShared(const void* p, uint32_t* words) {
  if constexpr (kBytes == 16) {
    const uint4 v = *static_cast<const uint4*>(p);
    words[0] = v.x, words[1] = v.y, words[2] = v.z, words[3] = v.w;
  } else if constexpr (kBytes == 8) {
    const uint2 v = *static_cast<const uint2*>(p);
    words[0] = v.x, words[1] = v.y;
  } else {
    words[0] = *static_cast<const uint32_t*>(p);
  }
}

template <int kBytes>
JAXFP4_HD void StoreWords(const uint32_t* words, void* p) {
  constexpr int kWidth = kBytes % 16 == 0 ? 16 : kBytes % 8 == 0 ? 8 : 4;
  auto* bytes = static_cast<unsigned char*>(p);
#pragma unroll
  for (int i = 0; i < kBytes; i += kWidth) {
    const uint32_t* w = words + i / 4;
    if constexpr (kWidth == 16) {
      *reinterpret_cast<uint4*>(bytes + i) = uint4{w[0], w[1], w[2], w[3]};
    } else if constexpr (kWidth == 8) {
      *reinterpret_cast<uint2*>(bytes + i) = uint2{w[0], w[1]};
    } else {
      *reinterpret_cast<uint32_t*>(bytes + i) = w[0];
    }
  }
}

// float16 to float32, exact.
JAXFP4_HD float FromHalf(uint32_t half) {
#if defined(__CUDA_ARCH__)
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(static_cast<unsigned short>(half)));
  return x;
#else
  return FromF16<One>(half);
#endif
}

constexpr int SizeOf(Dtype dtype) { return dtype == Dtype::kF32 ? 4 : 2; }

JAXFP4_HD float Widened(Dtype dtype, const void* p) {
  if (dtype == Dtype::kF32) return LoadAs<float>(p);
  const uint32_t half = LoadAs<uint16_t>(p);
  return dtype == Dtype::kBF16 ? FromBF16<One>(half) : FromHalf(half);
}

JAXFP4_HD void StoreNarrowed(Dtype dtype, float x, void* p) {
  if (dtype == Dtype::kF32) {
    *static_cast<float*>(p) = x;
  } else {
    const uint32_t half = dtype == Dtype::kBF16 ? ToBF16<One>(x) : ToF16<One>(x);
    *static_cast<uint16_t*>(p) = static_cast<uint16_t>(half);
  }
}

// Two floats as halves, the first lower.
JAXFP4_HD uint32_t NarrowedPair(Dtype dtype, float x, float y) {
#if defined(__CUDA_ARCH__)
  uint32_t pair;
  if (dtype == Dtype::kBF16) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(y), "f"(x));
  } else {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(y), "f"(x));
  }
  return pair;
#else
  return dtype == Dtype::kBF16 ? ToBF16<One>(x) | ToBF16<One>(y) << 16
                               : ToF16<One>(x) | ToF16<One>(y) << 16;
#endif
}

JAXFP4_HD void WidenWords(Dtype dtype, const uint32_t* words, float* x) {
#pragma unroll
  for (int i = 0; i < kSegment; ++i) {
    const uint32_t half = i % 2 ? words[i / 2] >> 16 : words[i / 2] & 0xffffu;
    x[i] = dtype == Dtype::kBF16 ? FromBF16<One>(half) : FromHalf(half);
  }
}

// Elements `first` to first + count of an array; the rest of the sixteen are zeros. `aligned`: this
// is a whole segment at a multiple of 16 bytes.
JAXFP4_HD void LoadSegment(Dtype dtype, const void* array, int64_t first, int count, bool aligned,
                           float* x) {
  const auto* p = static_cast<const unsigned char*>(array) + first * SizeOf(dtype);
  uint32_t words[kSegment];
  if (aligned) {
    if (dtype == Dtype::kF32) {
      LoadWords<kSegment * 4>(p, words);
#pragma unroll
      for (int i = 0; i < kSegment; ++i) x[i] = One::Float(words[i]);
      return;
    }
    LoadWords<kSegment * 2>(p, words);
    WidenWords(dtype, words, x);
    return;
  }
#pragma unroll
  for (int i = 0; i < kSegment; ++i) {
    x[i] = i < count ? Widened(dtype, p + i * SizeOf(dtype)) : 0.0f;
  }
}

JAXFP4_HD void StoreSegment(Dtype dtype, const float* x, void* array, int64_t first, int count,
                            bool aligned) {
  auto* p = static_cast<unsigned char*>(array) + first * SizeOf(dtype);
  uint32_t words[kSegment];
  if (aligned && dtype == Dtype::kF32) {
#pragma unroll
    for (int i = 0; i < kSegment; ++i) words[i] = One::Bits(x[i]);
    StoreWords<kSegment * 4>(words, p);
  } else if (aligned) {
#pragma unroll
    for (int i = 0; i < kSegment; i += 2) {
      words[i / 2] = dtype == Dtype::kBF16 ? ToBF16<One>(x[i]) | ToBF16<One>(x[i + 1]) << 16
                                           : ToF16<One>(x[i]) | ToF16<One>(x[i + 1]) << 16;
    }
    StoreWords<kSegment * 2>(words, p);
  } else {
#pragma unroll
    for (int i = 0; i < kSegment; ++i) {
      if (i < count) StoreNarrowed(dtype, x[i], p + i * SizeOf(dtype));
    }
  }
}

// ---- codes: code i is bits [i * kBits, (i + 1) * kBits) of the words

template <int kBits>
JAXFP4_HD uint32_t CodeAt(const uint32_t* words, int i) {
  const int at = i * kBits, word = at / 32, shift = at % 32;
  uint32_t code = words[word] >> shift;
  if (shift + kBits > 32) code |= words[word + 1] << (32 - shift);
  return code & ((1u << kBits) - 1);
}

template <int kBits>
JAXFP4_HD void PutCode(uint32_t code, int i, uint32_t* words) {  // into words that start as zeros
  const int at = i * kBits, word = at / 32, shift = at % 32;
  words[word] |= code << shift;
  if (shift + kBits > 32) words[word + 1] |= code >> (32 - shift);
}

// The codes of a segment; of a part of one, byte by byte.
template <int kBits>
JAXFP4_HD void LoadCodes(const uint8_t* p, int count, bool aligned, uint32_t* words) {
  if (aligned) return LoadWords<kSegment * kBits / 8>(p, words);
#pragma unroll
  for (int i = 0; i < kSegment * kBits / 32; ++i) words[i] = 0;
#pragma unroll
  for (int i = 0; i < kSegment * kBits / 8; ++i) {
    if (i * 8 < count * kBits) words[i / 4] |= uint32_t{p[i]} << (8 * (i % 4));
  }
}

template <int kBits>
JAXFP4_HD void StoreCodes(const uint32_t* words, int count, bool aligned, uint8_t* p) {
  if (aligned) return StoreWords<kSegment * kBits / 8>(words, p);
#pragma unroll
  for (int i = 0; i < kSegment * kBits / 8; ++i) {
    if (i * 8 < count * kBits) p[i] = static_cast<uint8_t>(words[i / 4] >> (8 * (i % 4)));
  }
}

// The value of a code, by way of float16: its bits at the top of one are the value times a power of
// two, subnormals included, and converting from float16 flushes nothing.
template <class E>
JAXFP4_HD float ValueOf(uint32_t code) {
  constexpr int kBias = 1 - E::kMinExponent;
  constexpr uint32_t kMagnitude = (1u << (E::kBits - 1)) - 1;
  const uint32_t magnitude = code & kMagnitude;
  const uint32_t half = (code & ~kMagnitude) << (16 - E::kBits) | magnitude
                                                                      << (10 - E::kMantissaBits);
  const float value = FromHalf(half) * One::Float(PowerBits(15 - kBias));
  // float16 has the specials of e5m2, but not the NaN of e4m3.
  if constexpr (E::kBits == 8 && E::kMantissaBits == 3) {
    if (magnitude == E::kFirstNaN) return One::Float(kQuietNaN);
  }
  return value;
}

// ---- scales

JAXFP4_HD void DecodeScale(ScaleType type, uint32_t code, float* decode, float* decode2) {
  *decode2 = 1.0f;
  if (type == ScaleType::kFloat32) {
    *decode = One::Float(code);
  } else if (type == ScaleType::kE4M3) {
    *decode = ValueOf<E4M3>(code);
  } else {
    DecodeE8M0<One>(code, decode, decode2);
  }
}

JAXFP4_HD void LoadScale(ScaleType type, const void* scales, int64_t index, float* decode,
                         float* decode2) {
  const uint32_t code = type == ScaleType::kFloat32 ? static_cast<const uint32_t*>(scales)[index]
                                                    : static_cast<const uint8_t*>(scales)[index];
  DecodeScale(type, code, decode, decode2);
}

inline bool IsAligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

}  // namespace jaxfp4::cuda
