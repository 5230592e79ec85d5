#include "cc/ffi/scaled_dot_handler.h"

#include "cc/cpu/targets.h"
#include "cc/ffi/scaled_dot_problem.h"
#include "cc/ffi/thread_pool.h"

namespace jaxfp4 {
namespace {

ffi::Error ScaledDot(ffi::ThreadPool threads, ffi::AnyBuffer lhs, ffi::AnyBuffer lhs_scale,
                     ffi::AnyBuffer lhs_global, ffi::AnyBuffer rhs, ffi::AnyBuffer rhs_scale,
                     ffi::AnyBuffer rhs_global, ffi::Result<ffi::AnyBuffer> out,
                     int64_t lhs_element, int64_t lhs_scale_type, int64_t lhs_block_rows,
                     int64_t lhs_block_cols, int64_t rhs_element, int64_t rhs_scale_type,
                     int64_t rhs_block_rows, int64_t rhs_block_cols, int64_t rhs_layout) {
  const ScaledDotAttributes attributes = {lhs_element,    lhs_scale_type, lhs_block_rows,
                                          lhs_block_cols, rhs_element,    rhs_scale_type,
                                          rhs_block_rows, rhs_block_cols, rhs_layout};
  ScaledDotProblem problem;
  ScaledDotOffsets offsets;
  JAXFP4_RETURN_IF_ERROR(ReadScaledDot(lhs, lhs_scale, lhs_global, rhs, rhs_scale, rhs_global, *out,
                                       attributes, &problem, &offsets));
  bool out_of_memory = false;
  problem.out_of_memory = &out_of_memory;
  ThreadPool parallel(threads);
  ActiveKernels().scaled_dot(problem, parallel);
  if (out_of_memory) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted,
                      "jaxfp4_scaled_dot: out of memory for decoded rows of lhs");
  }
  return ffi::Error::Success();
}

}  // namespace
}  // namespace jaxfp4

XLA_FFI_DEFINE_HANDLER_SYMBOL(ScaledDotCpu, jaxfp4::ScaledDot,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Attr<int64_t>("lhs_element")
                                  .Attr<int64_t>("lhs_scale_type")
                                  .Attr<int64_t>("lhs_block_rows")
                                  .Attr<int64_t>("lhs_block_cols")
                                  .Attr<int64_t>("rhs_element")
                                  .Attr<int64_t>("rhs_scale_type")
                                  .Attr<int64_t>("rhs_block_rows")
                                  .Attr<int64_t>("rhs_block_cols")
                                  .Attr<int64_t>("rhs_layout"));
