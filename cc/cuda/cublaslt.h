// The part of cuBLASLt that is used here. The library is found while the program runs, so nothing
// of it is needed to build: types, signatures and values of enumerations are those of its
// documented interface, the same in all its versions 12 and 13.
#pragma once

#include <cstddef>
#include <cstdint>

struct CUstream_st;

namespace jaxfp4::cuda::cublaslt {

using Handle = struct Context*;
using MatmulDesc = struct MatmulDescOpaque*;
using MatrixLayout = struct MatrixLayoutOpaque*;
using Preference = struct PreferenceOpaque*;
using Result = int;
constexpr Result kSuccess = 0;

enum DataType : int {
  kFloat32 = 0,
  kFloat16 = 2,
  kBFloat16 = 14,
  kE4M3 = 28,
  kE5M2 = 29,
  kE2M1 = 33,
};

// What a factor of a matrix serves: all of it, a block of 16 or 32 elements, a row, 128 elements
// of a row, 128 of each of 128 rows.
enum ScaleMode : int32_t {
  kScalar = 0,
  kVector16 = 1,
  kVector32 = 2,
  kOuterVector = 3,
  kVector128 = 4,
  kBlock128 = 5,
};

enum MatmulAttribute : int {
  kPointerMode = 2,
  kTransposeA = 3,
  kScalesOfA = 17,
  kScalesOfB = 18,
  kScaleModeOfA = 31,
  kScaleModeOfB = 32,
};
enum PreferenceAttribute : int {
  kMostWorkspaceBytes = 1,
  kAlignmentOfA = 5,
  kAlignmentOfB = 6,
  kAlignmentOfC = 7,
  kAlignmentOfD = 8,
};
constexpr int kCompute32F = 68;
constexpr int32_t kTransposed = 1;      // an operation on a matrix
constexpr int32_t kDevicePointers = 1;  // where alpha and beta are

struct Algorithm {
  uint64_t data[8];
};
struct Candidate {
  Algorithm algorithm;
  size_t workspace_bytes;
  Result state;
  float waves;
  int reserved[4];
};

struct Library {
  Result (*create)(Handle*);
  Result (*create_matmul)(MatmulDesc*, int compute, DataType of_alpha);
  Result (*destroy_matmul)(MatmulDesc);
  Result (*set_matmul)(MatmulDesc, MatmulAttribute, const void*, size_t);
  Result (*create_layout)(MatrixLayout*, DataType, uint64_t rows, uint64_t cols, int64_t stride);
  Result (*destroy_layout)(MatrixLayout);
  Result (*create_preference)(Preference*);
  Result (*destroy_preference)(Preference);
  Result (*set_preference)(Preference, PreferenceAttribute, const void*, size_t);
  Result (*get_heuristic)(Handle, MatmulDesc, MatrixLayout a, MatrixLayout b, MatrixLayout c,
                          MatrixLayout d, Preference, int wanted, Candidate*, int* found);
  Result (*matmul)(Handle, MatmulDesc, const void* alpha, const void* a, MatrixLayout,
                   const void* b, MatrixLayout, const void* beta, const void* c, MatrixLayout,
                   void* d, MatrixLayout, const Algorithm*, void* workspace, size_t, CUstream_st*);
};

// Null if there is none here. The same every time.
const Library* FindLibrary();

}  // namespace jaxfp4::cuda::cublaslt
