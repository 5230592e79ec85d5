// The CUDA platform: operations are enqueued on XLA's stream. None allocates or waits, so that XLA
// may capture them in command buffers.
#include "cc/ffi/cuda_handlers.h"

#include <initializer_list>
#include <string>

#include "cc/cuda/kernels.h"
#include "cc/ffi/operations.h"

namespace jaxfp4 {
namespace {

struct Cuda {
  using Context = cuda::Stream;
  using ContextBinding = ffi::PlatformStream<cuda::Stream>;
  static constexpr std::initializer_list<ffi::Traits> kTraits = {
      ffi::Traits::kCmdBufferCompatible};

  static void WillWrite(const XLA_FFI_Rets&) {}

  static ffi::Error QuantizeBlocks(const QuantizeProblem& problem, Context stream) {
    return ErrorOf("jaxfp4_quantize_blocks", cuda::QuantizeBlocks(problem, stream));
  }
  static ffi::Error FakeQuantize(const QuantizeProblem& problem, Context stream) {
    return ErrorOf("jaxfp4_fake_quantize", cuda::FakeQuantize(problem, stream));
  }
  static ffi::Error DequantizeBlocks(const DequantizeProblem& problem, Context stream) {
    return ErrorOf("jaxfp4_dequantize_blocks", cuda::DequantizeBlocks(problem, stream));
  }
  static ffi::Error Amax(const AmaxProblem& problem, Context stream) {
    return ErrorOf("jaxfp4_amax", cuda::Amax(problem, stream));
  }
  static ffi::Error Hadamard(const HadamardProblem& problem, Context stream) {
    return ErrorOf("jaxfp4_hadamard", cuda::Hadamard(problem, stream));
  }
  static ffi::Error ScaledDot(const ScaledDotProblem& problem, Context stream) {
    return ErrorOf("jaxfp4_scaled_dot", cuda::ScaledDot(problem, stream));
  }
  static ffi::Error RaggedDot(const RaggedDotProblem& problem, Context stream) {
    return ErrorOf("jaxfp4_ragged_dot", cuda::RaggedDot(problem, stream));
  }

 private:
  static ffi::Error ErrorOf(const char* op, cuda::Status status) {
    if (status == nullptr) return ffi::Error::Success();
    return ffi::Error(ffi::ErrorCode::kInternal, std::string(op) + ": " + status);
  }
};

}  // namespace

const std::vector<Registration>& CudaRegistrations() {
  return Registrations<Cuda, QuantizeBlocksOp, FakeQuantizeOp, DequantizeBlocksOp, AmaxOp, HadamardOp,
                       ScaledDotOp, ScaledDotTransposedOp, RaggedDotOp>();
}

}  // namespace jaxfp4
