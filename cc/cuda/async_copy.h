// Copies from global to shared memory that go on while the thread does; barriers in shared memory
// that threads arrive at and others wait for; and a vote. (cc/test/cuda_simt_async.h has them for
// the host.)
#pragma once

#if defined(__CUDACC__)

#include <cstdint>

namespace jaxfp4::cuda {

__device__ __forceinline__ uint32_t SharedAddress(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// Four, eight or sixteen bytes; sixteen pass by the first-level cache.
template <int kBytes>
__device__ __forceinline__ void CopyAsync(void* shared, const void* global) {
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(SharedAddress(shared)),
                 "l"(global)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(SharedAddress(shared)),
                 "l"(global), "n"(kBytes)
                 : "memory");
  }
}
// The thread's copies since the last call become a group.
__device__ __forceinline__ void CommitCopies() { asm volatile("cp.async.commit_group;"); }
// Until at most kPending of the thread's groups are under way.
template <int kPending>
__device__ __forceinline__ void WaitForCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Writes to shared memory by this thread become visible to the tensor cores.
__device__ __forceinline__ void PublishShared() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// A barrier whose phases end when `arrivals` threads have arrived.
__device__ __forceinline__ void InitBarrier(uint64_t* barrier, unsigned arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(SharedAddress(barrier)),
               "r"(arrivals)
               : "memory");
}
__device__ __forceinline__ void ArriveAt(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(SharedAddress(barrier)) : "memory");
}
// Until the phase of this parity has ended. Before the first phase, that of parity 1 has.
__device__ __forceinline__ void WaitFor(uint64_t* barrier, unsigned parity) {
  uint32_t ended;
  do {
    asm volatile(
        "{\n.reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n}"
        : "=r"(ended)
        : "r"(SharedAddress(barrier)), "r"(parity)
        : "memory");
  } while (ended == 0);
}

// Whether any thread of this warpgroup says so; all of them wait for each other. For one warpgroup
// of a block.
__device__ __forceinline__ bool AnyOfWarpgroup(bool mine) {
  uint32_t any;
  asm volatile(
      "{\n.reg .pred p, q;\n"
      "setp.ne.u32 p, %1, 0;\n"
      "barrier.cta.red.or.pred q, 1, 128, p;\n"
      "selp.u32 %0, 1, 0, q;\n}"
      : "=r"(any)
      : "r"(mine ? 1u : 0u)
      : "memory");
  return any != 0;
}

}  // namespace jaxfp4::cuda

#endif
