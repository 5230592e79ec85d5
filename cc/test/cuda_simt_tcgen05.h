// The matrix instructions of sm_100f. Include after cuda_simt_async.h.
//
// Descriptors are read as the PTX ISA's sections "Shared memory descriptor", "Instruction
// descriptor" and "Canonical layouts" have them, scales where "Scale factor A ID" and "Scale factor
// B ID" say that they lie; whatever a descriptor has that these kernels do not use is an error.
//
// What one thread starts happens when `tensor_order` says: at once, or at the last moment, when no
// thread can go on without it; or copies at once, and products, which may come after them, late.
// The ISA allows all three, and what waits for too little goes wrong in one of them.
#pragma once

#include "cc/cuda/tcgen05.h"
#include "cc/test/cuda_simt_async.h"

namespace simt {

enum class TensorOrder { kAtOnce, kLate, kCopiesFirst };
inline TensorOrder tensor_order = TensorOrder::kLate;

constexpr uint32_t kTensorLanes = 128, kTensorColumns = 512;
inline uint32_t tensor[kTensorLanes][kTensorColumns];
inline bool tensor_taken = false;
inline int tensor_issuer = -1;  // the thread whose work `tensor_work` is

struct TensorWork {
  std::function<void()> run;
  bool ends_batch;  // arrives at a barrier
};
inline std::deque<TensorWork> tensor_work;

inline uint32_t& TensorAt(uint32_t address, uint32_t lane, uint32_t column) {
  lane += address >> 16;
  column += address & 0xffffu;
  if (!tensor_taken || lane >= kTensorLanes || column >= kTensorColumns) {
    Fail("tensor memory that is not the block's");
  }
  return tensor[lane][column];
}

// Up to the next arrival at a barrier. False if there is no work.
inline bool RunTensorWork() {
  while (!tensor_work.empty()) {
    const TensorWork work = std::move(tensor_work.front());
    tensor_work.pop_front();
    work.run();
    if (work.ends_batch) return true;
  }
  return false;
}
inline const bool runs_when_stalled = (when_stalled = RunTensorWork, true);

inline void UseTensor() {
  if (ThisFiber().fences.acquire) Fail("tensor memory used after a barrier, without a fence");
}
inline void StartTensorWork(bool at_once, bool ends_batch, std::function<void()> run) {
  UseTensor();
  const int thread = static_cast<int>(block.current);
  if (tensor_issuer != -1 && tensor_issuer != thread) Fail("tensor cores driven by two threads");
  tensor_issuer = thread;
  block.progress = true;
  if (at_once) return run();
  tensor_work.push_back({std::move(run), ends_batch});
}

// ---- descriptors

inline uint32_t Bits(uint64_t x, int first, int count) {
  return static_cast<uint32_t>(x >> first & ((uint64_t{1} << count) - 1));
}

// Byte `byte` of row `row` of the matrix that a shared memory descriptor describes, K-major.
inline uint8_t MatrixByte(uint64_t d, uint32_t row, uint32_t byte) {
  const uint32_t start = Bits(d, 0, 14) << 4, stride = Bits(d, 32, 14) << 4;
  const uint32_t swizzle = Bits(d, 61, 3);
  const bool zeros = Bits(d, 14, 2) == 0 && Bits(d, 30, 2) == 0 && Bits(d, 49, 12) == 0;
  if (!zeros || Bits(d, 46, 3) != 1) Fail("a shared memory descriptor that is none");
  uint32_t address;
  if (swizzle == 0) {  // eight rows of sixteen bytes together
    if (byte >= 16) Fail("columns of matrices without a stride");
    address = start + row / 8 * stride + row % 8 * 16 + byte;
  } else {
    const uint32_t width = swizzle == 2 ? 128 : swizzle == 4 ? 64 : swizzle == 6 ? 32 : 0;
    if (width == 0) Fail("a swizzle that is none");
    address = start + row / 8 * stride + row % 8 * width + byte;
    address ^= (address >> 7 & (width / 16 - 1)) << 4;
  }
  if (address >= kSharedBytes) Fail("a matrix beyond shared memory");
  return Shared()[address];
}

using jaxfp4::cuda::BlockScaledKind;

struct Product {
  uint32_t lhs_type, rhs_type, cols, lhs_scale, rhs_scale;
};
inline Product ReadProduct(BlockScaledKind kind, uint32_t d) {
  const Product p = {Bits(d, 7, 3), Bits(d, 10, 3), Bits(d, 17, 6) * 8, Bits(d, 29, 2),
                     Bits(d, 4, 2)};
  const bool fp8 = kind == BlockScaledKind::kMxf8f6f4, nvfp4 = kind == BlockScaledKind::kMxf4Nvf4;
  const bool zeros = Bits(d, 0, 4) == 0 && Bits(d, 6, 1) == 0 && Bits(d, 13, 4) == 0 &&
                     Bits(d, 24, 3) == 0 && Bits(d, 31, 1) == 0;
  const auto known = [&](uint32_t type) { return fp8 ? type <= 1 : type == 1; };
  const auto aligned = [&](uint32_t id) { return fp8 || id == 0 || (!nvfp4 && id == 2); };
  if (!zeros || Bits(d, 27, 2) != 1 || Bits(d, 23, 1) != (nvfp4 ? 0 : 1) || !known(p.lhs_type) ||
      !known(p.rhs_type) || !aligned(p.lhs_scale) || !aligned(p.rhs_scale) || p.cols > 256) {
    Fail("an instruction descriptor that is none");
  }
  return p;
}

// 32 bytes of a row, each element times the scale of its block.
inline std::vector<double> ReadRow(BlockScaledKind kind, uint32_t type, uint64_t codes,
                                   uint32_t row, uint32_t scales, uint32_t first_scale) {
  using jaxfp4::Decode;
  using jaxfp4::ScalarLanes;
  const bool nvfp4 = kind == BlockScaledKind::kMxf4Nvf4;
  const uint32_t word = TensorAt(scales, row % 32, row / 32);
  const auto scale = [&](uint32_t i) -> double {
    const uint32_t code = word >> 8 * (first_scale + i) & 255u;
    if (!nvfp4) return code == 255 ? NAN : std::ldexp(1.0, static_cast<int>(code) - 127);
    return static_cast<double>(Decode<jaxfp4::E4M3, ScalarLanes>(code & 0x7fu));  // no sign
  };
  std::vector<double> values;
  for (uint32_t i = 0; i < 32; ++i) {
    const uint32_t byte = MatrixByte(codes, row, i);
    if (kind == BlockScaledKind::kMxf8f6f4) {
      const float x = type == 0 ? Decode<jaxfp4::E4M3, ScalarLanes>(byte)
                                : Decode<jaxfp4::E5M2, ScalarLanes>(byte);
      values.push_back(static_cast<double>(x) * scale(0));
      continue;
    }
    for (const uint32_t code : {byte & 15u, byte >> 4}) {
      const float x = Decode<jaxfp4::E2M1, ScalarLanes>(code);
      values.push_back(static_cast<double>(x) * scale(i / (nvfp4 ? 8 : 16)));
    }
  }
  return values;
}

}  // namespace simt

