// The little that the tests need of a framework: count failures, print the first few of each.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>

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

// Whether to run the next of many similar cases: always, but once in n times where the environment
// has JAXFP4_TEST_SHARE=n, for CPUs that are emulated.
inline bool Selected() {
  static const char* const text = std::getenv("JAXFP4_TEST_SHARE");
  static const int64_t share = text == nullptr ? 1 : std::atoll(text);
  static int64_t calls = 0;
  return calls++ % share == 0;
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
