// Neighbouring lanes of a warp that work on one block together: a power of two of them, at most 32.
// Teams of one warp go their own ways.
#pragma once

#include "cc/cuda/launch.h"

namespace jaxfp4::cuda {

struct Team {
  int lane, lanes;
  uint32_t mask;  // of the team, within its warp

  __device__ explicit Team(int lanes) : lanes(lanes) {
    const int in_warp = static_cast<int>(threadIdx.x % 32);
    lane = in_warp & (lanes - 1);
    mask = (lanes == 32 ? ~0u : (1u << lanes) - 1) << (in_warp - lane);
  }

  // The same on every lane.
  __device__ uint32_t Max(uint32_t x) const {
    for (int other = lanes / 2; other > 0; other /= 2) {
      const uint32_t y = __shfl_xor_sync(mask, x, other);
      x = y > x ? y : x;
    }
    return x;
  }
  // Lane `from`'s x.
  __device__ float Of(float x, int from) const {
    const int first = static_cast<int>(threadIdx.x % 32) - lane;
    return __shfl_sync(mask, x, first + from);
  }
};

// The team of this thread among all of the launch.
__device__ inline uint32_t FirstTeam(int lanes) {
  return (blockIdx.x * blockDim.x + threadIdx.x) / static_cast<unsigned>(lanes);
}
__device__ inline uint32_t TeamStride(int lanes) {
  return gridDim.x * blockDim.x / static_cast<unsigned>(lanes);
}

}  // namespace jaxfp4::cuda
