#include "cc/cpu/scaled_dot.h"

#include <cstdlib>

#include "cc/cpu/pages.h"

namespace jaxfp4 {

void* AllocateScratch(int64_t bytes) {
  const size_t size = (static_cast<size_t>(bytes) + 63) / 64 * 64;
  void* scratch = std::aligned_alloc(64, size);
  if (scratch != nullptr) PreferHugePages(scratch, size);
  return scratch;
}
void FreeScratch(void* scratch) { std::free(scratch); }

}  // namespace jaxfp4
