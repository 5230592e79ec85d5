// What goes on while threads do: copies to shared memory, barriers in it, and the matrix
// instructions of sm_90a; and those of sm_120f. Include after cuda_simt.h.
//
// Copies and products happen at the last moment that the program allows, when a thread waits for
// them: what was read too early, or overwritten too early, shows in the results.
//
// The layouts are those of the PTX ISA, sections "Asynchronous warpgroup level matrix
// instructions" (register fragments; shared memory layout, swizzling modes; matrix descriptor)
// and "movmatrix"; "Block scaling for mma.sync" and "Matrix fragments for mma.m16n8k64".
#pragma once

#include "cc/codec/decode.h"
#include "cc/cuda/block_scaled.h"
#include "cc/test/cuda_simt.h"

namespace simt {

struct Barrier {  // lies in the eight bytes of shared memory
  uint16_t arrivals, arrived;
  uint32_t phase;
};
static_assert(sizeof(Barrier) == sizeof(uint64_t));

// Whether this ended a phase.
inline bool Arrive(Barrier* b) {
  if (++b->arrived < b->arrivals) return false;
  b->arrived = 0;
  ++b->phase;
  return true;
}

// Address of byte `offset` of rows that a matrix descriptor describes, in shared memory.
inline uint32_t Swizzled(uint32_t address) { return address ^ (address >> 7 & 7) << 4; }

// Byte `byte` of a row of the matrix.
inline const unsigned char* DescribedRowByte(uint64_t descriptor, uint32_t row, uint32_t byte) {
  const auto field = [&](int first) {
    return static_cast<uint32_t>(descriptor >> first & 0x3fff) << 4;
  };
  if (descriptor >> 62 != 1) Fail("a matrix descriptor without the 128-byte swizzle");
  const uint32_t stride = field(32);
  return Shared() + Swizzled(field(0) + row / 8 * stride + row % 8 * 128 + byte);
}

// Element (row, k), bfloat16, of a matrix whose rows lie along k, or across it, 64 at a time.
template <bool kColumns>
double DescribedElement(uint64_t descriptor, uint32_t row, uint32_t k) {
  const uint32_t next = static_cast<uint32_t>(descriptor >> 16 & 0x3fff) << 4;
  uint16_t bits;
  std::memcpy(&bits,
              kColumns ? DescribedRowByte(descriptor, k, row % 64 * 2) + row / 64 * next
                       : DescribedRowByte(descriptor, row, 2 * k),
              2);
  return static_cast<double>(jaxfp4::FromBF16<jaxfp4::ScalarLanes>(bits));
}

}  // namespace simt

namespace jaxfp4::cuda {

inline uint32_t SharedAddress(const void* p) {
  return static_cast<uint32_t>(static_cast<const unsigned char*>(p) - simt::Shared());
}

// ---- copies

template <int kBytes>
void CopyAsync(void* to, const void* from) {
  if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) % kBytes != 0) {
    simt::Fail("an asynchronous copy of unaligned bytes");
  }
  simt::ThisFiber().copies.Add([=] { std::memcpy(to, from, kBytes); });
}
inline void CommitCopies() { simt::ThisFiber().copies.Commit(); }
template <int kPending>
void WaitForCopies() {
  simt::ThisFiber().copies.Wait(kPending);
  simt::ThisFiber().fences.proxy = true;
}

// Writes by this thread, to those who read past its caches.
inline void PublishShared() { simt::ThisFiber().fences.proxy = false; }

// ---- barriers

inline simt::Barrier* BarrierAt(uint64_t* p) { return reinterpret_cast<simt::Barrier*>(p); }

inline void InitBarrier(uint64_t* barrier, unsigned arrivals) {
  *BarrierAt(barrier) = {static_cast<uint16_t>(arrivals), 0, 0};
}
inline void ArriveAt(uint64_t* barrier) {
  simt::ReachBarrier();
  if (simt::ThisFiber().fences.proxy) simt::Fail("copied bytes handed over without a fence");
  simt::block.progress = true;
  if (simt::Arrive(BarrierAt(barrier))) simt::Yield();  // to those who wait: all must be there
}
inline void WaitFor(uint64_t* barrier, unsigned parity) {
  while ((BarrierAt(barrier)->phase & 1) == parity) simt::Yield();
  simt::PassBarrier();
  simt::block.progress = true;
}

// Among the 128 threads of one warpgroup of a block.
inline bool AnyOfWarpgroup(bool mine) {
  static simt::Gathering votes[simt::kMostInCluster];
  static bool any[simt::kMostInCluster], outcome[simt::kMostInCluster];
  const unsigned rank = simt::Rank();
  simt::Gathering& g = votes[rank];
  simt::block.progress = true;
  any[rank] = any[rank] || mine;
  if (++g.arrived < 128) {
    simt::Wait(&g.generation);
    return outcome[rank];
  }
  outcome[rank] = any[rank];
  any[rank] = false;
  g.arrived = 0;
  ++g.generation;
  return outcome[rank];
}

