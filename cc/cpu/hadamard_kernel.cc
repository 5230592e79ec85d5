// The randomized Hadamard transform of every group of n elements: butterflies within a vector by
// lane exchanges, between vectors by sums and differences, in registers as far as these go.
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

// The butterflies between vectors, which stay in registers.
template <int kCount>
JAXFP4_INLINE void ButterfliesBetween(F (&x)[kCount]) {
#pragma GCC unroll 8
  for (int h = 1; h < kCount; h *= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < kCount; ++i) {
      if (i & h) continue;
      const F a = x[i], b = x[i + h];
      x[i] = a + b;
      x[i + h] = a - b;
    }
  }
}

// The butterflies between elements that are h or more apart, in memory, two steps at a time.
void ButterfliesBetween(int64_t h, int64_t n, float* y) {
  for (; 4 * h <= n; h *= 4) {
    for (int64_t group = 0; group < n; group += 4 * h) {
      for (float* p = y + group; p < y + group + h; p += kLanes) {
        F x[4] = {LoadF32(p), LoadF32(p + h), LoadF32(p + 2 * h), LoadF32(p + 3 * h)};
        ButterfliesBetween(x);
        for (int i = 0; i < 4; ++i) StoreF32(x[i], p + i * h);
      }
    }
  }
  if (h == n) return;  // else n is 2 h
  for (float* p = y; p < y + h; p += kLanes) {
    F x[2] = {LoadF32(p), LoadF32(p + h)};
    ButterfliesBetween(x);
    StoreF32(x[0], p);
    StoreF32(x[1], p + h);
  }
}

// What a call has in common. Signs are those of a whole vector at least.
struct Plan {
  int64_t n, period;
  float norm;
  float signs[kLargestGroup];

  explicit Plan(const HadamardProblem& p)
      : n(p.n),
        period(p.n < kLanes ? kLanes : p.n),
        norm(static_cast<float>(1.0 / __builtin_sqrt(static_cast<double>(p.n)))) {
    for (int64_t i = 0; i < period; ++i) signs[i] = p.signs[i % p.n];
  }
  template <bool kInverse>
  JAXFP4_INLINE F Begin(F x, int64_t i) const {
    return kInverse ? x : x * LoadF32(signs + i);
  }
  template <bool kInverse>
  JAXFP4_INLINE F End(F x, int64_t i) const {
    const F y = x * F(norm);
    return kInverse ? y * LoadF32(signs + i) : y;
  }
};

// `count` elements: whole groups of n = kGroup, whole vectors.
template <class Mem, int kGroup, bool kInverse>
void TransformVectors(const Plan& plan, const typename Mem::Type* x, int64_t count,
                      typename Mem::Type* out) {
  for (int64_t i = 0; i < count; i += kLanes) {
    const F y = Butterflies<kGroup>(plan.Begin<kInverse>(Mem::Load(x + i), 0));
    Mem::Store(plan.End<kInverse>(y, 0), out + i);
  }
}

// The first butterflies of a group: those within kVectors of its vectors.
template <class Mem, bool kInverse, int kVectors>
JAXFP4_INLINE void BeginGroup(const Plan& plan, const typename Mem::Type* x, int64_t first,
                              F (&y)[kVectors]) {
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) {
    const int64_t i = first + v * kLanes;
    y[v] = Butterflies<kLanes>(plan.Begin<kInverse>(Mem::Load(x + i), i));
  }
  ButterfliesBetween(y);
}

// Groups of n = kVectors * kLanes.
template <class Mem, int kVectors, bool kInverse>
void TransformGroups(const Plan& plan, const typename Mem::Type* x, int64_t count,
                     typename Mem::Type* out) {
  for (int64_t group = 0; group < count; group += plan.n, x += plan.n, out += plan.n) {
    F y[kVectors];
    BeginGroup<Mem, kInverse>(plan, x, 0, y);
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      Mem::Store(plan.End<kInverse>(y[v], v * kLanes), out + v * kLanes);
    }
  }
}

// Groups of more vectors than there are registers for.
template <class Mem, bool kInverse>
void TransformLargeGroups(const Plan& plan, const typename Mem::Type* x, int64_t count,
                          typename Mem::Type* out) {
  constexpr int kVectors = 8;
  alignas(64) float y[kLargestGroup];
  for (int64_t group = 0; group < count; group += plan.n, x += plan.n, out += plan.n) {
    for (int64_t i = 0; i < plan.n; i += kVectors * kLanes) {
      F part[kVectors];
      BeginGroup<Mem, kInverse>(plan, x, i, part);
      for (int v = 0; v < kVectors; ++v) StoreF32(part[v], y + i + v * kLanes);
    }
    ButterfliesBetween(kVectors * kLanes, plan.n, y);
    for (int64_t i = 0; i < plan.n; i += kLanes) {
      Mem::Store(plan.End<kInverse>(LoadF32(y + i), i), out + i);
    }
  }
}

template <class Mem>
using TransformKernel = void (*)(const Plan&, const typename Mem::Type*, int64_t,
                                 typename Mem::Type*);

template <class Mem, bool kInverse>
TransformKernel<Mem> KernelFor(int64_t n) {
  switch (n) {
    case 2: return TransformVectors<Mem, 2, kInverse>;
    case 4: return TransformVectors<Mem, 4, kInverse>;
    case 8: return TransformVectors<Mem, 8, kInverse>;
    case 16: return TransformVectors<Mem, 16, kInverse>;
    case 32: return TransformGroups<Mem, 2, kInverse>;
    case 64: return TransformGroups<Mem, 4, kInverse>;
    case 128: return TransformGroups<Mem, 8, kInverse>;
  }
  return TransformLargeGroups<Mem, kInverse>;
}

template <class Mem>
void TransformRange(const HadamardProblem& p, int64_t begin, int64_t end) {
  using T = typename Mem::Type;
  const Plan plan(p);
  const auto transform = p.inverse ? KernelFor<Mem, true>(p.n) : KernelFor<Mem, false>(p.n);
  const T* x = static_cast<const T*>(p.x);
  T* out = static_cast<T*>(p.out);
  const int64_t whole = begin + (end - begin) / plan.period * plan.period;
  transform(plan, x + begin, whole - begin, out + begin);
  if (whole < end) {  // groups that do not fill a vector
    T last[kLanes] = {};
    const size_t bytes = static_cast<size_t>(end - whole) * sizeof(T);
    memcpy(last, x + whole, bytes);
    transform(plan, last, kLanes, last);
    memcpy(out + whole, last, bytes);
  }
}

}  // namespace

void Hadamard(const HadamardProblem& problem, int64_t begin, int64_t end) {
  WithDtype(problem.dtype,
            [&](auto memory) { TransformRange<decltype(memory)>(problem, begin, end); });
}

}  // namespace jaxfp4::JAXFP4_TARGET
