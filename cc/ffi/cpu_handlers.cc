// The CPU platform: operations run on XLA's thread pool.
#include "cc/ffi/cpu_handlers.h"

#include <initializer_list>
#include <string>

#include "cc/cpu/pages.h"
#include "cc/cpu/run.h"
#include "cc/cpu/targets.h"
#include "cc/ffi/operations.h"
#include "cc/ffi/thread_pool.h"

namespace jaxfp4 {
namespace {

struct Cpu {
  using Context = ffi::ThreadPool;
  using ContextBinding = ffi::ThreadPool;
  static constexpr std::initializer_list<ffi::Traits> kTraits = {};

  // A large result is new memory more often than not, whose pages the system makes, zeroed, one by
  // one as they are first written: that can take longer than the operation does.
  static void WillWrite(const XLA_FFI_Rets& results) {
    for (int64_t i = 0; i < results.size; ++i) {
      if (results.types[i] != XLA_FFI_RetType_BUFFER) continue;
      const ffi::AnyBuffer buffer(static_cast<XLA_FFI_Buffer*>(results.rets[i]));
      PreferHugePages(buffer.untyped_data(), buffer.size_bytes());
    }
  }

  static ffi::Error QuantizeBlocks(const QuantizeProblem& problem, Context pool) {
    return Run(RunQuantizeBlocks, problem, pool);
  }
  static ffi::Error FakeQuantize(const QuantizeProblem& problem, Context pool) {
    return Run(RunFakeQuantize, problem, pool);
  }
  static ffi::Error DequantizeBlocks(const DequantizeProblem& problem, Context pool) {
    return Run(RunDequantizeBlocks, problem, pool);
  }
  static ffi::Error Amax(const AmaxProblem& problem, Context pool) {
    return Run(RunAmax, problem, pool);
  }
  static ffi::Error Hadamard(const HadamardProblem& problem, Context pool) {
    return Run(RunHadamard, problem, pool);
  }
  static ffi::Error ScaledDot(ScaledDotProblem problem, Context pool) {
    bool out_of_memory = false;
    problem.out_of_memory = &out_of_memory;
    const ffi::Error error = Run(ActiveKernels().scaled_dot, problem, pool);
    return out_of_memory ? OutOfMemory("jaxfp4_scaled_dot") : error;
  }
  static ffi::Error RaggedDot(RaggedDotProblem problem, Context pool) {
    JAXFP4_RETURN_IF_ERROR(CheckGroupSizes(problem));
    bool out_of_memory = false;
    problem.dot.out_of_memory = &out_of_memory;
    const ffi::Error error = Run(RunRaggedDot, problem, pool);
    return out_of_memory ? OutOfMemory("jaxfp4_ragged_dot") : error;
  }

 private:
  static ffi::Error OutOfMemory(const char* op) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted,
                      std::string(op) + ": out of memory for decoded rows of lhs");
  }
  template <class Problem>
  static ffi::Error Run(void (*run)(const Problem&, Parallel&), const Problem& problem,
                        Context pool) {
    ThreadPool parallel(pool);
    run(problem, parallel);
    return ffi::Error::Success();
  }
};

}  // namespace

const std::vector<Registration>& CpuRegistrations() {
  return Registrations<Cpu, QuantizeBlocksOp, FakeQuantizeOp, DequantizeBlocksOp, AmaxOp, HadamardOp,
                       ScaledDotOp, RaggedDotOp, ScaledDotTransposedOp>();
}

}  // namespace jaxfp4
