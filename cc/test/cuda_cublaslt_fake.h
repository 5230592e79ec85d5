// A cuBLASLt for the host: it takes descriptors as the library does, refuses what its documentation
// says that it does not support, and computes products from them in float64. The layouts of scales
// are written after the documentation ("Narrow Precision Data Types Usage"), from an element of a
// matrix to the place of its scale: the other way round than the kernel that puts scales there.
#pragma once

#include <array>
#include <cmath>
#include <cstring>
#include <map>
#include <set>
#include <vector>

#include "cc/cuda/cublaslt.h"
#include "cc/test/check.h"
#include "cc/test/oracle.h"

namespace jaxfp4::cuda::cublaslt {

struct Context {
  int number;
};
struct MatmulDescOpaque {
  std::map<int, std::vector<unsigned char>> attributes;
};
struct MatrixLayoutOpaque {
  DataType type;
  int64_t rows, cols, stride;
};
struct PreferenceOpaque {
  std::map<int, uint64_t> attributes;
};

}  // namespace jaxfp4::cuda::cublaslt

namespace jaxfp4::fake {

namespace lt = cuda::cublaslt;

constexpr lt::Result kInvalidValue = 7, kNotSupported = 15;
constexpr size_t kWorkspace = 1000;  // what the algorithms want

// What a test may set, and look at.
inline bool present = true;           // or there is no library
inline bool knows_scale_modes = true;  // versions before 12.8 do not
inline bool has_algorithms = true;
inline bool refuses = false;  // products that it has algorithms for
inline int handles = 0, heuristics = 0, products = 0, descriptors = 0, layouts = 0;

template <class T>
T Get(const lt::MatmulDescOpaque& desc, int attribute, T otherwise) {
  const auto found = desc.attributes.find(attribute);
  if (found == desc.attributes.end()) return otherwise;
  T value;
  Check(found->second.size() == sizeof(T), "attribute %d has %zu bytes", attribute,
        found->second.size());
  std::memcpy(&value, found->second.data(), sizeof(T));
  return value;
}

inline bool IsMultiple(const void* p, uintptr_t of) {
  return reinterpret_cast<uintptr_t>(p) % of == 0;
}
inline int64_t Up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

inline int Bits(lt::DataType type) {
  switch (type) {
    case lt::kE2M1: return 4;
    case lt::kE4M3:
    case lt::kE5M2: return 8;
    case lt::kFloat32: return 32;
    default: return 16;
  }
}

// ---- scales

struct Scales {
  lt::ScaleMode mode;
  const unsigned char* data;
  int64_t outer, depth;  // of the matrix

