// The handlers of the CPU platform: read the call, run the operation on XLA's thread pool.
#include "cc/ffi/cpu_handlers.h"

#include "cc/cpu/run.h"
#include "cc/ffi/problems.h"
#include "cc/ffi/scaled_dot_handler.h"
#include "cc/ffi/thread_pool.h"

namespace jaxfp4 {
namespace {

using Buffer = ffi::AnyBuffer;
using Result = ffi::Result<ffi::AnyBuffer>;

ffi::Error QuantizeBlocks(ffi::ThreadPool pool, Buffer x, Buffer outer, Buffer row_seed,
                          Buffer col_index, Result data, Result scale, int64_t element,
                          int64_t scale_type, int64_t scale_rule, int64_t arithmetic,
                          int64_t rounding, int64_t block_rows, int64_t block_cols) {
  QuantizeProblem problem;
  JAXFP4_RETURN_IF_ERROR(ReadQuantizeBlocks(
      x, outer, row_seed, col_index, *data, *scale,
      {element, scale_type, scale_rule, arithmetic, rounding, block_rows, block_cols}, &problem));
  ThreadPool parallel(pool);
  RunQuantizeBlocks(problem, parallel);
  return ffi::Error::Success();
}

ffi::Error FakeQuantize(ffi::ThreadPool pool, Buffer x, Buffer outer, Buffer row_seed,
                        Buffer col_index, Result out, int64_t element, int64_t scale_type,
                        int64_t scale_rule, int64_t arithmetic, int64_t rounding,
                        int64_t block_rows, int64_t block_cols) {
  QuantizeProblem problem;
  JAXFP4_RETURN_IF_ERROR(ReadFakeQuantize(
      x, outer, row_seed, col_index, *out,
      {element, scale_type, scale_rule, arithmetic, rounding, block_rows, block_cols}, &problem));
  ThreadPool parallel(pool);
  RunFakeQuantize(problem, parallel);
  return ffi::Error::Success();
}

ffi::Error DequantizeBlocks(ffi::ThreadPool pool, Buffer data, Buffer scale, Buffer global_scale,
                            Result out, int64_t element, int64_t scale_type, int64_t block_rows,
                            int64_t block_cols) {
  DequantizeProblem problem;
  std::vector<int64_t> offsets;
  JAXFP4_RETURN_IF_ERROR(ReadDequantizeBlocks(data, scale, global_scale, *out, element, scale_type,
                                              block_rows, block_cols, &problem, &offsets));
  ThreadPool parallel(pool);
  RunDequantizeBlocks(problem, parallel);
  return ffi::Error::Success();
}

ffi::Error Amax(ffi::ThreadPool pool, Buffer x, Result out) {
  AmaxProblem problem;
  JAXFP4_RETURN_IF_ERROR(ReadAmax(x, *out, &problem));
  ThreadPool parallel(pool);
  RunAmax(problem, parallel);
  return ffi::Error::Success();
}

ffi::Error Hadamard(ffi::ThreadPool pool, Buffer x, Buffer signs, Result out, int64_t inverse) {
  HadamardProblem problem;
  JAXFP4_RETURN_IF_ERROR(ReadHadamard(x, signs, *out, inverse, &problem));
  ThreadPool parallel(pool);
  RunHadamard(problem, parallel);
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(QuantizeBlocksCpu, QuantizeBlocks,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
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
                                  .Attr<int64_t>("block_cols"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(FakeQuantizeCpu, FakeQuantize,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
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
                                  .Attr<int64_t>("block_cols"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(DequantizeBlocksCpu, DequantizeBlocks,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Buffer>()
                                  .Arg<Buffer>()
                                  .Arg<Buffer>()
                                  .Ret<Buffer>()
                                  .Attr<int64_t>("element")
                                  .Attr<int64_t>("scale_type")
                                  .Attr<int64_t>("block_rows")
                                  .Attr<int64_t>("block_cols"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    AmaxCpu, Amax, ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Buffer>().Ret<Buffer>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(HadamardCpu, Hadamard,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Buffer>()
                                  .Arg<Buffer>()
                                  .Ret<Buffer>()
                                  .Attr<int64_t>("inverse"));

const std::vector<Registration>& CpuRegistrations() {
  static const std::vector<Registration> registrations = {
      {"jaxfp4_quantize_blocks_v1", QuantizeBlocksCpu},
      {"jaxfp4_fake_quantize_v1", FakeQuantizeCpu},
      {"jaxfp4_dequantize_blocks_v1", DequantizeBlocksCpu},
      {"jaxfp4_amax_v1", AmaxCpu},
      {"jaxfp4_hadamard_v1", HadamardCpu},
      {"jaxfp4_scaled_dot_v1", ScaledDotCpu},
  };
  return registrations;
}

}  // namespace jaxfp4
