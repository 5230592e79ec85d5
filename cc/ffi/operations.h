// The FFI target of each operation: its name, its operands, results and attributes, and what a call
// does. Stated once for all platforms: a platform (cc/ffi/{cpu,cuda}_handlers.cc) has
//   Context, ContextBinding      what its operations run on, and how XLA hands that over
//   kTraits                      of its handlers
//   QuantizeBlocks(problem, context) and so on for each operation that it registers
#pragma once

#include <utility>
#include <vector>

#include "cc/ffi/problems.h"
#include "cc/ffi/registration.h"
#include "cc/ffi/scaled_dot_problem.h"

namespace jaxfp4 {

using Buffer = ffi::AnyBuffer;
using Result = ffi::Result<ffi::AnyBuffer>;

// A binding with more operands, results, or integer attributes of these names. XLA's bindings can be
// neither copied nor moved, only extended.
template <int count, class Binding>
auto Args(Binding&& binding) {
  if constexpr (count == 1) {
    return std::move(binding).template Arg<Buffer>();
  } else {
    return Args<count - 1>(std::move(binding).template Arg<Buffer>());
  }
}
template <int count, class Binding>
auto Rets(Binding&& binding) {
  if constexpr (count == 1) {
    return std::move(binding).template Ret<Buffer>();
  } else {
    return Rets<count - 1>(std::move(binding).template Ret<Buffer>());
  }
}
template <class Binding>
auto ScratchRet(Binding&& binding) {
  return std::move(binding).template OptionalRet<Buffer>();
}
template <class Binding, class... Names>
auto Attrs(Binding&& binding, const char* name, Names... names) {
  if constexpr (sizeof...(names) == 0) {
    return std::move(binding).template Attr<int64_t>(name);
  } else {
    return Attrs(std::move(binding).template Attr<int64_t>(name), names...);
  }
}

// Those of QuantizeAttributes, in its order.
template <class Binding>
auto QuantizeAttrs(Binding&& binding) {
  return Attrs(std::move(binding), "element", "scale_type", "scale_rule", "arithmetic", "rounding",
               "block_rows", "block_cols");
}

// Those of ScaledDotAttributes, in its order.
template <class Binding>
auto ScaledDotAttrs(Binding&& binding) {
  return Attrs(std::move(binding), "lhs_element", "lhs_scale_type", "lhs_block_rows",
               "lhs_block_cols", "rhs_element", "rhs_scale_type", "rhs_block_rows",
               "rhs_block_cols", "rhs_layout", "exact");
}

struct QuantizeBlocksOp {
  static constexpr const char* kTarget = "jaxfp4_quantize_blocks_v1";

  template <class Binding>
  static auto Bind(Binding&& binding) {
    return QuantizeAttrs(Rets<2>(Args<4>(std::move(binding))));
  }

  template <class Platform>
  static ffi::Error Call(typename Platform::Context context, Buffer x, Buffer outer,
                         Buffer row_seed, Buffer col_index, Result data, Result scale,
                         int64_t element, int64_t scale_type, int64_t scale_rule,
                         int64_t arithmetic, int64_t rounding, int64_t block_rows,
                         int64_t block_cols) {
    QuantizeProblem problem;
    JAXFP4_RETURN_IF_ERROR(ReadQuantizeBlocks(
        x, outer, row_seed, col_index, *data, *scale,
        {element, scale_type, scale_rule, arithmetic, rounding, block_rows, block_cols}, &problem));
    return Platform::QuantizeBlocks(problem, context);
  }
};

struct FakeQuantizeOp {
  static constexpr const char* kTarget = "jaxfp4_fake_quantize_v1";

  template <class Binding>
  static auto Bind(Binding&& binding) {
    return QuantizeAttrs(Rets<1>(Args<4>(std::move(binding))));
  }

  template <class Platform>
  static ffi::Error Call(typename Platform::Context context, Buffer x, Buffer outer,
                         Buffer row_seed, Buffer col_index, Result out, int64_t element,
                         int64_t scale_type, int64_t scale_rule, int64_t arithmetic,
                         int64_t rounding, int64_t block_rows, int64_t block_cols) {
    QuantizeProblem problem;
    JAXFP4_RETURN_IF_ERROR(ReadFakeQuantize(
        x, outer, row_seed, col_index, *out,
        {element, scale_type, scale_rule, arithmetic, rounding, block_rows, block_cols}, &problem));
    return Platform::FakeQuantize(problem, context);
  }
};

struct DequantizeBlocksOp {
  static constexpr const char* kTarget = "jaxfp4_dequantize_blocks_v1";

  template <class Binding>
  static auto Bind(Binding&& binding) {
    return Attrs(Rets<1>(Args<3>(std::move(binding))), "element", "scale_type", "block_rows",
                 "block_cols");
  }

  template <class Platform>
  static ffi::Error Call(typename Platform::Context context, Buffer data, Buffer scale,
                         Buffer global_scale, Result out, int64_t element, int64_t scale_type,
                         int64_t block_rows, int64_t block_cols) {
    DequantizeProblem problem;
    std::vector<int64_t> offsets;
    JAXFP4_RETURN_IF_ERROR(ReadDequantizeBlocks(data, scale, global_scale, *out, element,
                                                scale_type, block_rows, block_cols, &problem,
                                                &offsets));
    return Platform::DequantizeBlocks(problem, context);
  }
};

struct AmaxOp {
  static constexpr const char* kTarget = "jaxfp4_amax_v1";

  template <class Binding>
  static auto Bind(Binding&& binding) {
    return Rets<1>(Args<1>(std::move(binding)));
  }

