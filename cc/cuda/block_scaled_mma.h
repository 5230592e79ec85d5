// The block-scaled matrix instructions of sm_120f. (cc/test/cuda_simt_async.h has them for the
// host.)
#pragma once

#include <cstdint>

#include "cc/cuda/block_scaled.h"
#include "cc/problem.h"

#if defined(__CUDACC__)

namespace jaxfp4::cuda {

#define JAXFP4_MULTIPLY_BLOCK_SCALED(instruction)                                               \
  asm("mma.sync.aligned." instruction                                                           \
      " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3}, "                       \
      "{%10}, {%12, %13}, {%11}, {%12, %13};"                                                   \
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                          \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(scale_a),         \
        "r"(scale_b), "n"(byte), "n"(thread))
#define JAXFP4_MULTIPLY_MXFP8(types)       \
  JAXFP4_MULTIPLY_BLOCK_SCALED(            \
      "m16n8k32.row.col.kind::mxf8f6f4.block_scale.scale_vec::1X.f32." types ".f32.ue8m0")

// d += a b for 16 rows a and 8 columns b of 32 bytes, 64 codes of e2m1 or 32 of eight bits, each
// element times the scale of its block, a warp together. A lane holds four bytes of each eight rows
// of a, and of a column of b: a[i] is of row lane / 4 + i % 2 * 8, from byte 16 (i / 2) + 4 (lane %
// 4) on; b[i] of column lane / 4, from byte 16 i + 4 (lane % 4) on. Scales are of row lane / 4 +
// lane % 2 * 8, and of column lane / 4: of type e4m3, the four bytes of the word; of type e8m0, two
// bytes for e2m1, one for others, from kByte on.
template <BlockScaledKind kKind, Element kLhs, Element kRhs, int kByte>
__device__ __forceinline__ void MultiplyBlockScaled(float (&d)[4], const uint32_t (&a)[4],
                                                    const uint32_t (&b)[2], uint32_t scale_a,
                                                    uint32_t scale_b) {
  constexpr uint16_t byte = kByte, thread = 0;  // of each four lanes, those from 0 on hold scales
  constexpr bool kE4M3 = kLhs == Element::kE4M3;
  if constexpr (kKind == BlockScaledKind::kMxf4Nvf4) {
    JAXFP4_MULTIPLY_BLOCK_SCALED(
        "m16n8k64.row.col.kind::mxf4nvf4.block_scale.scale_vec::4X.f32.e2m1.e2m1.f32.ue4m3");
  } else if constexpr (kKind == BlockScaledKind::kMxf4) {
    JAXFP4_MULTIPLY_BLOCK_SCALED(
        "m16n8k64.row.col.kind::mxf4.block_scale.scale_vec::2X.f32.e2m1.e2m1.f32.ue8m0");
  } else if constexpr (kRhs == Element::kE4M3) {
    if constexpr (kE4M3) JAXFP4_MULTIPLY_MXFP8("e4m3.e4m3");
    if constexpr (!kE4M3) JAXFP4_MULTIPLY_MXFP8("e5m2.e4m3");
  } else {
    if constexpr (kE4M3) JAXFP4_MULTIPLY_MXFP8("e4m3.e5m2");
    if constexpr (!kE4M3) JAXFP4_MULTIPLY_MXFP8("e5m2.e5m2");
  }
}
#undef JAXFP4_MULTIPLY_MXFP8
#undef JAXFP4_MULTIPLY_BLOCK_SCALED

}  // namespace jaxfp4::cuda

#endif
