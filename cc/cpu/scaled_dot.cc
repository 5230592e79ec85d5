#include "cc/cpu/scaled_dot.h"

#include <cstdlib>

#include "cc/cpu/pages.h"

namespace jaxfp4 {
namespace {

constexpr size_t kLine = 64;

}  // namespace

// The C library's own aligned allocations of one size may each need fresh memory: what it cut off
// around the last one keeps that from being used again. So scratch is aligned here, and what is to
// be freed lies before it.
void* AllocateScratch(int64_t bytes) {
  const size_t size = static_cast<size_t>(bytes);
  void* const memory = std::malloc(size + kLine);
  if (memory == nullptr) return nullptr;
  char* scratch = static_cast<char*>(memory) + kLine;
  scratch -= reinterpret_cast<uintptr_t>(scratch) % kLine;
  reinterpret_cast<void**>(scratch)[-1] = memory;  // malloc aligns for any type: there is room
  PreferHugePages(scratch, size);
  return scratch;
}

void FreeScratch(void* scratch) {
  if (scratch != nullptr) std::free(static_cast<void**>(scratch)[-1]);
}

}  // namespace jaxfp4
