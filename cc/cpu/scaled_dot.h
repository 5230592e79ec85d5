// What the kernels of scaled_dot need besides the problem.
#pragma once

#include <cstdint>

#include "cc/problem.h"

namespace jaxfp4 {

// Scratch memory for kernels, 64-byte aligned; null if there is none.
void* AllocateScratch(int64_t bytes);
void FreeScratch(void* scratch);

}  // namespace jaxfp4
