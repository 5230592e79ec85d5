// hadamard of every supported target, bit for bit against butterflies one at a time.
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "cc/cpu/run.h"
#include "cc/cpu/targets.h"
#include "cc/test/check.h"
#include "cc/test/oracle.h"
#include "cc/test/thread_parallel.h"

namespace jaxfp4 {
namespace {

std::vector<float> Expected(const std::vector<float>& x, const std::vector<float>& signs,
                            bool inverse) {
  const size_t n = signs.size();
  const auto norm = static_cast<float>(1.0 / std::sqrt(static_cast<double>(n)));
  std::vector<float> y = x;
  for (size_t group = 0; group < y.size(); group += n) {
    float* v = y.data() + group;
    for (size_t i = 0; i < n && !inverse; ++i) v[i] *= signs[i];
    for (size_t h = 1; h < n; h *= 2) {
      for (size_t i = 0; i < n; ++i) {
        if (i & h) continue;
        const float a = v[i], b = v[i + h];
        v[i] = a + b;
        v[i + h] = a - b;
      }
    }
    for (size_t i = 0; i < n; ++i) v[i] *= norm;
    for (size_t i = 0; i < n && inverse; ++i) v[i] *= signs[i];
  }
  return y;
}

void Test(Dtype dtype, int64_t n, int64_t groups, bool inverse, Parallel& parallel,
          std::mt19937* random) {
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<size_t>(n * groups)), signs(static_cast<size_t>(n));
  for (float& v : x) v = oracle::Narrowed(dtype, normal(*random));
  for (float& s : signs) s = (*random)() & 1 ? -1.0f : 1.0f;
  std::vector<uint16_t> half(x.size());
  for (size_t i = 0; i < x.size(); ++i) half[i] = oracle::NarrowedBits(dtype, x[i]);
  const size_t width = dtype == Dtype::kF32 ? 4 : 2;
  std::vector<uint8_t> out(x.size() * width);
  HadamardProblem p = {};
  p.dtype = dtype;
  p.count = n * groups;
  p.n = n;
  p.inverse = inverse;
  p.x = dtype == Dtype::kF32 ? static_cast<const void*>(x.data()) : half.data();
  p.signs = signs.data();
  p.out = out.data();
  RunHadamard(p, parallel);
  const std::vector<float> expected = Expected(x, signs, inverse);
  for (size_t i = 0; i < x.size(); ++i) {
    bool same;
    if (dtype == Dtype::kF32) {
      same = std::memcmp(&out[4 * i], &expected[i], 4) == 0;
    } else {
      const uint16_t bits = oracle::NarrowedBits(dtype, expected[i]);
      same = std::memcmp(&out[2 * i], &bits, 2) == 0;
    }
    Check(same, "%s: hadamard %ld, dtype %d, inverse %d: element %zu", ActiveKernels().name,
          static_cast<long>(n), static_cast<int>(dtype), inverse, i);
  }
}

void TestAll() {
  std::mt19937 random(6);
  Serial serial;
  Threads threads(3);
  for (const Kernels* kernels : SupportedTargets()) {
    ForceTarget(kernels->name);
    for (const Dtype dtype : {Dtype::kF32, Dtype::kBF16, Dtype::kF16}) {
      for (int64_t n = 2; n <= 1024; n *= 2) {
        for (const int64_t groups : {1, 3, 130}) {
          Test(dtype, n, groups, false, serial, &random);
          Test(dtype, n, groups, true, serial, &random);
        }
      }
      Test(dtype, 2, 100001, false, threads, &random);
      Test(dtype, 128, 3000, true, threads, &random);
    }
  }
}

}  // namespace
}  // namespace jaxfp4

int main() {
  jaxfp4::TestAll();
  return jaxfp4::Finish("hadamard_test");
}
