// Random bits as a function of a row's seed and an element's logical column, and of nothing else.
#pragma once

#include "cc/codec/lanes.h"

namespace jaxfp4 {

template <class U>
JAXFP4_HD U MixBits(U x) {
  x = x ^ (x >> 16);
  x = x * 0x7feb352du;
  x = x ^ (x >> 15);
  x = x * 0x846ca68bu;
  return x ^ (x >> 16);
}

template <class U>
JAXFP4_HD U RandomBits(uint32_t seed0, uint32_t seed1, U counter) {
  return MixBits<U>(MixBits<U>(counter * 0x9e3779b9u + seed0) ^ seed1);
}

// The 8 bits of column c: four columns share one word.
template <class U>
JAXFP4_HD U Random8(uint32_t seed0, uint32_t seed1, U c) {
  return (RandomBits<U>(seed0, seed1, c >> 2) >> ((c & 3u) << 3)) & 255u;
}

template <class U>
JAXFP4_HD U Random24(uint32_t seed0, uint32_t seed1, U c) {
  return RandomBits<U>(seed0, seed1, c) >> 8;
}

}  // namespace jaxfp4