// ---- clusters

// Threads that have ended count as there.
inline void SyncCluster() {
  simt::Gathering& g = simt::block.cluster;
  const int mine = g.generation;
  simt::block.progress = true;
  ++g.arrived;
  while (g.generation == mine) {
    int there = g.arrived;
    for (const simt::Fiber& fiber : simt::block.fibers) there += fiber.done;
    if (there == static_cast<int>(simt::block.fibers.size())) {
      g.arrived = 0;
      ++g.generation;
      simt::block.progress = true;
    } else {
      simt::Yield();
    }
  }
}
inline float LoadFromCluster(const float* mine, uint32_t rank) {
  float x;
  std::memcpy(&x, simt::SharedOf(rank) + SharedAddress(mine), 4);
  return x;
}

// ---- warpgroups

inline uint64_t DescribeRows(const void* rows) {
  const uint32_t address = SharedAddress(rows);
  if (address % 1024 != 0) simt::Fail("swizzled rows that do not start at 1024 bytes");
  return uint64_t{1} << 62 | uint64_t{1024 / 16} << 32 | address >> 4;
}
inline uint64_t DescribeColumns(const void* columns, uint32_t next) {
  return DescribeRows(columns) | uint64_t{next / 16} << 16;
}
inline void BeginMultiply() {}
inline void CommitMultiply() { simt::ThisFiber().products.Commit(); }
template <int kPending>
void WaitForMultiply() {
  simt::ThisFiber().products.Wait(kPending);
}
template <int kRegisters>
void TakeRegisters() {}
template <int kRegisters>
void GiveRegisters() {}

// The left operand's fragment is that of mma.m16n8k16, sixteen rows a warp; so are the sums', for
// each eight columns.
template <bool kColumns>
void MultiplyAsync(float (&d)[64], const uint32_t (&a)[4], uint64_t b) {
  const uint32_t words[4] = {a[0], a[1], a[2], a[3]};
  simt::ThisFiber().products.Add([&d, words, b] {
    simt::Exchange(~0u, words, 4, [&](const uint32_t (*all)[8]) {
      const uint32_t group = simt::Lane() / 4, thread = simt::Lane() % 4;
      const double* right = simt::Share(128 * 16, [&](uint32_t i) {
        return simt::DescribedElement<kColumns>(b, i / 16, i % 16);
      });
      for (uint32_t k = 0; k < 16; ++k) {
        double left[2];
        for (uint32_t half = 0; half < 2; ++half) {
          const uint32_t word = all[group * 4 + k % 8 / 2][half + k / 8 * 2];
          left[half] = static_cast<double>(
              FromBF16<ScalarLanes>(k % 2 ? word >> 16 : word & 0xffffu));
        }
        for (uint32_t i = 0; i < 64; ++i) {
          const uint32_t col = i / 4 * 8 + thread * 2 + i % 2;
          d[i] = static_cast<float>(static_cast<double>(d[i]) +
                                    left[i / 2 % 2] * right[col * 16 + k]);
        }
      }
    });
  });
}

// How the tensor cores of sm_90 are said to sum e4m3: terms, the sum before among them, are cut off
// 13 bits below the leading bit of the largest, and so is their sum.
inline bool cuts_sums = false;

inline double Cut(double x, int exponent) {
  return std::ldexp(std::trunc(std::ldexp(x, 13 - exponent)), exponent - 13);
}
inline float SumOf(const double (&terms)[33]) {
  double sum = 0, largest = 0;
  for (const double t : terms) sum += t;
  if (!cuts_sums || !std::isfinite(sum)) return static_cast<float>(sum);
  for (const double t : terms) largest = std::max(largest, std::fabs(t));
  if (largest == 0) return static_cast<float>(sum);
  sum = 0;
  for (const double t : terms) sum += Cut(t, std::ilogb(largest));
  return static_cast<float>(sum == 0 ? sum : Cut(sum, std::ilogb(sum)));
}

inline double ValueOfE4M3(uint32_t code) {
  static const std::vector<double> values = [] {
    std::vector<double> v;
    for (uint32_t c = 0; c < 256; ++c) {
      v.push_back(static_cast<double>(Decode<E4M3, ScalarLanes>(c)));
    }
    return v;
  }();
  return values[code & 255u];
}

