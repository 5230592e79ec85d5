#include "cc/cpu/scaled_dot.h"

#include <cstdlib>

namespace jaxfp4 {

void* AllocateScratch(int64_t bytes) {
  return std::aligned_alloc(64, (static_cast<size_t>(bytes) + 63) / 64 * 64);
}
void FreeScratch(void* scratch) { std::free(scratch); }

}  // namespace jaxfp4
