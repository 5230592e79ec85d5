// scaled_dot by cuBLASLt, for pairs of formats that it knows, where it says that it can.
//
// Row-major out[M, N] is a column-major matrix of N x M: cuBLASLt's A is rhs, transposed, and its B
// is lhs, both with K in consecutive bytes, as its tensor cores want them. A kernel of ours puts
// the scales in order and multiplies the global ones, all into the call's scratch memory; cuBLASLt
// reads alpha from there, and has the rest of that memory for itself.
#include <array>
#include <atomic>
#include <map>
#include <memory>
#include <mutex>

#include "cc/cuda/cublaslt.h"
#include "cc/cuda/dot_describe.h"
#include "cc/cuda/dot_routes.h"
#include "cc/cuda/dot_scales.h"

namespace jaxfp4::cuda {
namespace {

namespace lt = cublaslt;

// ---- what cuBLASLt can be asked for

enum class Scaling { kNone, kTensors, kRows, kBlocks128, kMicro };

struct Modes {
  Scaling scaling;
  lt::ScaleMode lhs, rhs;
};

// Whether the rows of each entry of the batch have one scale in common.
bool HasOneScale(const DotOperand& x, int64_t batch, int64_t rows) {
  if (x.rows_per_offset > 1) return x.scale_row_stride == 0;
  for (int64_t i = 0; i < batch * rows; ++i) {
    if (x.scale_offset[i] != x.scale_offset[i / rows * rows]) return false;
  }
  return true;
}

bool IsFp8(const DotOperand& x) { return x.coded && BitsOf(x) == 8; }

// Of float32 scales for 8-bit codes: a tensor, a row, or 128 of K.
bool ModeOfFp8(const DotOperand& x, int64_t batch, int64_t rows, lt::ScaleMode* mode) {
  const BlockFormat& f = x.format;
  if (!IsFp8(x) || f.scale_type != ScaleType::kFloat32) return false;
  if (f.block_cols == 0) {
    *mode = HasOneScale(x, batch, rows) ? lt::kScalar : lt::kOuterVector;
    return true;
  }
  *mode = f.block_rows == 128 ? lt::kBlock128 : lt::kVector128;
  return f.block_cols == 128 && (f.block_rows == 1 || f.block_rows == 128);
}

Modes ModesOf(const ScaledDotProblem& p) {
  const auto micro = [&](ScaleType type, int64_t cols) {
    const BlockFormat &l = p.lhs.format, &r = p.rhs.format;
    return l.scale_type == type && r.scale_type == type && l.block_cols == cols &&
           r.block_cols == cols;
  };
  if (AreAlike(p.lhs, p.rhs) && micro(ScaleType::kE4M3, 16)) {
    return {Scaling::kMicro, lt::kVector16, lt::kVector16};
  }
  const bool two_e5m2 =
      p.lhs.format.element == Element::kE5M2 && p.rhs.format.element == Element::kE5M2;
  if (!IsFp8(p.lhs) || !IsFp8(p.rhs) || two_e5m2) return {};
  if (micro(ScaleType::kE8M0, 32)) return {Scaling::kMicro, lt::kVector32, lt::kVector32};
  Modes m = {};
  if (!ModeOfFp8(p.lhs, p.batch, p.rows, &m.lhs) || !ModeOfFp8(p.rhs, p.batch, p.cols, &m.rhs)) {
    return {};
  }
  const auto blocks = [](lt::ScaleMode mode) {
    return mode == lt::kVector128 || mode == lt::kBlock128;
  };
  if (blocks(m.lhs) != blocks(m.rhs)) return {};
  if (blocks(m.lhs)) {
    const bool fits = p.rows % 4 == 0 && p.cols % 4 == 0;
    m.scaling = fits && (m.lhs == lt::kVector128 || m.rhs == lt::kVector128) ? Scaling::kBlocks128
                                                                             : Scaling::kNone;
  } else if (m.lhs == m.rhs && m.lhs == lt::kScalar) {
    m.scaling = Scaling::kTensors;
  } else {
    m = {Scaling::kRows, lt::kOuterVector, lt::kOuterVector};
  }
  return m;
}

// Rows of operands and of the result start at multiples of 16 bytes, and one alpha serves an entry
// of the batch.
bool IsInShape(const ScaledDotProblem& p) {
  const auto row_fits = [&](const DotOperand& x) { return p.depth * BitsOf(x) / 8 % 16 == 0; };
  return p.rhs_layout == Layout::kLogical && row_fits(p.lhs) && row_fits(p.rhs) &&
         p.cols % 16 == 0 && IsAligned(p.lhs.data) && IsAligned(p.rhs.data) && IsAligned(p.out) &&
         p.batch % p.lhs.global_count == 0 && p.batch % p.rhs.global_count == 0;
}

// ---- what is in the scratch memory

struct Memory {
  float* beta;    // zero,
  float* alphas;  // and an alpha for each entry of the batch
  ArrangedScales lhs, rhs;
  void* rest;
  int64_t rest_bytes;  // negative if there is not enough
};

ArrangedScales Arrange(const DotOperand& x, lt::ScaleMode mode, int64_t batch, int64_t rows) {
  switch (mode) {
    case lt::kScalar: return Arrange(ScaleOrder::kColumns, batch, rows, 1, 1, 1);
    case lt::kOuterVector: return Arrange(ScaleOrder::kColumns, batch, rows, 1, rows, 1);
    case lt::kVector128: return Arrange(ScaleOrder::kColumns, batch, rows, 1, rows, x.scale_cols);
    case lt::kBlock128:
      return Arrange(ScaleOrder::kRows, batch, rows, 128, CeilDiv(rows, 128), x.scale_cols);
    default: return Arrange(ScaleOrder::kTiles, batch, rows, 1, rows, x.scale_cols);
  }
}

Memory Divide(const ScaledDotProblem& p, const Modes& modes) {
  constexpr int64_t kAlignment = 256;
  Memory m = {};
  m.rest_bytes = -1;
  const int64_t scales = RoundUp(p.rows > p.cols ? p.rows : p.cols, 128) * (p.depth / 16 + 4);
  if (reinterpret_cast<uintptr_t>(p.scratch) % kAlignment != 0 ||
      p.batch > kMostItems / scales) {
    return m;
  }
  m.lhs = Arrange(p.lhs, modes.lhs, p.batch, p.rows);
  m.rhs = Arrange(p.rhs, modes.rhs, p.batch, p.cols);
  auto* next = static_cast<unsigned char*>(p.scratch);
  const auto take = [&](int64_t bytes) {
    unsigned char* part = next;
    next += RoundUp(bytes, kAlignment);
    return part;
  };
  m.beta = reinterpret_cast<float*>(take((p.batch + 1) * 4));
  m.alphas = m.beta + 1;
  m.lhs.out = reinterpret_cast<uint32_t*>(take(int64_t{m.lhs.total} * 4));
  m.rhs.out = reinterpret_cast<uint32_t*>(take(int64_t{m.rhs.total} * 4));
  m.rest = next;
  m.rest_bytes = p.scratch_bytes - (next - static_cast<unsigned char*>(p.scratch));
  return m;
}

struct FillArgs {
  DotArgs dot;
  ArrangedScales lhs, rhs;
  float* beta;
  float* alphas;
};

__global__ void __launch_bounds__(256) FillKernel(const FillArgs a) {
  const uint32_t stride = gridDim.x * blockDim.x;
  const uint32_t first = blockIdx.x * blockDim.x + threadIdx.x;
  if (first == 0) *a.beta = 0.0f;
  for (uint32_t i = first; i < a.dot.batch; i += stride) {
    a.alphas[i] = GlobalScale(a.dot, i * a.dot.rows, i * a.dot.cols);
  }
  for (uint32_t i = first; i < a.lhs.total; i += stride) {
    a.lhs.out[i] = ScaleWord(a.dot.lhs, a.lhs, i);
  }
  for (uint32_t i = first; i < a.rhs.total; i += stride) {
    a.rhs.out[i] = ScaleWord(a.dot.rhs, a.rhs, i);
  }
}

// ---- how cuBLASLt does it

template <class T>
using Owned = std::unique_ptr<std::remove_pointer_t<T>, lt::Result (*)(T)>;

lt::DataType TypeOf(const DotOperand& x) {
  return x.format.element == Element::kE4M3   ? lt::kE4M3
         : x.format.element == Element::kE5M2 ? lt::kE5M2
                                              : lt::kE2M1;
}
lt::DataType TypeOf(Dtype dtype) {
  return dtype == Dtype::kF32 ? lt::kFloat32 : dtype == Dtype::kBF16 ? lt::kBFloat16 : lt::kFloat16;
}

// A product of one entry of the batch; null if this version knows no such scales.
Owned<lt::MatmulDesc> MakeMatmul(const lt::Library& library, const Modes& modes, const Memory& m,
                                 int64_t entry) {
  lt::MatmulDesc made = nullptr;
  if (library.create_matmul(&made, lt::kCompute32F, lt::kFloat32) != lt::kSuccess) {
    return {nullptr, library.destroy_matmul};
  }
  Owned<lt::MatmulDesc> matmul(made, library.destroy_matmul);
  const auto set = [&](lt::MatmulAttribute attribute, const auto& value) {
    return library.set_matmul(made, attribute, &value, sizeof(value)) == lt::kSuccess;
  };
  const auto scales = [&](const ArrangedScales& s) {
    const void* first = s.out + entry * s.entry_words.divisor;
    return first;
  };
  const bool fits = set(lt::kTransposeA, lt::kTransposed) &&
                    set(lt::kPointerMode, lt::kDevicePointers) &&
                    set(lt::kScaleModeOfA, modes.rhs) && set(lt::kScaleModeOfB, modes.lhs) &&
                    set(lt::kScalesOfA, scales(m.rhs)) && set(lt::kScalesOfB, scales(m.lhs));
  if (!fits) matmul.reset();
  return matmul;
}

// Matrices and an algorithm for them. Shared by all calls of a kind.
struct Plan {
  Owned<lt::MatrixLayout> a, b, d;
  lt::Algorithm algorithm;
  std::atomic<bool> refused;
};

Owned<lt::MatrixLayout> MakeLayout(const lt::Library& library, lt::DataType type, int64_t rows,
                                   int64_t cols) {
  lt::MatrixLayout made = nullptr;
  const bool fits = library.create_layout(&made, type, static_cast<uint64_t>(rows),
                                          static_cast<uint64_t>(cols), rows) == lt::kSuccess;
  return {fits ? made : nullptr, library.destroy_layout};
}

Owned<lt::Preference> MakePreference(const lt::Library& library, int64_t workspace) {
  lt::Preference made = nullptr;
  if (library.create_preference(&made) != lt::kSuccess) {
    return {nullptr, library.destroy_preference};
  }
  Owned<lt::Preference> preference(made, library.destroy_preference);
  const auto bytes = static_cast<uint64_t>(workspace);
  bool fits = library.set_preference(made, lt::kMostWorkspaceBytes, &bytes, sizeof(bytes)) ==
              lt::kSuccess;
  const uint32_t alignment = 16;
  for (const auto matrix :
       {lt::kAlignmentOfA, lt::kAlignmentOfB, lt::kAlignmentOfC, lt::kAlignmentOfD}) {
    fits = fits && library.set_preference(made, matrix, &alignment, 4) == lt::kSuccess;
  }
  if (!fits) preference.reset();
  return preference;
}

lt::Handle HandleOf(const lt::Library& library, int device) {
  static auto& handles = *new std::map<int, lt::Handle>();
  const auto [it, is_new] = handles.try_emplace(device, nullptr);
  if (is_new && library.create(&it->second) != lt::kSuccess) it->second = nullptr;
  return it->second;
}

std::unique_ptr<Plan> MakePlan(const lt::Library& library, lt::Handle handle,
                               const ScaledDotProblem& p, const Modes& modes, const Memory& m) {
  const auto matmul = MakeMatmul(library, modes, m, 0);
  const auto preference = MakePreference(library, m.rest_bytes);
  std::unique_ptr<Plan> plan(new Plan{MakeLayout(library, TypeOf(p.rhs), p.depth, p.cols),
                                      MakeLayout(library, TypeOf(p.lhs), p.depth, p.rows),
                                      MakeLayout(library, TypeOf(p.out_dtype), p.cols, p.rows),
                                      {},
                                      {false}});
  if (!matmul || !preference || !plan->a || !plan->b || !plan->d) return nullptr;
  lt::Candidate best = {};
  int found = 0;
  const lt::Result result = library.get_heuristic(
      handle, matmul.get(), plan->a.get(), plan->b.get(), plan->d.get(), plan->d.get(),
      preference.get(), 1, &best, &found);
  if (result != lt::kSuccess || found == 0 || best.state != lt::kSuccess) return nullptr;
  plan->algorithm = best.algorithm;
  return plan;
}

struct Served {
  const lt::Library* library;
  lt::Handle handle;
  Plan* plan;  // null if this is not served
};

// Asks cuBLASLt once for calls of a kind, on each device.
Served Ask(const ScaledDotProblem& p, const Modes& modes, const Memory& m) {
  const lt::Library* library = lt::FindLibrary();
  if (library == nullptr) return {};
  using Key = std::array<int64_t, 10>;
  const Key key = {Device(), TypeOf(p.lhs), TypeOf(p.rhs), TypeOf(p.out_dtype), modes.lhs,
                   modes.rhs, p.rows, p.cols, p.depth, m.rest_bytes};
  static std::mutex mutex;
  static auto& plans = *new std::map<Key, std::unique_ptr<Plan>>();
  const std::lock_guard<std::mutex> lock(mutex);
  const RelaxedCapture outside_of_graphs;
  const lt::Handle handle = HandleOf(*library, Device());
  if (handle == nullptr) return {};
  const auto [it, is_new] = plans.try_emplace(key);
  if (is_new) it->second = MakePlan(*library, handle, p, modes, m);
  Plan* plan = it->second.get();
  return {library, handle, plan == nullptr || plan->refused ? nullptr : plan};
}

bool Takes(const ScaledDotProblem& p, Scaling scaling) {
  const Modes modes = ModesOf(p);
  if (modes.scaling != scaling || !IsInShape(p)) return false;
  const Memory memory = Divide(p, modes);
  return memory.rest_bytes >= 0 && Ask(p, modes, memory).plan != nullptr;
}

}  // namespace

bool CublasltTakesTensors(const ScaledDotProblem& p) { return Takes(p, Scaling::kTensors); }
bool CublasltTakesRows(const ScaledDotProblem& p) { return Takes(p, Scaling::kRows); }
bool CublasltTakesBlocks128(const ScaledDotProblem& p) { return Takes(p, Scaling::kBlocks128); }
bool CublasltTakesMicro(const ScaledDotProblem& p) { return Takes(p, Scaling::kMicro); }

Status RunCublaslt(const ScaledDotProblem& p, DotArgs* args, Stream stream) {
  const Modes modes = ModesOf(p);
  const Memory m = Divide(p, modes);
  const Served served = Ask(p, modes, m);
  if (served.plan == nullptr) return kRefused;  // since this call was taken
  const int64_t words = m.lhs.total > m.rhs.total ? m.lhs.total : m.rhs.total;
  const FillArgs fill = {*args, m.lhs, m.rhs, m.beta, m.alphas};
  if (const Status s = Launch(FillKernel, GridStride(words, 256, 256), stream, fill)) return s;
  const auto entry_of = [&](const DotOperand& x, int64_t entry, int64_t rows) {
    return static_cast<const uint8_t*>(x.data) + entry * rows * (p.depth * BitsOf(x) / 8);
  };
  Plan& plan = *served.plan;
  for (int64_t i = 0; i < p.batch; ++i) {
    const auto matmul = MakeMatmul(*served.library, modes, m, i);
    auto* out = static_cast<uint8_t*>(p.out) + i * p.rows * p.cols * SizeOf(p.out_dtype);
    if (!matmul || served.library->matmul(
                       served.handle, matmul.get(), m.alphas + i, entry_of(p.rhs, i, p.cols),
                       plan.a.get(), entry_of(p.lhs, i, p.rows), plan.b.get(), m.beta, out,
                       plan.d.get(), out, plan.d.get(), &plan.algorithm, m.rest,
                       static_cast<size_t>(m.rest_bytes), stream) != lt::kSuccess) {
      plan.refused = true;
      return kRefused;
    }
  }
  return nullptr;
}

}  // namespace jaxfp4::cuda
