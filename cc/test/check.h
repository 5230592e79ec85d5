// The little that the tests need of a framework: count failures, print the first few of each.
#pragma once

#include <cstdio>

namespace jaxfp4 {

inline int failures = 0;

// Reports once in a while, so that one mistake does not print a million lines.
template <class... Args>
void Check(bool ok, const char* format, Args... args) {
  if (ok) return;
  if (++failures > 30) return;
  std::fprintf(stderr, "FAILED ");
  std::fprintf(stderr, format, args...);
  std::fprintf(stderr, "\n");
}

inline int Finish(const char* name) {
  if (failures > 0) {
    std::fprintf(stderr, "%s: %d checks failed\n", name, failures);
    return 1;
  }
  std::printf("%s: ok\n", name);
  return 0;
}

}  // namespace jaxfp4
