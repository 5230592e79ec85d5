// The operations on an NVIDIA GPU. Each enqueues its kernels on a stream and returns: no
// allocation, no synchronization, so that calls can be captured into CUDA graphs. Pointers of
// problems are to device memory, but for the offset tables, which are read before the call returns.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cc/problem.h"

struct CUstream_st;

namespace jaxfp4::cuda {

using Stream = CUstream_st*;
// What went wrong, or null. The text lives as long as the program.
using Status = const char*;

Status Amax(const AmaxProblem& problem, Stream stream);
Status QuantizeBlocks(const QuantizeProblem& problem, Stream stream);
Status FakeQuantize(const QuantizeProblem& problem, Stream stream);
Status DequantizeBlocks(const DequantizeProblem& problem, Stream stream);
Status Hadamard(const HadamardProblem& problem, Stream stream);
Status ScaledDot(const ScaledDotProblem& problem, Stream stream);
Status RaggedDot(const RaggedDotProblem& problem, Stream stream);

// The kernels of ScaledDot and how many calls each has taken so far, a captured graph once.
struct RouteCalls {
  const char* name;
  int64_t calls;
};
std::vector<RouteCalls> CallsOfRoutes();

// The GPUs at hand, e.g. "NVIDIA H200 (sm_90)"; none, with a reason, where there is no driver or
// GPU.
struct Devices {
  std::vector<std::string> names;
  std::string reason;
};
Devices FindDevices();

}  // namespace jaxfp4::cuda
