// The randomized Hadamard transform of every group of n elements: butterflies within a vector by
// lane exchanges, between vectors by sums and differences.
#include "cc/cpu/simd.h"

namespace jaxfp4::JAXFP4_TARGET {
namespace {

constexpr int64_t kLargestGroup = 1024;

// Lanes with bit h take (partner - self), the others (self + partner).
template <int h>
JAXFP4_INLINE F ButterflyWithin(F x) {
  uint32_t signs[kLanes];
  for (uint32_t i = 0; i < kLanes; ++i) signs[i] = (i & h) ? kSignBit : 0;
  return Exchange<h>(x) + Lanes::Float(Lanes::Bits(x) ^ LoadU32(signs));
}

// Groups of n, or of kLanes and more, in y; n smaller than kLanes has several to a vector.
void Butterflies(int64_t n, int64_t count, float* y) {
  for (int64_t i = 0; i < count; i += kLanes) {
    F v = LoadF32(y + i);
    if (n > 1) v = ButterflyWithin<1>(v);
    if (n > 2) v = ButterflyWithin<2>(v);
    if (n > 4) v = ButterflyWithin<4>(v);
    if (n > 8) v = ButterflyWithin<8>(v);
    StoreF32(v, y + i);
  }
  for (int64_t h = kLanes; h < n; h *= 2) {
    for (int64_t group = 0; group < count; group += 2 * h) {
      for (int64_t i = group; i < group + h; i += kLanes) {
        const F a = LoadF32(y + i), b = LoadF32(y + i + h);
        StoreF32(a + b, y + i);
        StoreF32(a - b, y + i + h);
      }
    }
  }
}

template <class Mem>
void Load(const typename Mem::Type* x, int64_t count, float* y) {
  for (int64_t i = 0; i < count; i += kLanes) StoreF32(Mem::Load(x + i), y + i);
}

// y *= signs, which repeat over the groups, and n divides kLanes or the other way round.
void MultiplySigns(const float* signs, int64_t period, int64_t count, float* y) {
  for (int64_t i = 0, s = 0; i < count; i += kLanes, s = s + kLanes == period ? 0 : s + kLanes) {
    StoreF32(LoadF32(y + i) * LoadF32(signs + s), y + i);
  }
}

template <class Mem>
void Transform(const HadamardProblem& p, int64_t begin, int64_t end) {
  using T = typename Mem::Type;
  const T* x = static_cast<const T*>(p.x);
  T* out = static_cast<T*>(p.out);
  // The signs of a whole vector at least.
  const int64_t period = p.n < kLanes ? kLanes : p.n;
  float signs[kLargestGroup];
  for (int64_t i = 0; i < period; ++i) signs[i] = p.signs[i % p.n];
  const float norm = static_cast<float>(1.0 / __builtin_sqrt(static_cast<double>(p.n)));
  alignas(64) float y[kLargestGroup];
  for (int64_t i = begin; i < end; i += kLargestGroup) {
    const int64_t count = end - i < kLargestGroup ? end - i : kLargestGroup;
    const int64_t whole = count / kLanes * kLanes;
    const int64_t padded = whole == count ? count : whole + kLanes;
    T last[kLanes] = {};
    Load<Mem>(x + i, whole, y);
    if (whole < count) {
      memcpy(last, x + i + whole, static_cast<size_t>(count - whole) * sizeof(T));
      Load<Mem>(last, kLanes, y + whole);
    }
    if (!p.inverse) MultiplySigns(signs, period, padded, y);
    Butterflies(p.n, padded, y);
    for (int64_t j = 0; j < padded; j += kLanes) StoreF32(LoadF32(y + j) * F(norm), y + j);
    if (p.inverse) MultiplySigns(signs, period, padded, y);
    for (int64_t j = 0; j < whole; j += kLanes) Mem::Store(LoadF32(y + j), out + i + j);
    if (whole < count) {
      Mem::Store(LoadF32(y + whole), last);
      memcpy(out + i + whole, last, static_cast<size_t>(count - whole) * sizeof(T));
    }
  }
}

}  // namespace

void Hadamard(const HadamardProblem& problem, int64_t begin, int64_t end) {
  WithDtype(problem.dtype,
            [&](auto memory) { Transform<decltype(memory)>(problem, begin, end); });
}

}  // namespace jaxfp4::JAXFP4_TARGET
