// The largest finite magnitude: an integer maximum over magnitude bits, four at a time.
#include "cc/cpu/simd.h"

namespace jaxfp4::JAXFP4_TARGET {
namespace {

template <bool kFinite, class Mem>
U LargestMagnitude(const typename Mem::Type* x, int64_t count) {
  const auto load = [](const typename Mem::Type* p) {
    return kFinite ? FiniteMagnitude(Mem::Load(p)) : Magnitude(Mem::Load(p));
  };
  U largest[4] = {U(0), U(0), U(0), U(0)};
  int64_t i = 0;
  for (; i + 4 * kLanes <= count; i += 4 * kLanes) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) largest[j] = Lanes::Max(largest[j], load(x + i + j * kLanes));
  }
  for (; i < count; i += kLanes) {
    typename Mem::Type last[kLanes] = {};
    const int64_t left = count - i < kLanes ? count - i : kLanes;
    memcpy(last, x + i, static_cast<size_t>(left) * sizeof(*x));
    largest[0] = Lanes::Max(largest[0], load(last));
  }
  return Lanes::Max(Lanes::Max(largest[0], largest[1]), Lanes::Max(largest[2], largest[3]));
}

// Infinities and NaNs are looked for only where there are some.
template <class Mem>
U LargestFinite(const typename Mem::Type* x, int64_t count) {
  const U largest = LargestMagnitude<false, Mem>(x, count);
  if (!Lanes::Any(Lanes::Less(U(kLargest), largest))) return largest;
  return LargestMagnitude<true, Mem>(x, count);
}

}  // namespace

float Amax(Dtype dtype, const void* x, int64_t begin, int64_t end) {
  uint32_t lanes[kLanes];
  WithDtype(dtype, [&](auto memory) {
    using Mem = decltype(memory);
    StoreU32(LargestFinite<Mem>(static_cast<const typename Mem::Type*>(x) + begin, end - begin),
             lanes);
  });
  uint32_t largest = 0;
  for (const uint32_t lane : lanes) largest = lane > largest ? lane : largest;
  if (largest < (1u << 23)) largest = 0;  // subnormals count as zero
  float result;
  memcpy(&result, &largest, sizeof(result));
  return result;
}

}  // namespace jaxfp4::JAXFP4_TARGET
