// All kernels of scaled_dot and the table of them, on the host. (cuBLASLt is the test's: it defines
// cuda::cublaslt::FindLibrary.)
#pragma once

#define JAXFP4_HAS_ARCHITECTURE 1  // of kernels for one alone
#include "cc/test/cuda_simt.h"
#include "cc/test/cuda_simt_async.h"
#include "cc/test/cuda_simt_tcgen05.h"

#include "cc/cuda/dot_block_scaled_sm120f.cu"
#include "cc/cuda/dot_cublaslt.cu"
#include "cc/cuda/dot_fp8_mxfp4_sm90a.cu"
#include "cc/cuda/dot_fp8_sm90a.cu"
#include "cc/cuda/dot_gemv.cu"
#include "cc/cuda/dot_mma_large.cu"
#include "cc/cuda/dot_mma_small.cu"
#include "cc/cuda/dot_tcgen05_sm100f.cu"
#include "cc/cuda/dot_tile.cu"
#include "cc/cuda/dot_transposed_large.cu"
#include "cc/cuda/dot_transposed_small.cu"
#include "cc/cuda/dot_transposed_wgmma_sm90a.cu"
#include "cc/cuda/dot_wgmma_sm90a.cu"
#include "cc/cuda/dot_zeros.cu"
#include "cc/cuda/scaled_dot.cu"