  float Float(int64_t i) const {
    float f;
    std::memcpy(&f, data + 4 * i, 4);
    return f;
  }
  int64_t Inner() const { return depth / (mode == lt::kVector16 ? 16 : 32); }
  // Of a byte in tiles.
  int64_t Offset(int64_t o, int64_t inner) const {
    const int64_t tile = (inner / 4 * 4 + o / 128 * 128 * Up(Inner(), 4) / 128) * 128;
    return tile + o % 32 * 16 + o % 128 / 32 * 4 + inner % 4;
  }
  double Of(int64_t o, int64_t k) const {
    switch (mode) {
      case lt::kScalar: return static_cast<double>(Float(0));
      case lt::kOuterVector: return static_cast<double>(Float(o));
      case lt::kVector128: return static_cast<double>(Float(k / 128 * outer + o));
      case lt::kBlock128: return static_cast<double>(Float(o / 128 * Up(depth / 128, 4) + k / 128));
      case lt::kVector16:
        return static_cast<double>(oracle::Value(oracle::TypeOf(Element::kE4M3),
                                                 data[Offset(o, k / 16)] & 0x7f));
      case lt::kVector32: return std::ldexp(1.0, data[Offset(o, k / 32)] - 127);
    }
    return std::nan("");
  }
  // Tiles beyond the matrix must be zeros.
  void CheckPadding() const {
    if (mode != lt::kVector16 && mode != lt::kVector32) return;
    for (int64_t o = 0; o < Up(outer, 128); ++o) {
      for (int64_t i = 0; i < Up(Inner(), 4); ++i) {
        if (o < outer && i < Inner()) continue;
        Check(data[Offset(o, i)] == 0, "scale (%ld, %ld) beyond the matrix is %d",
              static_cast<long>(o), static_cast<long>(i), data[Offset(o, i)]);
      }
    }
  }
};

// ---- the functions of the library

inline lt::Result Create(lt::Handle* handle) {
  *handle = new lt::Context{handles++};
  return lt::kSuccess;
}

inline lt::Result CreateMatmul(lt::MatmulDesc* desc, int compute, lt::DataType of_alpha) {
  Check(compute == 68 && of_alpha == lt::kFloat32, "computes in type %d, %d", compute, of_alpha);
  *desc = new lt::MatmulDescOpaque();
  ++descriptors;
  return lt::kSuccess;
}
inline lt::Result DestroyMatmul(lt::MatmulDesc desc) {
  delete desc;
  --descriptors;
  return lt::kSuccess;
}
inline lt::Result SetMatmul(lt::MatmulDesc desc, lt::MatmulAttribute attribute, const void* value,
                            size_t bytes) {
  const bool modes = attribute == lt::kScaleModeOfA || attribute == lt::kScaleModeOfB;
  if (modes && !knows_scale_modes) return kInvalidValue;
  const auto* data = static_cast<const unsigned char*>(value);
  desc->attributes[attribute].assign(data, data + bytes);
  return lt::kSuccess;
}

inline lt::Result CreateLayout(lt::MatrixLayout* layout, lt::DataType type, uint64_t rows,
                               uint64_t cols, int64_t stride) {
  *layout = new lt::MatrixLayoutOpaque{type, static_cast<int64_t>(rows),
                                       static_cast<int64_t>(cols), stride};
  ++layouts;
  return lt::kSuccess;
}
inline lt::Result DestroyLayout(lt::MatrixLayout layout) {
  delete layout;
  --layouts;
  return lt::kSuccess;
}

inline lt::Result CreatePreference(lt::Preference* preference) {
  *preference = new lt::PreferenceOpaque();
  return lt::kSuccess;
}
inline lt::Result DestroyPreference(lt::Preference preference) {
  delete preference;
  return lt::kSuccess;
}
inline lt::Result SetPreference(lt::Preference preference, lt::PreferenceAttribute attribute,
                                const void* value, size_t bytes) {
  uint64_t number = 0;
  std::memcpy(&number, value, bytes);
  preference->attributes[attribute] = number;
  return bytes == (attribute == lt::kMostWorkspaceBytes ? 8 : 4) ? lt::kSuccess : kInvalidValue;
}

// The documented requirements: TN, 16 bytes, pairs of types and of scale modes.
inline bool IsSupported(const lt::MatmulDescOpaque& desc, const lt::MatrixLayoutOpaque& a,
                        const lt::MatrixLayoutOpaque& b, const lt::MatrixLayoutOpaque& d) {
  const auto mode_a = Get(desc, lt::kScaleModeOfA, lt::kScalar);
  const auto mode_b = Get(desc, lt::kScaleModeOfB, lt::kScalar);
  const bool fp4 = a.type == lt::kE2M1 && b.type == lt::kE2M1;
  const bool fp8 = Bits(a.type) == 8 && Bits(b.type) == 8 &&
                   (a.type == lt::kE4M3 || b.type == lt::kE4M3);
  const auto blocks = [](lt::ScaleMode m) { return m == lt::kVector128 || m == lt::kBlock128; };
  const bool blocks_fit = blocks(mode_b) && a.cols % 4 == 0 && b.cols % 4 == 0 &&
                          !(mode_a == lt::kBlock128 && mode_b == lt::kBlock128);
  const bool fp8_fits =
      mode_a != lt::kVector16 && (blocks(mode_a) ? blocks_fit : mode_a == mode_b);
  const bool modes =
      fp4 ? mode_a == lt::kVector16 && mode_b == lt::kVector16 : fp8 && fp8_fits;
  const bool aligned = a.stride * Bits(a.type) % 128 == 0 && b.stride * Bits(b.type) % 128 == 0 &&
                       d.stride * Bits(d.type) % 128 == 0;
  const bool shapes = a.rows == b.rows && d.rows == a.cols && d.cols == b.cols &&
                      a.stride == a.rows && b.stride == b.rows && d.stride == d.rows;
  return Get(desc, lt::kTransposeA, 0) == 1 && modes && aligned && shapes;
}

inline lt::Result GetHeuristic(lt::Handle, lt::MatmulDesc desc, lt::MatrixLayout a,
                               lt::MatrixLayout b, lt::MatrixLayout c, lt::MatrixLayout d,
                               lt::Preference preference, int wanted, lt::Candidate* candidates,
                               int* found) {
  ++heuristics;
  *found = 0;
  Check(wanted == 1 && c == d, "a heuristic for %d algorithms", wanted);
  Check(Get<const void*>(*desc, lt::kScalesOfA, nullptr) != nullptr, "no scales of A");
  for (const int matrix : {5, 6, 7, 8}) {
    Check(preference->attributes[matrix] == 16, "alignment %d is not 16", matrix);
  }
  Check(IsSupported(*desc, *a, *b, *d), "asked for what is documented not to be supported");
  if (!has_algorithms || preference->attributes[lt::kMostWorkspaceBytes] < kWorkspace) {
    return kNotSupported;
  }
  *found = 1;
  candidates[0] = {};
  candidates[0].algorithm.data[3] = 42;
  candidates[0].workspace_bytes = kWorkspace;
  return lt::kSuccess;
}

inline double ValueOf(lt::DataType type, const unsigned char* data, int64_t i) {
  const Element element = type == lt::kE2M1   ? Element::kE2M1
                          : type == lt::kE4M3 ? Element::kE4M3
                                              : Element::kE5M2;
  const int code = type == lt::kE2M1 ? data[i / 2] >> i % 2 * 4 & 15 : data[i];
  return static_cast<double>(oracle::Value(oracle::TypeOf(element), code));
}

// The matrix with its scales, element by element.
inline std::vector<double> Scaled(const lt::MatrixLayoutOpaque& layout, const void* data,
                                  lt::ScaleMode mode, const void* scales) {
  Check(IsMultiple(data, 16) && IsMultiple(scales, 16), "operands must be aligned");
  const Scales s = {mode, static_cast<const unsigned char*>(scales), layout.cols, layout.rows};
  s.CheckPadding();
  std::vector<double> values;
  for (int64_t o = 0; o < layout.cols; ++o) {
    for (int64_t k = 0; k < layout.rows; ++k) {
      values.push_back(ValueOf(layout.type, static_cast<const unsigned char*>(data),
                               o * layout.stride + k) *
                       s.Of(o, k));
    }
  }
  return values;
}

inline void Store(lt::DataType type, void* data, int64_t i, double y) {
  const auto f = static_cast<float>(y);
  if (type == lt::kFloat32) {
    std::memcpy(static_cast<unsigned char*>(data) + 4 * i, &f, 4);
    return;
  }
  const auto half =
      oracle::NarrowedBits(type == lt::kBFloat16 ? Dtype::kBF16 : Dtype::kF16, f);
  std::memcpy(static_cast<unsigned char*>(data) + 2 * i, &half, 2);
}

inline lt::Result Matmul(lt::Handle handle, lt::MatmulDesc desc, const void* alpha, const void* a,
                         lt::MatrixLayout a_layout, const void* b, lt::MatrixLayout b_layout,
                         const void* beta, const void* c, lt::MatrixLayout c_layout, void* d,
                         lt::MatrixLayout d_layout, const lt::Algorithm* algorithm,
                         void* workspace, size_t workspace_bytes, CUstream_st*) {
  ++products;
  if (refuses) return kNotSupported;
  Check(handle != nullptr && algorithm->data[3] == 42, "another algorithm than was found");
  Check(c == d && c_layout == d_layout, "C is not D");
  Check(IsMultiple(workspace, 256) && workspace_bytes >= kWorkspace, "workspace");
  Check(Get(*desc, lt::kPointerMode, 0) == 1, "alpha is not on the device");
  std::memset(workspace, 0xcc, workspace_bytes);
  const double factor = static_cast<double>(*static_cast<const float*>(alpha));
  Check(*static_cast<const float*>(beta) == 0, "beta is not 0");
  const auto x = Scaled(*a_layout, a, Get(*desc, lt::kScaleModeOfA, lt::kScalar),
                        Get<const void*>(*desc, lt::kScalesOfA, nullptr));
  const auto y = Scaled(*b_layout, b, Get(*desc, lt::kScaleModeOfB, lt::kScalar),
                        Get<const void*>(*desc, lt::kScalesOfB, nullptr));
  const int64_t depth = a_layout->rows;
  for (int64_t col = 0; col < d_layout->cols; ++col) {
    for (int64_t row = 0; row < d_layout->rows; ++row) {
      double sum = 0;
      for (int64_t k = 0; k < depth; ++k) {
        sum += x[static_cast<size_t>(row * depth + k)] * y[static_cast<size_t>(col * depth + k)];
      }
      Store(d_layout->type, d, col * d_layout->stride + row, sum * factor);
    }
  }
  return lt::kSuccess;
}

}  // namespace jaxfp4::fake

namespace jaxfp4::cuda::cublaslt {

const Library* FindLibrary() {
  static const Library library = {
      fake::Create,        fake::CreateMatmul,     fake::DestroyMatmul,     fake::SetMatmul,
      fake::CreateLayout,  fake::DestroyLayout,    fake::CreatePreference,  fake::DestroyPreference,
      fake::SetPreference, fake::GetHeuristic,     fake::Matmul};
  return fake::present ? &library : nullptr;
}

}  // namespace jaxfp4::cuda::cublaslt
