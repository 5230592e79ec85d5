// The element types as facts. A value is sign, kExponent bits and kMantissa bits, with subnormals.
#pragma once

#include "cc/codec/lanes.h"

namespace jaxfp4 {

struct E2M1 {
  static constexpr int kBits = 4;
  static constexpr int kMantissaBits = 1;
  static constexpr int kMinExponent = 0;  // of the smallest normal
  static constexpr int kMaxExponent = 2;
  static constexpr uint32_t kMax = 0x40c00000u;  // 6, as the bits of a float
  static constexpr uint32_t kNaNCode = 0;        // what NaN becomes
  static constexpr uint32_t kFirstSpecial = 0x100;  // codes from here on are infinity, then NaN
  static constexpr uint32_t kFirstNaN = 0x100;
};

struct E2M3 {
  static constexpr int kBits = 6;
  static constexpr int kMantissaBits = 3;
  static constexpr int kMinExponent = 0;
  static constexpr int kMaxExponent = 2;
  static constexpr uint32_t kMax = 0x40f00000u;  // 7.5
  static constexpr uint32_t kNaNCode = 0;
  static constexpr uint32_t kFirstSpecial = 0x100;
  static constexpr uint32_t kFirstNaN = 0x100;
};

struct E3M2 {
  static constexpr int kBits = 6;
  static constexpr int kMantissaBits = 2;
  static constexpr int kMinExponent = -2;
  static constexpr int kMaxExponent = 4;
  static constexpr uint32_t kMax = 0x41e00000u;  // 28
  static constexpr uint32_t kNaNCode = 0;
  static constexpr uint32_t kFirstSpecial = 0x100;
  static constexpr uint32_t kFirstNaN = 0x100;
};

struct E4M3 {
  static constexpr int kBits = 8;
  static constexpr int kMantissaBits = 3;
  static constexpr int kMinExponent = -6;
  static constexpr int kMaxExponent = 8;
  static constexpr uint32_t kMax = 0x43e00000u;  // 448
  static constexpr uint32_t kNaNCode = 0x7f;
  static constexpr uint32_t kFirstSpecial = 0x7f;  // no infinity
  static constexpr uint32_t kFirstNaN = 0x7f;
};

struct E5M2 {
  static constexpr int kBits = 8;
  static constexpr int kMantissaBits = 2;
  static constexpr int kMinExponent = -14;
  static constexpr int kMaxExponent = 15;
  static constexpr uint32_t kMax = 0x47600000u;  // 57344
  static constexpr uint32_t kNaNCode = 0x7f;
  static constexpr uint32_t kFirstSpecial = 0x7c;
  static constexpr uint32_t kFirstNaN = 0x7d;
};

}  // namespace jaxfp4
