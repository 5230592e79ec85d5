#include "cc/cpu/targets.h"

#include <atomic>
#include <cstring>

#if defined(__aarch64__)
#include <sys/auxv.h>
#endif

namespace jaxfp4 {

#define JAXFP4_DECLARE(target) \
  namespace target {           \
  extern const Kernels kKernels; \
  }
JAXFP4_DECLARE(scalar)
JAXFP4_DECLARE(avx2)
JAXFP4_DECLARE(avx512)
JAXFP4_DECLARE(avx512_bf16)
JAXFP4_DECLARE(neon)
JAXFP4_DECLARE(neon_dotprod)
JAXFP4_DECLARE(neon_i8mm)
#undef JAXFP4_DECLARE

namespace {

#if defined(__x86_64__)
bool HasAvx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("bmi2");  // every CPU with AVX2 has F16C
}
bool HasAvx512() {
  return HasAvx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512cd");
}
bool HasAvx512Bf16() {
  return HasAvx512() && __builtin_cpu_supports("avx512vnni") &&
         __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vbmi");
}
#elif defined(__aarch64__)  // Linux's bits of AT_HWCAP and AT_HWCAP2; every CPU has NEON
bool HasDotProduct() { return getauxval(AT_HWCAP) >> 20 & 1; }
bool HasI8mm() { return getauxval(AT_HWCAP2) >> 13 & 1; }
bool HasBf16() { return getauxval(AT_HWCAP2) >> 14 & 1; }
#endif

struct Supported {
  const Kernels* kernels[4];
  int64_t size = 0;

  void Add(const Kernels& k) { kernels[size++] = &k; }

  Supported() {
    Add(scalar::kKernels);
#ifdef JAXFP4_HAVE_AVX2
    if (HasAvx2()) Add(avx2::kKernels);
#endif
#ifdef JAXFP4_HAVE_AVX512
    if (HasAvx512()) Add(avx512::kKernels);
#endif
#ifdef JAXFP4_HAVE_AVX512_BF16
    if (HasAvx512Bf16()) Add(avx512_bf16::kKernels);
#endif
#ifdef JAXFP4_HAVE_NEON
    Add(neon::kKernels);
#endif
#ifdef JAXFP4_HAVE_NEON_DOTPROD
    if (HasDotProduct()) Add(neon_dotprod::kKernels);
#endif
#ifdef JAXFP4_HAVE_NEON_I8MM
    if (HasDotProduct() && HasI8mm() && HasBf16()) Add(neon_i8mm::kKernels);
#endif
  }
};

const Supported& Targets() {
  static const Supported targets;
  return targets;
}

std::atomic<const Kernels*> forced{nullptr};

}  // namespace

TargetList SupportedTargets() { return {Targets().kernels, Targets().size}; }

const Kernels& ActiveKernels() {
  const Kernels* kernels = forced.load(std::memory_order_acquire);
  return kernels != nullptr ? *kernels : *Targets().kernels[Targets().size - 1];
}

bool ForceTarget(const char* name) {
  if (*name == '\0') {
    forced.store(nullptr, std::memory_order_release);
    return true;
  }
  for (const Kernels* kernels : SupportedTargets()) {
    if (std::strcmp(kernels->name, name) == 0) {
      forced.store(kernels, std::memory_order_release);
      return true;
    }
  }
  return false;
}

}  // namespace jaxfp4
