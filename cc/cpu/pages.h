// How the operating system backs memory.
#pragma once

#include <cstddef>

namespace jaxfp4 {

// Asks for huge pages in memory that is about to be written: for as much of it as whole ones fill,
// and only where that is a lot. A hint, which does nothing where the system gives none on demand.
void PreferHugePages(void* data, size_t bytes);

}  // namespace jaxfp4
