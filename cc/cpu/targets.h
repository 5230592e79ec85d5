// The kernels of each CPU target, and which target serves this process.
//
// A kernel is written once, in cc/cpu/<op>_kernel.cc, inside `namespace jaxfp4::JAXFP4_TARGET`, and
// is compiled once per target with that target's flags. Such a file must not use anything that the
// linker could merge with another target's copy: no inline function or template outside its own
// namespace (so nothing of the standard library but <cstdint>, <cstddef> and memcpy), unless it is
// static, always inlined, or instantiated with a type of that namespace.
#pragma once

#include <cstdint>

#include "cc/cpu/parallel.h"
#include "cc/problem.h"

namespace jaxfp4 {

struct QuantizePlan;
struct DequantizePlan;

struct Kernels {
  const char* name;
  // Work items [begin, end) of a plan; run by the drivers of cc/cpu/run.h.
  void (*quantize_blocks)(const QuantizePlan&, int64_t begin, int64_t end);
  void (*fake_quantize)(const QuantizePlan&, int64_t begin, int64_t end);
  void (*dequantize_blocks)(const DequantizePlan&, int64_t begin, int64_t end);
  // max |finite x[begin:end]|
  float (*amax)(Dtype, const void* x, int64_t begin, int64_t end);
  // elements [begin, end), both multiples of n
  void (*hadamard)(const HadamardProblem&, int64_t begin, int64_t end);
  void (*scaled_dot)(const ScaledDotProblem&, Parallel&);
};

// Compiled targets that this CPU can run, best last. The first is always "scalar".
struct TargetList {
  const Kernels* const* begin_;
  int64_t size;
  const Kernels* const* begin() const { return begin_; }
  const Kernels* const* end() const { return begin_ + size; }
};
TargetList SupportedTargets();

// The best supported target, or the one that ForceTarget chose.
const Kernels& ActiveKernels();

// Makes `name` the active target; "" goes back to the best. False if this process cannot run it.
bool ForceTarget(const char* name);

}  // namespace jaxfp4
