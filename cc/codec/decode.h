// Codes to values.
#pragma once

#include "cc/codec/element.h"

namespace jaxfp4 {

// The value of a code (bits above E::kBits must be zero). Subnormals are converted as integers,
// since as the bits of a float they would be flushed.
template <class E, class V>
JAXFP4_HD typename V::F Decode(typename V::U code) {
  using U = typename V::U;
  constexpr uint32_t kSign = 1u << (E::kBits - 1);
  constexpr int kShift = 23 - E::kMantissaBits;
  constexpr uint32_t kStep = PowerBits(E::kMinExponent - E::kMantissaBits);
  const U magnitude = code & (kSign - 1);
  const U normal = (magnitude << kShift) + (PowerBits(E::kMinExponent) - (1u << 23));
  const U subnormal = V::Bits(V::FromInt(magnitude) * V::Float(U(kStep)));
  U value = V::Select(V::Less(magnitude, U(1u << E::kMantissaBits)), subnormal, normal);
  if constexpr (E::kFirstSpecial < kSign) {
    const U special =
        V::Select(V::Less(magnitude, U(E::kFirstNaN)), U(kInfinity), U(kQuietNaN));
    value = V::Select(V::Less(magnitude, U(E::kFirstSpecial)), value, special);
  }
  return V::Float(value | ((code & kSign) << (32 - E::kBits)));
}

}  // namespace jaxfp4
