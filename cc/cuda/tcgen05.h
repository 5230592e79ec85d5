// Matrix instructions of sm_100f: a thread starts them, and they go on by themselves. Operands are
// in shared memory; their scales, and the sums, in tensor memory, which has 128 lanes of 512
// columns of 32 bits. An address there is a lane times 2^16 plus a column. The descriptors are
// those of the PTX ISA. (cc/test/cuda_simt_tcgen05.h has the instructions for the host.)
#pragma once

#include <cstdint>

#include "cc/cuda/async_copy.h"
#include "cc/cuda/block_scaled.h"

namespace jaxfp4::cuda {

enum class TensorElement : uint32_t { kE4M3 = 0, kE5M2 = 1, kE2M1 = 1 };  // of its kind

// ---- descriptors

constexpr uint64_t DescribeShared(uint32_t address, uint32_t eight_rows, uint64_t swizzle) {
  constexpr uint64_t kVersion = uint64_t{1} << 46, kUnused = uint64_t{1} << 16;
  return (address & 0x3ffffu) >> 4 | kUnused | uint64_t{eight_rows >> 4} << 32 | kVersion |
         swizzle << 61;
}
// Rows of 128 bytes, one after the other from a multiple of 1024 bytes on, their sixteen-byte
// pieces permuted: piece p of row r lies at p ^ r % 8. An instruction reads 32 bytes of each; those
// after them are 2 of the descriptor's units further.
constexpr uint64_t DescribeCodes(uint32_t address) { return DescribeShared(address, 1024, 2); }
// 512 bytes of scales: four columns of 32 lanes. 512 bytes further is 32 of the units.
constexpr uint64_t DescribeScales(uint32_t address) { return DescribeShared(address, 128, 0); }

// The product of 128 rows of lhs and kCols rows of rhs. In the words that hold a row's scales, they
// start at byte `scale`.
template <BlockScaledKind kKind, int kCols>
constexpr uint32_t DescribeProduct(TensorElement lhs, TensorElement rhs) {
  constexpr uint32_t kScaleE8M0 = kKind == BlockScaledKind::kMxf4Nvf4 ? 0 : 1u << 23;
  return static_cast<uint32_t>(lhs) << 7 | static_cast<uint32_t>(rhs) << 10 |
         uint32_t{kCols / 8} << 17 | kScaleE8M0 | 1u << 27;
}
constexpr uint32_t WithScalesFrom(uint32_t product, uint32_t byte) {
  return product | byte << 4 | byte << 29;
}

#if defined(__CUDACC__)

// ---- tensor memory, by a whole warp

// Writes the address of kColumns columns, a power of two, to shared memory; waits for them.
template <int kColumns>
__device__ __forceinline__ void TakeTensorMemory(uint32_t* address) {
  asm volatile("tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%0], %1;" ::"r"(
                   SharedAddress(address)),
               "n"(kColumns)
               : "memory");
  asm volatile("tcgen05.relinquish_alloc_permit.cta_group::1.sync.aligned;");
}
template <int kColumns>
__device__ __forceinline__ void FreeTensorMemory(uint32_t address) {
  asm volatile("tcgen05.dealloc.cta_group::1.sync.aligned.b32 %0, %1;" ::"r"(address),
               "n"(kColumns));
}

// A row of the warp's 32 lanes for each of its lanes: 32 columns, there after WaitForTensor.
__device__ __forceinline__ void LoadTensor(uint32_t address, uint32_t (&r)[32]) {
  asm volatile(
      "tcgen05.ld.sync.aligned.32x32b.x32.b32 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, [%32];"
      : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]), "=r"(r[4]), "=r"(r[5]), "=r"(r[6]),
        "=r"(r[7]), "=r"(r[8]), "=r"(r[9]), "=r"(r[10]), "=r"(r[11]), "=r"(r[12]), "=r"(r[13]),
        "=r"(r[14]), "=r"(r[15]), "=r"(r[16]), "=r"(r[17]), "=r"(r[18]), "=r"(r[19]),
        "=r"(r[20]), "=r"(r[21]), "=r"(r[22]), "=r"(r[23]), "=r"(r[24]), "=r"(r[25]),
        "=r"(r[26]), "=r"(r[27]), "=r"(r[28]), "=r"(r[29]), "=r"(r[30]), "=r"(r[31])
      : "r"(address)
      : "memory");
}
__device__ __forceinline__ void WaitForTensor() {
  asm volatile("tcgen05.wait::ld.sync.aligned;" ::: "memory");
}

