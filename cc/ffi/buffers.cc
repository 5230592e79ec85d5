#include "cc/ffi/buffers.h"

#include <algorithm>

#include "cc/codec/element.h"

namespace jaxfp4 {

Dims DimsOf(const ffi::AnyBuffer& buffer) {
  return Dims(buffer.dimensions().begin(), buffer.dimensions().end());
}

int64_t Product(const Dims& dims) {
  int64_t product = 1;
  for (const int64_t dim : dims) product *= dim;
  return product;
}

Dims Slice(const Dims& dims, size_t begin, size_t end) {
  return Dims(dims.begin() + static_cast<std::ptrdiff_t>(begin),
              dims.begin() + static_cast<std::ptrdiff_t>(end));
}

std::string Text(const Dims& dims) {
  std::string text = "[";
  for (size_t i = 0; i < dims.size(); ++i) text += (i ? ", " : "") + std::to_string(dims[i]);
  return text + "]";
}

std::string Text(ffi::DataType dtype) {
  switch (dtype) {
    case ffi::DataType::F32: return "float32";
    case ffi::DataType::BF16: return "bfloat16";
    case ffi::DataType::F16: return "float16";
    case ffi::DataType::F64: return "float64";
    case ffi::DataType::U8: return "uint8";
    case ffi::DataType::U32: return "uint32";
    case ffi::DataType::S32: return "int32";
    case ffi::DataType::F8E4M3FN: return "float8_e4m3fn";
    case ffi::DataType::F8E5M2: return "float8_e5m2";
    case ffi::DataType::F8E8M0FNU: return "float8_e8m0fnu";
    case ffi::DataType::F4E2M1FN: return "float4_e2m1fn";
    default: return "XLA data type " + std::to_string(static_cast<int>(dtype));
  }
}

ffi::Error Invalid(const Subject& subject, const std::string& problem) {
  return ffi::Error::InvalidArgument(std::string(subject.op) + ": " + subject.operand + " " +
                                     problem);
}

ffi::Error ExpectDtype(const Subject& subject, const ffi::AnyBuffer& buffer, ffi::DataType dtype) {
  if (buffer.element_type() == dtype) return ffi::Error::Success();
  return Invalid(subject,
                 "has dtype " + Text(buffer.element_type()) + ", expected " + Text(dtype));
}

ffi::Error ExpectShape(const Subject& subject, const ffi::AnyBuffer& buffer, const Dims& expected,
                       const std::string& why) {
  const Dims dims = DimsOf(buffer);
  if (dims == expected) return ffi::Error::Success();
  return Invalid(subject,
                 "has shape " + Text(dims) + ", expected " + Text(expected) + " (" + why + ")");
}

ffi::Error ExpectAttribute(const Subject& subject, int64_t value, int64_t least, int64_t most) {
  if (least <= value && value <= most) return ffi::Error::Success();
  return Invalid(subject, "is " + std::to_string(value) + ", expected " + std::to_string(least) +
                              " to " + std::to_string(most));
}

ffi::Error ReadScratch(const Subject& subject, ScratchResult result, Scratch* scratch) {
  *scratch = {};
  if (!result.has_value()) return ffi::Error::Success();
  JAXFP4_RETURN_IF_ERROR(ExpectDtype(subject, **result, ffi::DataType::U8));
  *scratch = {(*result)->untyped_data(), static_cast<int64_t>((*result)->element_count())};
  return ffi::Error::Success();
}

ffi::Error ReadFloatDtype(const Subject& subject, const ffi::AnyBuffer& buffer, Dtype* dtype) {
  switch (buffer.element_type()) {
    case ffi::DataType::F32: *dtype = Dtype::kF32; break;
    case ffi::DataType::BF16: *dtype = Dtype::kBF16; break;
    case ffi::DataType::F16: *dtype = Dtype::kF16; break;
    default:
      return Invalid(subject, "has dtype " + Text(buffer.element_type()) +
                                  ", expected float32, bfloat16 or float16");
  }
  return ffi::Error::Success();
}

ffi::Error ExpectLeading(const Subject& subject, const ffi::AnyBuffer& buffer, const Dims& dims,
                         size_t most, const Dims& tail) {
  const Dims got = DimsOf(buffer);
  if (got.size() >= tail.size() && got.size() - tail.size() <= most) {
    Dims expected = Slice(dims, 0, got.size() - tail.size());
    expected.insert(expected.end(), tail.begin(), tail.end());
    if (got == expected) return ffi::Error::Success();
  }
  Dims longest = Slice(dims, 0, most);
  longest.insert(longest.end(), tail.begin(), tail.end());
  return Invalid(subject, "has shape " + Text(got) + ", expected leading dimensions of " +
                              Text(Slice(dims, 0, most)) +
                              (tail.empty() ? std::string() : ", then " + Text(tail)) + ": " +
                              Text(longest) + " or fewer");
}

int64_t BitsOf(Element element) {
  switch (element) {
    case Element::kE2M1: return E2M1::kBits;
    case Element::kE2M3: return E2M3::kBits;
    case Element::kE3M2: return E3M2::kBits;
    case Element::kE4M3: return E4M3::kBits;
    case Element::kE5M2: return E5M2::kBits;
  }
  return 8;
}

ffi::DataType DataTypeOf(ScaleType type) {
  switch (type) {
    case ScaleType::kFloat32: return ffi::DataType::F32;
    case ScaleType::kE4M3: return ffi::DataType::F8E4M3FN;
    case ScaleType::kE8M0: return ffi::DataType::F8E8M0FNU;
  }
  return ffi::DataType::INVALID;
}

}  // namespace jaxfp4
