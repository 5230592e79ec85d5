// dequantize_blocks: codes and block scales to values, one segment a thread.
#include "cc/cuda/divider.h"
#include "cc/cuda/segment.h"
#include "cc/cuda/strided.h"

namespace jaxfp4::cuda {
namespace {

struct DequantizeArgs {
  DequantizeProblem p;
  Strided scale_of_batch;
  uint32_t segment_count;
  Divider across;  // segments in a row
  Divider rows;    // in a batch entry
  Divider block_rows;
  Divider width;  // segments of a block
  Divider rows_per_global;
  bool aligned;
};

template <class E>
__global__ void __launch_bounds__(256) DequantizeKernel(const DequantizeArgs a) {
  const uint32_t stride = gridDim.x * blockDim.x;
  for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < a.segment_count; i += stride) {
    const uint32_t row = a.across.Divide(i), across = a.across.Remainder(i, row);
    const uint32_t batch = a.rows.Divide(row), in_batch = a.rows.Remainder(row, batch);
    const int64_t scale = a.scale_of_batch.At(batch) +
                          a.block_rows.Divide(in_batch) * a.p.scale_row_stride +
                          (a.p.scale_cols == 1 ? 0 : a.width.Divide(across));
    float decode, decode2;
    LoadScale(a.p.format.scale_type, a.p.scale, scale, &decode, &decode2);
    if (a.p.format.scale_type == ScaleType::kE4M3) {
      decode2 = a.p.global_scale[a.rows_per_global.Divide(row)];
    }
    const int64_t first = row * a.p.cols + across * kSegment;
    const int64_t left = a.p.cols - across * kSegment;
    const int count = left < kSegment ? static_cast<int>(left) : kSegment;
    uint32_t words[kSegment * E::kBits / 32];
    float y[kSegment];
    LoadCodes<E::kBits>(a.p.data + first * E::kBits / 8, count, a.aligned, words);
#pragma unroll
    for (int j = 0; j < kSegment; ++j) {
      y[j] = (ValueOf<E>(CodeAt<E::kBits>(words, j)) * decode) * decode2;
    }
    StoreSegment(a.p.dtype, y, a.p.out, first, count, a.aligned);
  }
}

Status LaunchElement(const DequantizeArgs& a, Stream stream) {
  const Geometry g = GridStride(a.segment_count, 256, 256);
  switch (a.p.format.element) {
    case Element::kE2M1: return Launch(DequantizeKernel<E2M1>, g, stream, a);
    case Element::kE2M3: return Launch(DequantizeKernel<E2M3>, g, stream, a);
    case Element::kE3M2: return Launch(DequantizeKernel<E3M2>, g, stream, a);
    case Element::kE4M3: return Launch(DequantizeKernel<E4M3>, g, stream, a);
    case Element::kE5M2: return Launch(DequantizeKernel<E5M2>, g, stream, a);
  }
  return "unknown element type";
}

}  // namespace

Status DequantizeBlocks(const DequantizeProblem& p, Stream stream) {
  const int64_t rows = p.batch * p.rows, across = CeilDiv(p.cols, kSegment);
  if (rows * across == 0) return nullptr;
  if (rows * across > kMostItems) return kTooLarge;
  DequantizeArgs a = {};
  a.p = p;
  a.segment_count = static_cast<uint32_t>(rows * across);
  a.across = Divider(across);
  a.rows = Divider(p.rows);
  a.block_rows = Divider(p.format.block_rows > 1 ? p.format.block_rows : 1);
  a.width = Divider(p.format.block_cols == 0 ? across : p.format.block_cols / kSegment);
  a.rows_per_global = Divider(rows / p.global_count);
  a.aligned = p.cols % kSegment == 0 && IsAligned(p.data) && IsAligned(p.out);
  if (!a.scale_of_batch.Fit(p.scale_batch_offset, p.batch)) return kTooManyAxes;
  return LaunchElement(a, stream);
}

}  // namespace jaxfp4::cuda