namespace jaxfp4::cuda {

// ---- tensor memory

template <int kColumns>
void TakeTensorMemory(uint32_t* address) {
  static_assert(kColumns == simt::kTensorColumns);
  simt::SyncLanes(~0u);
  if (simt::Lane() == 0) {
    if (simt::tensor_taken) simt::Fail("tensor memory taken twice");
    simt::tensor_taken = true;
    simt::tensor_issuer = -1;
    std::memset(simt::tensor, 0xff, sizeof(simt::tensor));  // NaN, however it is read
    *address = 0;
  }
  simt::SyncLanes(~0u);
  simt::ThisFiber().fences.release = true;
}
template <int kColumns>
void FreeTensorMemory(uint32_t) {
  simt::SyncLanes(~0u);
  simt::UseTensor();
  if (!simt::tensor_work.empty()) simt::Fail("tensor memory given back while it is worked on");
  simt::tensor_taken = false;
}

// A warp reaches the 32 lanes of its number.
inline void LoadTensor(uint32_t address, uint32_t (&r)[32]) {
  simt::UseTensor();
  simt::SyncLanes(~0u);
  if (address >> 16 != simt::block.current / simt::kWarp % 4 * simt::kWarp) {
    simt::Fail("a warp loads other lanes than its own");
  }
  std::memset(r, 0xff, sizeof(r));
  simt::ThisFiber().products.Add([address, &r] {
    for (uint32_t i = 0; i < 32; ++i) r[i] = simt::TensorAt(address, simt::Lane(), i);
  });
}
inline void WaitForTensor() {
  simt::ThisFiber().products.Commit();
  simt::ThisFiber().products.Wait(0);
  simt::ThisFiber().fences.release = true;
}

inline void ReleaseTensor() { simt::ThisFiber().fences.release = false; }
inline void AcquireTensor() { simt::ThisFiber().fences.acquire = false; }
inline void PublishBarriers() {}

// ---- what one thread starts

inline bool ElectOne() {
  simt::SyncLanes(~0u);
  return simt::Lane() == 5;
}

inline void CopyToTensor(uint32_t to, uint64_t from) {
  const bool at_once = simt::tensor_order != simt::TensorOrder::kLate;
  simt::StartTensorWork(at_once, false, [=] {
    for (uint32_t lane = 0; lane < simt::kTensorLanes; ++lane) {
      for (uint32_t i = 0; i < 16; ++i) {
        uint32_t& cell = simt::TensorAt(to, lane, i / 4);
        const uint32_t byte = simt::MatrixByte(from, lane % 32, i);
        cell = (cell & ~(255u << 8 * (i % 4))) | byte << 8 * (i % 4);
      }
    }
  });
}

template <BlockScaledKind kKind>
void MultiplyTensor(uint32_t sums, uint64_t lhs, uint64_t rhs, uint32_t product,
                    uint32_t lhs_scales, uint32_t rhs_scales, bool add) {
  const bool at_once = simt::tensor_order == simt::TensorOrder::kAtOnce;
  simt::StartTensorWork(at_once, false, [=] {
    const simt::Product p = simt::ReadProduct(kKind, product);
    std::vector<std::vector<double>> columns;
    for (uint32_t col = 0; col < p.cols; ++col) {
      columns.push_back(simt::ReadRow(kKind, p.rhs_type, rhs, col, rhs_scales, p.rhs_scale));
    }
    for (uint32_t row = 0; row < 128; ++row) {
      const std::vector<double> left =
          simt::ReadRow(kKind, p.lhs_type, lhs, row, lhs_scales, p.lhs_scale);
      for (uint32_t col = 0; col < p.cols; ++col) {
        uint32_t& cell = simt::TensorAt(sums, row, col);
        double sum = add ? static_cast<double>(ScalarLanes::Float(cell)) : 0;
        for (size_t k = 0; k < left.size(); ++k) sum += left[k] * columns[col][k];
        cell = ScalarLanes::Bits(static_cast<float>(sum));
      }
    }
  });
}

inline void ArriveWhenDone(uint64_t* barrier) {
  const bool at_once = simt::tensor_order == simt::TensorOrder::kAtOnce;
  simt::StartTensorWork(at_once, true, [=] { simt::Arrive(BarrierAt(barrier)); });
}

}  // namespace jaxfp4::cuda
