// How host code starts a kernel, and what it may know of the device.
#pragma once

#if defined(__CUDACC__)
#include <cuda_runtime.h>
#endif

#include "cc/cuda/kernels.h"

namespace jaxfp4::cuda {

// Counts of work items and their products with small sizes are ints.
constexpr int64_t kMostItems = (int64_t{1} << 31) - 1;
constexpr Status kTooLarge = "more than 2^31 work items in one call: split the operands";

constexpr int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Geometry {
  unsigned blocks_x, blocks_y, blocks_z;
  unsigned threads;
  unsigned shared;  // bytes of dynamic shared memory
  unsigned cluster = 1;  // blocks of each, along x
};

#if defined(__CUDACC__)

inline Status StatusOf(cudaError_t error) {
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

template <class Args>
Status Launch(void (*kernel)(Args), const Geometry& g, Stream stream, const Args& args) {
  if (g.shared > 48 * 1024) {
    const cudaError_t error = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                                   cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                   static_cast<int>(g.shared));
    if (error != cudaSuccess) return StatusOf(error);
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(g.blocks_x, g.blocks_y, g.blocks_z);
  config.blockDim = dim3(g.threads);
  config.dynamicSmemBytes = g.shared;
  config.stream = stream;
  cudaLaunchAttribute cluster = {};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = g.cluster;
  cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  config.attrs = &cluster;
  config.numAttrs = g.cluster > 1;
  return StatusOf(cudaLaunchKernelEx(&config, kernel, args));
}

// Of the current device, which is that of the stream. Zero if there is none.
inline int DeviceAttribute(cudaDeviceAttr attribute) {
  int device = 0, value = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return 0;
  return cudaDeviceGetAttribute(&value, attribute, device) == cudaSuccess ? value : 0;
}
inline int Device() {
  int device = 0;
  return cudaGetDevice(&device) == cudaSuccess ? device : 0;
}
inline int Multiprocessors() { return DeviceAttribute(cudaDevAttrMultiProcessorCount); }
// 90 for sm_90.
inline int Architecture() {
  return 10 * DeviceAttribute(cudaDevAttrComputeCapabilityMajor) +
         DeviceAttribute(cudaDevAttrComputeCapabilityMinor);
}

// While it lives, this thread may do what waits for the device or allocates, although it captures a
// graph: to set something up that graphs only refer to.
class RelaxedCapture {
 public:
  RelaxedCapture() { Exchange(); }
  ~RelaxedCapture() { Exchange(); }
  RelaxedCapture(const RelaxedCapture&) = delete;
  RelaxedCapture& operator=(const RelaxedCapture&) = delete;

 private:
  void Exchange() { (void)cudaThreadExchangeStreamCaptureMode(&mode_); }
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

// x, of which the compiler no longer knows that it is: what follows from it is computed anew,
// rather than kept in registers.
__device__ __forceinline__ uint32_t Anew(uint32_t x) {
  asm volatile("" : "+r"(x));
  return x;
}

__device__ __forceinline__ void* DynamicShared() {
  extern __shared__ uint4 dynamic_shared[];
  return dynamic_shared;
}

#endif

// Blocks of threads for `items` items, `per_block` at a time: as many as the device runs in a few
// waves; the rest of the items come in further rounds of each block.
inline Geometry GridStride(int64_t items, int64_t per_block, unsigned threads) {
  const int64_t all = CeilDiv(items, per_block), most = int64_t{Multiprocessors()} * 32 + 1;
  return {static_cast<unsigned>(all < most ? all : most), 1, 1, threads, 0};
}

}  // namespace jaxfp4::cuda
