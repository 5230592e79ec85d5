// Codes of e2m1 to e4m3, with the powers of two of MXFP4's scales folded in.
//
// e4m3 holds the values of e2m1 times 2^-8 to 2^6 exactly: fifteen powers, a window. The four
// blocks of a row's slab share a base; each decodes by a table of its eight magnitudes times the
// power by which its scale exceeds the base. Blocks too small for the window of the largest come in
// another pass over the slab, with a base of their own, where the first are zeros.
#pragma once

#include "cc/cuda/unit.h"

namespace jaxfp4::cuda {

struct Fp8Window {
  static constexpr uint32_t kBelow = 8, kAbove = 6;         // the base, at most
  static constexpr uint32_t kZeros = kBelow + 1 + kAbove;  // the table after those of the window
  static constexpr uint32_t kTables = kZeros + 1;
};

// The magnitudes 0, 1/2, 1, 3/2 and 2, 3, 4, 6, times 2^(table - kBelow), as e4m3.
struct alignas(8) Fp8Table {
  uint32_t low, high;
};
__device__ __forceinline__ Fp8Table Fp8TableOf(uint32_t table) {
  if (table == Fp8Window::kZeros) return {0, 0};
  Fp8Table t;
  t.low = table < 3 ? 0x03020100u << table : 0x14100800u + (table - 3) * 0x08080800u;
  t.high = table < 1 ? 0x0c080604u : 0x14100c08u + (table - 1) * 0x08080808u;
  return t;
}

// Four codes, in the lower half of a word, by a table.
__device__ __forceinline__ uint32_t DecodeFour(uint32_t codes, uint32_t low, uint32_t high) {
  const uint32_t magnitudes = __byte_perm(low, high, codes & 0x7777u);
  const uint32_t signs = __byte_perm(codes, codes << 4, 0x1504);  // at the top of their bytes
  return magnitudes | (signs & 0x80808080u);
}

// The scales of a row's slab, four bytes of e8m0, pass by pass. Bytes are kept plus one: NaN, which
// no table has, and what passes have taken, are zeros.
class Fp8Scales {
 public:
  __device__ explicit Fp8Scales(uint32_t codes) {
    left_ = ((codes & 0x7f7f7f7fu) + 0x01010101u) ^ (codes & 0x80808080u);
    has_nan_ = ByteAt(left_, 0) == 0 || ByteAt(left_, 1) == 0 || ByteAt(left_, 2) == 0 ||
               ByteAt(left_, 3) == 0;
  }

  // The next pass: returns its base, a normal number, or NaN if any scale is; and which table each
  // block decodes by, a byte each.
  __device__ float Pass(uint32_t* tables) {
    uint32_t most = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) most = most > ByteAt(left_, i) ? most : ByteAt(left_, i);
    constexpr uint32_t kAbove = Fp8Window::kAbove + 1, kBelow = Fp8Window::kBelow - 1;  // plus one
    const uint32_t base = most > kAbove + 1 ? most - kAbove : 1;
    uint32_t taken = 0;
    *tables = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t scale = ByteAt(left_, i);
      const bool takes = scale != 0 && scale + kBelow >= base;
      *tables |= (takes ? scale + kBelow - base : Fp8Window::kZeros) << (8 * i);
      taken |= takes ? 255u << (8 * i) : 0;
    }
    left_ &= ~taken;
    return One::Float(has_nan_ ? kQuietNaN : base << 23);
  }
  static __device__ uint32_t ByteAt(uint32_t word, int i) { return word >> (8 * i) & 255u; }

  // Whether blocks are left for another one.
  __device__ bool IsAnyLeft() const { return left_ != 0; }

 private:
  uint32_t left_;
  bool has_nan_;
};

}  // namespace jaxfp4::cuda
