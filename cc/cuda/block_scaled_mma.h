// The block-scaled matrix instructions of sm_120f. (cc/test/cuda_simt_async.h has them for the
// host.)
#pragma once

#include <cstdint>

#include "cc/problem.h"

#if defined(__CUDACC__)

namespace jaxfp4::cuda {

// d += a b for the 16 x 64 matrix a and the 64 x 8 matrix b of e2m1, each element times the scale
// of its block, a warp together. A lane holds eight codes of each eight rows of a, and of a column
// of b: a[i] is of row lane / 4 + i % 2 * 8, from 32 (i / 2) + 8 (lane % 4) on; b[i] of column
// lane / 4, from 32 i + 8 (lane % 4) on. Scales are of row lane / 4 + lane % 2 * 8, and of column
// lane / 4: of type e4m3, one for sixteen elements, the four bytes of the word; of type e8m0, one
// for thirty-two, two bytes from kByte on.
template <ScaleType kType, int kByte>
__device__ __forceinline__ void MultiplyBlockScaled(float (&d)[4], const uint32_t (&a)[4],
                                                    const uint32_t (&b)[2], uint32_t scale_a,
                                                    uint32_t scale_b) {
  constexpr uint16_t byte = kByte, thread = 0;  // of each four lanes, those from 0 on hold scales
  if constexpr (kType == ScaleType::kE4M3) {
    asm("mma.sync.aligned.m16n8k64.row.col.kind::mxf4nvf4.block_scale.scale_vec::4X"
        ".f32.e2m1.e2m1.f32.ue4m3 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3}, "
        "{%10}, {%12, %13}, {%11}, {%12, %13};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(scale_a),
          "r"(scale_b), "n"(byte), "n"(thread));
  } else {
    asm("mma.sync.aligned.m16n8k64.row.col.kind::mxf4.block_scale.scale_vec::2X"
        ".f32.e2m1.e2m1.f32.ue8m0 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3}, "
        "{%10}, {%12, %13}, {%11}, {%12, %13};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(scale_a),
          "r"(scale_b), "n"(byte), "n"(thread));
  }
}

}  // namespace jaxfp4::cuda

#endif
