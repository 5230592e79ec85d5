// Clusters of sm_90 and later: blocks that run together and read each other's shared memory.
// (cc/test/cuda_simt_async.h has them for the host.)
#pragma once

#if defined(__CUDACC__)

#include <cstdint>

#include "cc/cuda/async_copy.h"

namespace jaxfp4::cuda {

// All threads of the cluster's blocks that have not ended wait for each other. What they wrote to
// shared memory is there for all of them afterwards.
__device__ __forceinline__ void SyncCluster() {
  asm volatile(
      "barrier.cluster.arrive.release;\n"
      "barrier.cluster.wait.acquire;" ::
          : "memory");
}

// What lies at the same place of the shared memory of the cluster's block `rank`.
__device__ __forceinline__ float LoadFromCluster(const float* mine, uint32_t rank) {
  float x;
  asm volatile(
      "{\n.reg .u32 address;\n"
      "mapa.shared::cluster.u32 address, %1, %2;\n"
      "ld.shared::cluster.f32 %0, [address];\n}"
      : "=f"(x)
      : "r"(SharedAddress(mine)), "r"(rank)
      : "memory");
  return x;
}

}  // namespace jaxfp4::cuda

#endif
