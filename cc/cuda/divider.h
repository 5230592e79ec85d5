// Division by a number that a whole launch has in common, as a multiplication and a shift.
#pragma once

#include "cc/codec/lanes.h"

namespace jaxfp4::cuda {

// n / divisor for n < 2^31. With 2^(s-1) < divisor <= 2^s and m = ceil(2^(31+s) / divisor) < 2^32,
// the error of n * m / 2^(31+s) is below n / 2^31 / divisor, too small to reach the next integer.
struct Divider {
  uint32_t divisor;
  uint32_t multiplier;
  uint32_t shift;

  Divider() = default;
  explicit Divider(int64_t d) : divisor(static_cast<uint32_t>(d)), multiplier(0), shift(0) {
    uint32_t s = 0;
    while ((uint64_t{1} << s) < divisor) ++s;
    if (s == 0) return;  // by one
    shift = s - 1;
    multiplier = static_cast<uint32_t>(((uint64_t{1} << (31 + s)) + divisor - 1) / divisor);
  }

  JAXFP4_HD uint32_t Divide(uint32_t n) const {
    return multiplier == 0 ? n : static_cast<uint32_t>((uint64_t{n} * multiplier) >> 32) >> shift;
  }
  JAXFP4_HD uint32_t Remainder(uint32_t n, uint32_t quotient) const {
    return n - quotient * divisor;
  }
};

}  // namespace jaxfp4::cuda
