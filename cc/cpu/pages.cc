#include "cc/cpu/pages.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <cstdint>

namespace jaxfp4 {
namespace {

[[maybe_unused]] constexpr uintptr_t kHugePage = uintptr_t{2} << 20;
[[maybe_unused]] constexpr size_t kLarge = size_t{8} << 20;

}  // namespace

void PreferHugePages([[maybe_unused]] void* data, [[maybe_unused]] size_t bytes) {
#if defined(MADV_HUGEPAGE)
  if (bytes < kLarge) return;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(data);
  const uintptr_t first = (begin + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t last = (begin + bytes) / kHugePage * kHugePage;
  madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

}  // namespace jaxfp4
