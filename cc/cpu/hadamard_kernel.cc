// The randomized Hadamard transform of every group of n elements: butterflies within a vector by
// lane exchanges, between vectors by sums and differences.
#include "cc/cpu/simd.h"

namespace jaxfp4::JAXFP4_TARGET {
namespace {

constexpr int64_t kLargestGroup = 1024;

// Lanes with bit h take (partner - self), the others (partner + self).
template <int h>
JAXFP4_INLINE F Butterfly(F x) {
  float signs[kLanes];
  for (int i = 0; i < kLanes; ++i) signs[i] = (i & h) ? -1.0f : 1.0f;
  return Lanes::MulAdd(x, LoadF32(signs), Exchange<h>(x));
}

// Groups of n in a vector, or its part of a larger one.
template <int n>
JAXFP4_INLINE F Butterflies(F x) {
  if constexpr (n > 1) x = Butterfly<1>(x);
  if constexpr (n > 2) x = Butterfly<2>(x);
  if constexpr (n > 4) x = Butterfly<4>(x);
  if constexpr (n > 8) x = Butterfly<8>(x);
  return x;
}

// The butterflies between the vectors of a group of n, two steps at a time.
void ButterfliesBetween(int64_t n, float* y) {
  int64_t h = kLanes;
  for (; 4 * h <= n; h *= 4) {
    for (int64_t group = 0; group < n; group += 4 * h) {
      for (float* p = y + group; p < y + group + h; p += kLanes) {
        const F a = LoadF32(p), b = LoadF32(p + h), c = LoadF32(p + 2 * h), d = LoadF32(p + 3 * h);
        const F sum0 = a + b, sum1 = c + d, difference0 = a - b, difference1 = c - d;
        StoreF32(sum0 + sum1, p);
        StoreF32(difference0 + difference1, p + h);
        StoreF32(sum0 - sum1, p + 2 * h);
        StoreF32(difference0 - difference1, p + 3 * h);
      }
    }
  }
  for (; h < n; h *= 2) {
    for (int64_t group = 0; group < n; group += 2 * h) {
      for (float* p = y + group; p < y + group + h; p += kLanes) {
        const F a = LoadF32(p), b = LoadF32(p + h);
        StoreF32(a + b, p);
        StoreF32(a - b, p + h);
      }
    }
  }
}

// What a call has in common. Signs are those of a whole vector at least.
struct Plan {
  int64_t n, period;
  bool inverse;
  float norm;
  float signs[kLargestGroup];

  explicit Plan(const HadamardProblem& p)
      : n(p.n),
        period(p.n < kLanes ? kLanes : p.n),
        inverse(p.inverse),
        norm(static_cast<float>(1.0 / __builtin_sqrt(static_cast<double>(p.n)))) {
    for (int64_t i = 0; i < period; ++i) signs[i] = p.signs[i % p.n];
  }
  JAXFP4_INLINE F Begin(F x, int64_t i) const { return inverse ? x : x * LoadF32(signs + i); }
  JAXFP4_INLINE F End(F x, int64_t i) const {
    const F y = x * F(norm);
    return inverse ? y * LoadF32(signs + i) : y;
  }
};

// `count` elements, whole groups and whole vectors; kWithin is the part of n within a vector.
template <class Mem, int kWithin>
void Transform(const Plan& plan, const typename Mem::Type* x, int64_t count,
               typename Mem::Type* out) {
  if constexpr (kWithin < kLanes) {
    for (int64_t i = 0; i < count; i += kLanes) {
      Mem::Store(plan.End(Butterflies<kWithin>(plan.Begin(Mem::Load(x + i), 0)), 0), out + i);
    }
  } else {
    alignas(64) float y[kLargestGroup];
    for (int64_t group = 0; group < count; group += plan.n, x += plan.n, out += plan.n) {
      if (plan.n == kLanes) {
        Mem::Store(plan.End(Butterflies<kLanes>(plan.Begin(Mem::Load(x), 0)), 0), out);
        continue;
      }
      for (int64_t i = 0; i < plan.n; i += kLanes) {
        StoreF32(Butterflies<kLanes>(plan.Begin(Mem::Load(x + i), i)), y + i);
      }
      ButterfliesBetween(plan.n, y);
      for (int64_t i = 0; i < plan.n; i += kLanes) {
        Mem::Store(plan.End(LoadF32(y + i), i), out + i);
      }
    }
  }
}

template <class Mem, int kWithin>
void TransformRange(const HadamardProblem& p, int64_t begin, int64_t end) {
  using T = typename Mem::Type;
  const Plan plan(p);
  const T* x = static_cast<const T*>(p.x);
  T* out = static_cast<T*>(p.out);
  const int64_t whole = begin + (end - begin) / plan.period * plan.period;
  Transform<Mem, kWithin>(plan, x + begin, whole - begin, out + begin);
  if (whole < end) {  // groups that do not fill a vector
    T last[kLanes] = {};
    const size_t bytes = static_cast<size_t>(end - whole) * sizeof(T);
    memcpy(last, x + whole, bytes);
    Transform<Mem, kWithin>(plan, last, kLanes, last);
    memcpy(out + whole, last, bytes);
  }
}

template <class Mem>
void TransformRange(const HadamardProblem& p, int64_t begin, int64_t end) {
  if (p.n == 2) return TransformRange<Mem, 2>(p, begin, end);
  if (p.n == 4) return TransformRange<Mem, 4>(p, begin, end);
  if (p.n == 8) return TransformRange<Mem, 8>(p, begin, end);
  TransformRange<Mem, kLanes>(p, begin, end);
}

}  // namespace

void Hadamard(const HadamardProblem& problem, int64_t begin, int64_t end) {
  WithDtype(problem.dtype,
            [&](auto memory) { TransformRange<decltype(memory)>(problem, begin, end); });
}

}  // namespace jaxfp4::JAXFP4_TARGET
