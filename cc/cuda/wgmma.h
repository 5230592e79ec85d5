// Matrix instructions of sm_90a: four warps, a warpgroup, multiply together, and go on while the
// tensor cores work. (cc/test/cuda_simt_async.h has them for the host.)
#pragma once

#if defined(__CUDACC__)

#include <cstdint>

#include "cc/cuda/async_copy.h"

namespace jaxfp4::cuda {

// Rows of 64 bfloat16, 128 bytes each, one after the other from a multiple of 1024 bytes on, their
// sixteen-byte pieces permuted: piece p of row r lies at p ^ r % 8. The tensor cores read 16 of the
// columns; those after them are 32 bytes, 2 of the descriptor's units, further.
__device__ __forceinline__ uint64_t DescribeRows(const void* shared) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  constexpr uint64_t kEightRows = uint64_t{1024 / 16} << 32;
  constexpr uint64_t kUnused = uint64_t{1} << 16;  // the other stride
  return kSwizzle128 | kEightRows | kUnused | (SharedAddress(shared) & 0x3ffffu) >> 4;
}

// Columns, two times 64 of them, the second `next` bytes after the first: their rows lie as those
// above, and eight rows are 1024 bytes. 16 rows further is 128 of the descriptor's units further.
__device__ __forceinline__ uint64_t DescribeColumns(const void* shared, uint32_t next) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  constexpr uint64_t kEightRows = uint64_t{1024 / 16} << 32;
  return kSwizzle128 | kEightRows | uint64_t{next / 16} << 16 |
         (SharedAddress(shared) & 0x3ffffu) >> 4;
}

// Registers written before are there for the multiplications after.
__device__ __forceinline__ void BeginMultiply() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
// The multiplications since the last call become a group.
__device__ __forceinline__ void CommitMultiply() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Until at most kPending groups are under way.
template <int kPending>
__device__ __forceinline__ void WaitForMultiply() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// ---- the sums of instructions: as text, and as operands

#define JAXFP4_SUMS_8 "%0, %1, %2, %3, %4, %5, %6, %7"
#define JAXFP4_SUMS_16 JAXFP4_SUMS_8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define JAXFP4_SUMS_32      \
  JAXFP4_SUMS_16            \
  ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define JAXFP4_SUMS_64                                                                \
  JAXFP4_SUMS_32                                                                      \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"  \
  ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define JAXFP4_OPERANDS_8(d, i)                                                           \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
      "+f"(d[i + 6]), "+f"(d[i + 7])
#define JAXFP4_OPERANDS_16(d, i) JAXFP4_OPERANDS_8(d, i), JAXFP4_OPERANDS_8(d, i + 8)
#define JAXFP4_OPERANDS_32(d, i) JAXFP4_OPERANDS_16(d, i), JAXFP4_OPERANDS_16(d, i + 16)
#define JAXFP4_OPERANDS_64(d, i) JAXFP4_OPERANDS_32(d, i), JAXFP4_OPERANDS_32(d, i + 32)

// d += a b', for the 64 x 16 matrix a and 128 rows b, bfloat16, a warpgroup together; or d += a b
// for 128 columns b. Warp w has rows 16 w to 16 w + 15 of a and d, in the fragments of
// mma.m16n8k16.
template <bool kColumns>
__device__ __forceinline__ void MultiplyAsync(float (&d)[64], const uint32_t (&a)[4], uint64_t b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" JAXFP4_SUMS_64
               "}, {%64, %65, %66, %67}, %68, 1, 1, 1, %69;"
               : JAXFP4_OPERANDS_64(d, 0)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(kColumns ? 1 : 0));
}

// The same of e4m3, 32 columns a step: bytes where a pair of bfloat16 would have a half of one. b
// has twice as many rows as d has elements. Begins sums anew, or adds to them.
#define JAXFP4_MULTIPLY_FP8(rows, count, a0, a1, a2, a3, described, adds)                        \
  template <bool kAdds>                                                                          \
  __device__ __forceinline__ void MultiplyFp8Async(float (&d)[count], const uint32_t (&a)[4],    \
                                                   uint64_t b) {                                 \
    asm volatile("wgmma.mma_async.sync.aligned.m64n" #rows "k32.f32.e4m3.e4m3 {"                 \
                 JAXFP4_SUMS_##count "}, {%" #a0 ", %" #a1 ", %" #a2 ", %" #a3 "}, %" #described \
                 ", %" #adds ", 1, 1;"                                                           \
                 : JAXFP4_OPERANDS_##count(d, 0)                                                 \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(kAdds ? 1 : 0));      \
  }
JAXFP4_MULTIPLY_FP8(16, 8, 8, 9, 10, 11, 12, 13)
JAXFP4_MULTIPLY_FP8(32, 16, 16, 17, 18, 19, 20, 21)
JAXFP4_MULTIPLY_FP8(64, 32, 32, 33, 34, 35, 36, 37)
JAXFP4_MULTIPLY_FP8(128, 64, 64, 65, 66, 67, 68, 69)
#undef JAXFP4_MULTIPLY_FP8

// After the wait for products: keeps the compiler from using the sums before it.
template <int kCount>
__device__ __forceinline__ void HoldSums(float (&d)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// ---- registers

// Moves registers between warpgroups: all of a block's have as many in the end as they had.
template <int kRegisters>
__device__ __forceinline__ void TakeRegisters() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void GiveRegisters() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

}  // namespace jaxfp4::cuda

#endif
