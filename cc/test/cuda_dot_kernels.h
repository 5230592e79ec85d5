// The table of scaled_dot's kernels, which are the host's (CMakeLists.txt compiles them once for all
// tests), and what they are made of. (cuBLASLt is the test's: it defines cuda::cublaslt::FindLibrary.)
#pragma once

#include "cc/test/cuda_simt_tcgen05.h"

#include "cc/cuda/cublaslt.h"
#include "cc/cuda/dot_block_scaled.h"
#include "cc/cuda/dot_transposed.h"
#include "cc/cuda/dot_wgmma.h"
#include "cc/cuda/scaled_dot.cu"
