// What tensor cores multiply that apply block scales themselves.
#pragma once

namespace jaxfp4::cuda {

// e2m1 with a scale of type e4m3 for 16 elements; e2m1, and eight-bit codes, with a scale of type
// e8m0 for 32.
enum class BlockScaledKind { kMxf4Nvf4, kMxf4, kMxf8f6f4 };

}  // namespace jaxfp4::cuda
