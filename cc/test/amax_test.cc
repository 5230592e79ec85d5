// amax of every supported target: all float types, specials, ragged sizes, one and several threads.
#include <cmath>
#include <random>
#include <vector>

#include "cc/cpu/run.h"
#include "cc/cpu/targets.h"
#include "cc/test/check.h"
#include "cc/test/oracle.h"
#include "cc/test/thread_parallel.h"

namespace jaxfp4 {
namespace {

float Expected(const std::vector<float>& x, size_t begin, size_t end) {
  float largest = 0.0f;
  for (size_t i = begin; i < end; ++i) {
    const float a = std::fabs(x[i]);
    if (std::isfinite(a) && a >= 1.17549435e-38f && a > largest) largest = a;
  }
  return largest;
}

void Test(Dtype dtype, int64_t batch, int64_t size, Parallel& parallel, std::mt19937* random) {
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<size_t>(batch * size));
  for (float& v : x) {
    const auto kind = (*random)() % 50;
    v = kind == 0 ? NAN : kind == 1 ? -INFINITY : kind == 2 ? 1e-41f : normal(*random);
    v = oracle::Narrowed(dtype, v);
  }
  std::vector<uint16_t> half(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    half[i] = oracle::NarrowedBits(dtype, x[i]);
    if (dtype == Dtype::kBF16 && std::isnan(x[i])) half[i] = 0xffc0;
  }
  std::vector<float> out(static_cast<size_t>(batch), -1.0f);
  const void* data = dtype == Dtype::kF32 ? static_cast<const void*>(x.data()) : half.data();
  RunAmax({dtype, batch, size, data, out.data()}, parallel);
  for (int64_t b = 0; b < batch; ++b) {
    const float expected =
        Expected(x, static_cast<size_t>(b * size), static_cast<size_t>((b + 1) * size));
    const float got = out[static_cast<size_t>(b)];
    Check(got == expected, "%s: amax of %ld x %ld, dtype %d: %a, expected %a",
          ActiveKernels().name, static_cast<long>(batch), static_cast<long>(size),
          static_cast<int>(dtype), got, expected);
  }
}

void TestAll() {
  std::mt19937 random(4);
  Serial serial;
  Threads threads(3);
  for (const Kernels* kernels : SupportedTargets()) {
    ForceTarget(kernels->name);
    for (const Dtype dtype : {Dtype::kF32, Dtype::kBF16, Dtype::kF16}) {
      for (const int64_t size : {0, 1, 15, 16, 17, 63, 64, 1000}) {
        Test(dtype, 3, size, serial, &random);
      }
      Test(dtype, 0, 16, serial, &random);
      Test(dtype, 1, 400001, threads, &random);
      Test(dtype, 70, 4001, threads, &random);
    }
  }
}

}  // namespace
}  // namespace jaxfp4

int main() {
  jaxfp4::TestAll();
  return jaxfp4::Finish("amax_test");
}