// ---- order between threads

// What this thread did with tensor memory comes before what others do after the next barrier, and
// what they did before the last barrier comes before what this thread will do with it.
__device__ __forceinline__ void ReleaseTensor() {
  asm volatile("tcgen05.fence::before_thread_sync;" ::: "memory");
}
__device__ __forceinline__ void AcquireTensor() {
  asm volatile("tcgen05.fence::after_thread_sync;" ::: "memory");
}
// Barriers that this thread made become visible to the tensor cores.
__device__ __forceinline__ void PublishBarriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// ---- what one thread starts

// True in one thread of a warp, always the same.
__device__ __forceinline__ bool ElectOne() {
  uint32_t elected;
  asm volatile(
      "{\n.reg .pred p;\n"
      "elect.sync _|p, 0xffffffff;\n"
      "selp.u32 %0, 1, 0, p;\n}"
      : "=r"(elected));
  return elected != 0;
}

// 512 bytes to four columns, the same in each 32 lanes. Multiplications started later come later;
// those started before may not.
__device__ __forceinline__ void CopyToTensor(uint32_t to, uint64_t from) {
  asm volatile("tcgen05.cp.cta_group::1.32x128b.warpx4 [%0], %1;" ::"r"(to), "l"(from) : "memory");
}

#define JAXFP4_TENSOR_MULTIPLY(kind)                                                    \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %6, 0;\n"                              \
               "tcgen05.mma.cta_group::1.kind::" kind                                   \
               " [%0], %1, %2, %3, [%4], [%5], p;\n}" ::"r"(sums),                      \
               "l"(lhs), "l"(rhs), "r"(product), "r"(lhs_scales), "r"(rhs_scales),      \
               "r"(static_cast<uint32_t>(add))                                          \
               : "memory")

// sums = lhs rhs', or sums += lhs rhs', each element times the scale of its block. Sums of row r
// and column c are in lane r, c columns from `sums` on; scales of row r in each 32 lanes' lane
// r % 32, r / 32 columns from lhs_scales or rhs_scales on.
template <BlockScaledKind kKind>
__device__ __forceinline__ void MultiplyTensor(uint32_t sums, uint64_t lhs, uint64_t rhs,
                                               uint32_t product, uint32_t lhs_scales,
                                               uint32_t rhs_scales, bool add) {
  if constexpr (kKind == BlockScaledKind::kMxf4Nvf4) {
    JAXFP4_TENSOR_MULTIPLY("mxf4nvf4.block_scale.block16");
  } else if constexpr (kKind == BlockScaledKind::kMxf4) {
    JAXFP4_TENSOR_MULTIPLY("mxf4.block_scale.block32");
  } else {
    JAXFP4_TENSOR_MULTIPLY("mxf8f6f4.block_scale.block32");
  }
}
#undef JAXFP4_TENSOR_MULTIPLY

// Arrives at the barrier when all that this thread has started is done.
__device__ __forceinline__ void ArriveWhenDone(uint64_t* barrier) {
  asm volatile(
      "tcgen05.commit.cta_group::1.mbarrier::arrive::one.shared::cluster.b64 [%0];" ::"r"(
          SharedAddress(barrier))
      : "memory");
}

#endif

}  // namespace jaxfp4::cuda