  template <class Platform>
  static ffi::Error Call(typename Platform::Context context, Buffer x, Result out) {
    AmaxProblem problem;
    JAXFP4_RETURN_IF_ERROR(ReadAmax(x, *out, &problem));
    return Platform::Amax(problem, context);
  }
};

struct HadamardOp {
  static constexpr const char* kTarget = "jaxfp4_hadamard_v1";

  template <class Binding>
  static auto Bind(Binding&& binding) {
    return Attrs(Rets<1>(Args<2>(std::move(binding))), "inverse");
  }

  template <class Platform>
  static ffi::Error Call(typename Platform::Context context, Buffer x, Buffer signs, Result out,
                         int64_t inverse) {
    HadamardProblem problem;
    JAXFP4_RETURN_IF_ERROR(ReadHadamard(x, signs, *out, inverse, &problem));
    return Platform::Hadamard(problem, context);
  }
};

struct ScaledDotOp {
  static constexpr const char* kTarget = "jaxfp4_scaled_dot_v1";

  template <class Binding>
  static auto Bind(Binding&& binding) {
    return ScaledDotAttrs(ScratchRet(Rets<1>(Args<6>(std::move(binding)))));
  }

  template <class Platform>
  static ffi::Error Call(typename Platform::Context context, Buffer lhs, Buffer lhs_scale,
                         Buffer lhs_global, Buffer rhs, Buffer rhs_scale, Buffer rhs_global,
                         Result out, ScratchResult scratch, int64_t lhs_element,
                         int64_t lhs_scale_type, int64_t lhs_block_rows, int64_t lhs_block_cols,
                         int64_t rhs_element, int64_t rhs_scale_type, int64_t rhs_block_rows,
                         int64_t rhs_block_cols, int64_t rhs_layout, int64_t exact) {
    ScaledDotProblem problem;
    ScaledDotOffsets offsets;
    JAXFP4_RETURN_IF_ERROR(ReadScaledDot(
        lhs, lhs_scale, lhs_global, rhs, rhs_scale, rhs_global, *out,
        {lhs_element, lhs_scale_type, lhs_block_rows, lhs_block_cols, rhs_element, rhs_scale_type,
         rhs_block_rows, rhs_block_cols, rhs_layout, exact},
        &problem, &offsets));
    Scratch memory;
    JAXFP4_RETURN_IF_ERROR(ReadScratch({"jaxfp4_scaled_dot", "scratch"}, scratch, &memory));
    problem.scratch = memory.data;
    problem.scratch_bytes = memory.bytes;
    return Platform::ScaledDot(problem, context);
  }
};

struct RaggedDotOp {
  static constexpr const char* kTarget = "jaxfp4_ragged_dot_v1";

  template <class Binding>
  static auto Bind(Binding&& binding) {
    return ScaledDotAttrs(Rets<1>(Args<7>(std::move(binding))));
  }

  template <class Platform>
  static ffi::Error Call(typename Platform::Context context, Buffer lhs, Buffer lhs_scale,
                         Buffer lhs_global, Buffer rhs, Buffer rhs_scale, Buffer rhs_global,
                         Buffer group_sizes, Result out, int64_t lhs_element,
                         int64_t lhs_scale_type, int64_t lhs_block_rows, int64_t lhs_block_cols,
                         int64_t rhs_element, int64_t rhs_scale_type, int64_t rhs_block_rows,
                         int64_t rhs_block_cols, int64_t rhs_layout, int64_t exact) {
    RaggedDotProblem problem;
    ScaledDotOffsets offsets;
    JAXFP4_RETURN_IF_ERROR(ReadRaggedDot(
        lhs, lhs_scale, lhs_global, rhs, rhs_scale, rhs_global, group_sizes, *out,
        {lhs_element, lhs_scale_type, lhs_block_rows, lhs_block_cols, rhs_element, rhs_scale_type,
         rhs_block_rows, rhs_block_cols, rhs_layout, exact},
        &problem, &offsets));
    return Platform::RaggedDot(problem, context);
  }
};

struct ScaledDotTransposedOp {
  static constexpr const char* kTarget = "jaxfp4_scaled_dot_transposed_v1";

  template <class Binding>
  static auto Bind(Binding&& binding) {
    return Attrs(Rets<1>(Args<4>(std::move(binding))), "element", "scale_type", "block_rows",
                 "block_cols", "batch_rank", "contracted_first", "out_transposed");
  }

  template <class Platform>
  static ffi::Error Call(typename Platform::Context context, Buffer lhs, Buffer rhs,
                         Buffer rhs_scale, Buffer rhs_global, Result out, int64_t element,
                         int64_t scale_type, int64_t block_rows, int64_t block_cols,
                         int64_t batch_rank, int64_t contracted_first,
                         int64_t out_transposed) {
    ScaledDotProblem problem;
    ScaledDotOffsets offsets;
    JAXFP4_RETURN_IF_ERROR(ReadScaledDotTransposed(
        lhs, rhs, rhs_scale, rhs_global, *out,
        {element, scale_type, block_rows, block_cols, batch_rank, contracted_first,
         out_transposed},
        &problem, &offsets));
    return Platform::ScaledDot(problem, context);
  }
};

template <class Operation, class Platform>
XLA_FFI_Error* Handle(XLA_FFI_CallFrame* frame) {
  static auto* handler =
      Operation::Bind(ffi::Ffi::Bind().Ctx<typename Platform::ContextBinding>())
          .To(&Operation::template Call<Platform>, Platform::kTraits)
          .release();
  Platform::WillWrite(frame->rets);
  return handler->Call(frame);
}

template <class Platform, class... Operations>
const std::vector<Registration>& Registrations() {
  static const std::vector<Registration> registrations = {
      {Operations::kTarget, &Handle<Operations, Platform>}...};
  return registrations;
}

}  // namespace jaxfp4
