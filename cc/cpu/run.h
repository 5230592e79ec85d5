// One function per operation: plan the work, share it out, run the active target's kernel.
#pragma once

#include "cc/cpu/parallel.h"
#include "cc/problem.h"

namespace jaxfp4 {

void RunQuantizeBlocks(const QuantizeProblem& problem, Parallel& parallel);
void RunFakeQuantize(const QuantizeProblem& problem, Parallel& parallel);
void RunDequantizeBlocks(const DequantizeProblem& problem, Parallel& parallel);
void RunAmax(const AmaxProblem& problem, Parallel& parallel);
void RunHadamard(const HadamardProblem& problem, Parallel& parallel);
void RunRaggedDot(const RaggedDotProblem& problem, Parallel& parallel);

}  // namespace jaxfp4
