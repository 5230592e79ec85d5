// The handlers of the CUDA platform: read the call, enqueue the operation on XLA's stream. None
// allocates or waits, so that XLA may capture them in command buffers.
#include "cc/ffi/cuda_handlers.h"

#include <string>

#include "cc/cuda/kernels.h"
#include "cc/ffi/problems.h"
#include "cc/ffi/scaled_dot_problem.h"

namespace jaxfp4 {
namespace {

using Buffer = ffi::AnyBuffer;
using Result = ffi::Result<ffi::AnyBuffer>;
using cuda::Stream;

ffi::Error ErrorOf(const char* op, cuda::Status status) {
  if (status == nullptr) return ffi::Error::Success();
  return ffi::Error(ffi::ErrorCode::kInternal, std::string(op) + ": " + status);
}

ffi::Error QuantizeBlocks(Stream stream, Buffer x, Buffer outer, Buffer row_seed, Buffer col_index,
                          Result data, Result scale, int64_t element, int64_t scale_type,
                          int64_t scale_rule, int64_t arithmetic, int64_t rounding,
                          int64_t block_rows, int64_t block_cols) {
  QuantizeProblem problem;
  JAXFP4_RETURN_IF_ERROR(ReadQuantizeBlocks(
      x, outer, row_seed, col_index, *data, *scale,
      {element, scale_type, scale_rule, arithmetic, rounding, block_rows, block_cols}, &problem));
  return ErrorOf("jaxfp4_quantize_blocks", cuda::QuantizeBlocks(problem, stream));
}

ffi::Error FakeQuantize(Stream stream, Buffer x, Buffer outer, Buffer row_seed, Buffer col_index,
                        Result out, int64_t element, int64_t scale_type, int64_t scale_rule,
                        int64_t arithmetic, int64_t rounding, int64_t block_rows,
                        int64_t block_cols) {
  QuantizeProblem problem;
  JAXFP4_RETURN_IF_ERROR(ReadFakeQuantize(
      x, outer, row_seed, col_index, *out,
      {element, scale_type, scale_rule, arithmetic, rounding, block_rows, block_cols}, &problem));
  return ErrorOf("jaxfp4_fake_quantize", cuda::FakeQuantize(problem, stream));
}

ffi::Error DequantizeBlocks(Stream stream, Buffer data, Buffer scale, Buffer global_scale,
                            Result out, int64_t element, int64_t scale_type, int64_t block_rows,
                            int64_t block_cols) {
  DequantizeProblem problem;
  std::vector<int64_t> offsets;
  JAXFP4_RETURN_IF_ERROR(ReadDequantizeBlocks(data, scale, global_scale, *out, element, scale_type,
                                              block_rows, block_cols, &problem, &offsets));
  return ErrorOf("jaxfp4_dequantize_blocks", cuda::DequantizeBlocks(problem, stream));
}

ffi::Error Amax(Stream stream, Buffer x, Result out) {
  AmaxProblem problem;
  JAXFP4_RETURN_IF_ERROR(ReadAmax(x, *out, &problem));
  return ErrorOf("jaxfp4_amax", cuda::Amax(problem, stream));
}

ffi::Error Hadamard(Stream stream, Buffer x, Buffer signs, Result out, int64_t inverse) {
  HadamardProblem problem;
  JAXFP4_RETURN_IF_ERROR(ReadHadamard(x, signs, *out, inverse, &problem));
  return ErrorOf("jaxfp4_hadamard", cuda::Hadamard(problem, stream));
}

ffi::Error ScaledDot(Stream stream, Buffer lhs, Buffer lhs_scale, Buffer lhs_global, Buffer rhs,
                     Buffer rhs_scale, Buffer rhs_global, Result out, int64_t lhs_element,
                     int64_t lhs_scale_type, int64_t lhs_block_rows, int64_t lhs_block_cols,
                     int64_t rhs_element, int64_t rhs_scale_type, int64_t rhs_block_rows,
                     int64_t rhs_block_cols, int64_t rhs_layout) {
  const ScaledDotAttributes attributes = {lhs_element,    lhs_scale_type, lhs_block_rows,
                                          lhs_block_cols, rhs_element,    rhs_scale_type,
                                          rhs_block_rows, rhs_block_cols, rhs_layout};
  ScaledDotProblem problem;
  ScaledDotOffsets offsets;
  JAXFP4_RETURN_IF_ERROR(ReadScaledDot(lhs, lhs_scale, lhs_global, rhs, rhs_scale, rhs_global, *out,
                                       attributes, &problem, &offsets));
  return ErrorOf("jaxfp4_scaled_dot", cuda::ScaledDot(problem, stream));
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(QuantizeBlocksCuda, QuantizeBlocks,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::PlatformStream<Stream>>()
                                  .Arg<Buffer>()
                                  .Arg<Buffer>()
                                  .Arg<Buffer>()
                                  .Arg<Buffer>()
                                  .Ret<Buffer>()
                                  .Ret<Buffer>()
                                  .Attr<int64_t>("element")
                                  .Attr<int64_t>("scale_type")
                                  .Attr<int64_t>("scale_rule")
                                  .Attr<int64_t>("arithmetic")
                                  .Attr<int64_t>("rounding")
                                  .Attr<int64_t>("block_rows")
                                  .Attr<int64_t>("block_cols"),
                              {ffi::Traits::kCmdBufferCompatible});

XLA_FFI_DEFINE_HANDLER_SYMBOL(FakeQuantizeCuda, FakeQuantize,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::PlatformStream<Stream>>()
                                  .Arg<Buffer>()
                                  .Arg<Buffer>()
                                  .Arg<Buffer>()
                                  .Arg<Buffer>()
                                  .Ret<Buffer>()
                                  .Attr<int64_t>("element")
                                  .Attr<int64_t>("scale_type")
                                  .Attr<int64_t>("scale_rule")
                                  .Attr<int64_t>("arithmetic")
                                  .Attr<int64_t>("rounding")
                                  .Attr<int64_t>("block_rows")
                                  .Attr<int64_t>("block_cols"),
                              {ffi::Traits::kCmdBufferCompatible});

XLA_FFI_DEFINE_HANDLER_SYMBOL(DequantizeBlocksCuda, DequantizeBlocks,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::PlatformStream<Stream>>()
                                  .Arg<Buffer>()
                                  .Arg<Buffer>()
                                  .Arg<Buffer>()
                                  .Ret<Buffer>()
                                  .Attr<int64_t>("element")
                                  .Attr<int64_t>("scale_type")
                                  .Attr<int64_t>("block_rows")
                                  .Attr<int64_t>("block_cols"),
                              {ffi::Traits::kCmdBufferCompatible});

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    AmaxCuda, Amax, ffi::Ffi::Bind().Ctx<ffi::PlatformStream<Stream>>().Arg<Buffer>().Ret<Buffer>(),
    {ffi::Traits::kCmdBufferCompatible});

XLA_FFI_DEFINE_HANDLER_SYMBOL(HadamardCuda, Hadamard,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::PlatformStream<Stream>>()
                                  .Arg<Buffer>()
                                  .Arg<Buffer>()
                                  .Ret<Buffer>()
                                  .Attr<int64_t>("inverse"),
                              {ffi::Traits::kCmdBufferCompatible});

XLA_FFI_DEFINE_HANDLER_SYMBOL(ScaledDotCuda, ScaledDot,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::PlatformStream<Stream>>()
                                  .Arg<Buffer>()
                                  .Arg<Buffer>()
                                  .Arg<Buffer>()
                                  .Arg<Buffer>()
                                  .Arg<Buffer>()
                                  .Arg<Buffer>()
                                  .Ret<Buffer>()
                                  .Attr<int64_t>("lhs_element")
                                  .Attr<int64_t>("lhs_scale_type")
                                  .Attr<int64_t>("lhs_block_rows")
                                  .Attr<int64_t>("lhs_block_cols")
                                  .Attr<int64_t>("rhs_element")
                                  .Attr<int64_t>("rhs_scale_type")
                                  .Attr<int64_t>("rhs_block_rows")
                                  .Attr<int64_t>("rhs_block_cols")
                                  .Attr<int64_t>("rhs_layout"),
                              {ffi::Traits::kCmdBufferCompatible});

const std::vector<Registration>& CudaRegistrations() {
  static const std::vector<Registration> registrations = {
      {"jaxfp4_quantize_blocks_v1", QuantizeBlocksCuda},
      {"jaxfp4_fake_quantize_v1", FakeQuantizeCuda},
      {"jaxfp4_dequantize_blocks_v1", DequantizeBlocksCuda},
      {"jaxfp4_amax_v1", AmaxCuda},
      {"jaxfp4_hadamard_v1", HadamardCuda},
      {"jaxfp4_scaled_dot_v1", ScaledDotCuda},
  };
  return registrations;
}

}  // namespace jaxfp4