// The fragment of mma.m16n8k16, with two e4m3 for each bfloat16.
template <bool kAdds, int kSums>
void MultiplyFp8Async(float (&d)[kSums], const uint32_t (&a)[4], uint64_t b) {
  const uint32_t words[4] = {a[0], a[1], a[2], a[3]};
  simt::ThisFiber().products.Add([&d, words, b] {
    simt::Exchange(~0u, words, 4, [&](const uint32_t (*all)[8]) {
      const uint32_t group = simt::Lane() / 4, thread = simt::Lane() % 4;
      double left[2][32];
      for (uint32_t k = 0; k < 32; ++k) {
        for (uint32_t half = 0; half < 2; ++half) {
          const uint32_t word = all[group * 4 + k % 16 / 4][half + k / 16 * 2];
          left[half][k] = ValueOfE4M3(word >> (8 * (k % 4)));
        }
      }
      const double* right = simt::Share(2 * kSums * 32, [&](uint32_t i) {
        return ValueOfE4M3(*simt::DescribedRowByte(b, i / 32, i % 32));
      });
      for (uint32_t i = 0; i < kSums; ++i) {
        const uint32_t row = i / 4 * 8 + thread * 2 + i % 2;
        double terms[33];
        for (uint32_t k = 0; k < 32; ++k) terms[k] = left[i / 2 % 2][k] * right[row * 32 + k];
        terms[32] = kAdds ? static_cast<double>(d[i]) : 0;
        d[i] = SumOf(terms);
      }
    });
  });
}
template <int kSums>
void HoldSums(float (&)[kSums]) {}

// Lane 4 r + c holds elements (r, 2 c) and (r, 2 c + 1).
inline uint32_t TransposeMatrix(uint32_t pair) {
  uint32_t transposed = 0;
  simt::Exchange(~0u, &pair, 1, [&](const uint32_t (*all)[8]) {
    const uint32_t row = simt::Lane() / 4, col = simt::Lane() % 4 * 2;
    for (uint32_t i = 0; i < 2; ++i) {
      const uint32_t word = all[(col + i) * 4 + row / 2][0];
      transposed |= (word >> (16 * (row % 2)) & 0xffffu) << (16 * i);
    }
  });
  return transposed;
}

// ---- block scales

template <Element kElement>
double ValueIn(uint32_t code) {
  if (kElement == Element::kE2M1) return double{Decode<E2M1, ScalarLanes>(code)};
  return double{kElement == Element::kE4M3 ? Decode<E4M3, ScalarLanes>(code)
                                           : Decode<E5M2, ScalarLanes>(code)};
}

// A word has eight codes or four. Scales count where the instruction reads them: those of a from
// lanes 0 and 1 of each four, those of b from lane 0.
template <BlockScaledKind kKind, Element kLhs, Element kRhs, int kByte>
void MultiplyBlockScaled(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                         uint32_t scale_a, uint32_t scale_b) {
  constexpr bool kNv = kKind == BlockScaledKind::kMxf4Nvf4;
  constexpr bool kFp8 = kKind == BlockScaledKind::kMxf8f6f4;
  static_assert(kNv ? kByte == 0 : kFp8 || kByte == 0 || kByte == 2);
  constexpr uint32_t kBits = kFp8 ? 8 : 4, kInWord = 32 / kBits;
  const uint32_t words[8] = {a[0], a[1], a[2], a[3], b[0], b[1], scale_a, scale_b};
  simt::Exchange(~0u, words, 8, [&](const uint32_t (*all)[8]) {
    const auto scale = [](uint32_t word, uint32_t k) -> double {
      const uint32_t code = word >> 8 * (kNv ? k / 16 : kByte + k / 32) & 255u;
      if (!kNv) return code == 255 ? NAN : std::ldexp(1.0, static_cast<int>(code) - 127);
      return static_cast<double>(Decode<E4M3, ScalarLanes>(code & 0x7fu));  // no sign
    };
    const auto code = [=](uint32_t word, uint32_t k) {
      return word >> kBits * (k % kInWord) & ((1u << kBits) - 1);
    };
    for (uint32_t i = 0; i < 4; ++i) {
      const uint32_t row = simt::Lane() / 4 + i / 2 * 8, col = simt::Lane() % 4 * 2 + i % 2;
      double sum = static_cast<double>(d[i]);
      for (uint32_t k = 0; k < 8 * kInWord; ++k) {
        const uint32_t half = k / (4 * kInWord), lane = k / kInWord % 4;
        const uint32_t left = code(all[row % 8 * 4 + lane][row / 8 + half * 2], k);
        const uint32_t right = code(all[col * 4 + lane][4 + half], k);
        sum += ValueIn<kLhs>(left) * scale(all[row % 8 * 4 + row / 8][6], k) *
               (ValueIn<kRhs>(right) * scale(all[col * 4][7], k));
      }
      d[i] = static_cast<float>(sum);
    }
  });
}

}  // namespace jaxfp4::cuda
