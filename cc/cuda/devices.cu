// The GPUs at hand. Works, and finds none, on a machine without a driver.
#include "cc/cuda/launch.h"

namespace jaxfp4::cuda {

Devices FindDevices() {
  Devices found;
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) {
    found.reason = cudaGetErrorString(error);
    (void)cudaGetLastError();  // or the next launch would report it
    return found;
  }
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp p;
    if (cudaGetDeviceProperties(&p, i) != cudaSuccess) continue;
    found.names.push_back(std::string(p.name) + " (sm_" + std::to_string(p.major) +
                          std::to_string(p.minor) + ")");
  }
  return found;
}

}  // namespace jaxfp4::cuda
