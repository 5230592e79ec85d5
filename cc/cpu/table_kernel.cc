// The table of one target's kernels. A new op is one declaration and one line of the table.
#include "cc/cpu/targets.h"

#define JAXFP4_STRING_(x) #x
#define JAXFP4_STRING(x) JAXFP4_STRING_(x)

namespace jaxfp4::JAXFP4_TARGET {

void QuantizeBlocks(const QuantizePlan&, int64_t begin, int64_t end);
void FakeQuantize(const QuantizePlan&, int64_t begin, int64_t end);
void DequantizeBlocks(const DequantizePlan&, int64_t begin, int64_t end);
float Amax(Dtype, const void* x, int64_t begin, int64_t end);
void Hadamard(const HadamardProblem&, int64_t begin, int64_t end);
void ScaledDot(const ScaledDotProblem&, Parallel&);

extern const Kernels kKernels;
const Kernels kKernels = {
    JAXFP4_STRING(JAXFP4_TARGET),
    QuantizeBlocks,
    FakeQuantize,
    DequantizeBlocks,
    Amax,
    Hadamard,
    ScaledDot,
};

}  // namespace jaxfp4::JAXFP4_TARGET
