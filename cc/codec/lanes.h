// The codec is written once for any number of lanes. `V` names the lanes of a function: V::F holds
// floats, V::U the same number of uint32, V::M the outcome of a comparison. ScalarLanes has one
// lane (hosts, CUDA threads); cc/cpu/simd.h has sixteen.
//
// All arithmetic assumes round-to-nearest with subnormals flushed (inputs and results), and no
// contraction of a * b + c but for MulAdd.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define JAXFP4_HD __host__ __device__ __forceinline__
#else
#define JAXFP4_HD inline __attribute__((always_inline))
#endif

namespace jaxfp4 {

struct ScalarLanes {
  using F = float;
  using U = uint32_t;
  using M = bool;

  static JAXFP4_HD U Bits(F x) {
#if defined(__CUDA_ARCH__)
    return __float_as_uint(x);
#else
    U bits;
    memcpy(&bits, &x, sizeof(bits));
    return bits;
#endif
  }
  static JAXFP4_HD F Float(U bits) {
#if defined(__CUDA_ARCH__)
    return __uint_as_float(bits);
#else
    F x;
    memcpy(&x, &bits, sizeof(x));
    return x;
#endif
  }
  // Integers below 2^24 and back, toward zero.
  static JAXFP4_HD F FromInt(U i) { return static_cast<F>(static_cast<int32_t>(i)); }
  static JAXFP4_HD U ToInt(F x) { return static_cast<U>(static_cast<int32_t>(x)); }

  static JAXFP4_HD U Min(U a, U b) { return a < b ? a : b; }
  static JAXFP4_HD U Max(U a, U b) { return a > b ? a : b; }
  static JAXFP4_HD M Less(U a, U b) { return a < b; }
  static JAXFP4_HD M Less(F a, F b) { return a < b; }  // false with a NaN
  static JAXFP4_HD M Equal(U a, U b) { return a == b; }
  static JAXFP4_HD M Equal(F a, F b) { return a == b; }
  static JAXFP4_HD U Select(M m, U a, U b) { return m ? a : b; }
  static JAXFP4_HD F Select(M m, F a, F b) { return m ? a : b; }
  static JAXFP4_HD U SelectBits(U mask, U a, U b) { return (a & mask) | (b & ~mask); }

  // a * b + c where a * b is exact, so that one rounding and two are the same.
  static JAXFP4_HD F MulAdd(F a, F b, F c) { return a * b + c; }
};

constexpr uint32_t kSignBit = 0x80000000u;
constexpr uint32_t kInfinity = 0x7f800000u;
constexpr uint32_t kQuietNaN = 0x7fc00000u;
constexpr uint32_t kLargest = 0x7f7fffffu;  // the largest finite float
constexpr uint32_t kMantissa = 0x007fffffu;

// 2^e as the bits of a float, -126 <= e <= 127.
constexpr uint32_t PowerBits(int e) { return static_cast<uint32_t>(e + 127) << 23; }

}  // namespace jaxfp4
