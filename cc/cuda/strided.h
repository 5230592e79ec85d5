// A host table of offsets as a short list of strides, small enough to be a kernel's argument.
#pragma once

#include "cc/cuda/divider.h"
#include "cc/cuda/launch.h"

namespace jaxfp4::cuda {

constexpr Status kTooManyAxes = "scales broadcast over too many alternating axes: reshape to fewer";

// Offsets of an array over axes some of which it broadcasts along. Index digits from the last: the
// first `digits` mixed-radix digits of an index, each times its stride.
struct Strided {
  static constexpr int kDigits = 6;
  int digits = 0;
  Divider radix[kDigits];
  int64_t stride[kDigits];

  JAXFP4_HD int64_t At(uint32_t index) const {
    int64_t offset = 0;
    for (int i = 0; i < digits; ++i) {
      const uint32_t rest = radix[i].Divide(index);
      offset += radix[i].Remainder(index, rest) * stride[i];
      index = rest;
    }
    return offset;
  }

  // Finds the digits of a table that starts at 0. An axis ends where the next offset is not one
  // more stride: axes that continue each other come out as one. False if there are too many.
  bool Fit(const int64_t* table, int64_t count) {
    digits = 0;
    for (int64_t step = 1; step < count;) {
      if (digits == kDigits) return false;
      const int64_t difference = table[step];
      int64_t radix_here = 2;
      while (radix_here * step < count && table[radix_here * step] == radix_here * difference) {
        ++radix_here;
      }
      if (count % (radix_here * step) != 0) return false;
      radix[digits] = Divider(radix_here);
      stride[digits++] = difference;
      step *= radix_here;
    }
    return true;
  }
};

}  // namespace jaxfp4::cuda
