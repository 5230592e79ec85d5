// Reading buffers and attributes of an FFI call, and saying what is wrong with them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cc/problem.h"
#include "xla/ffi/api/ffi.h"

// Returns the error of an expression, if it is one.
#define JAXFP4_RETURN_IF_ERROR(expression)                         \
  do {                                                             \
    ::xla::ffi::Error error_ = (expression);                       \
    if (error_.failure()) return error_;                           \
  } while (false)

namespace jaxfp4 {

namespace ffi = ::xla::ffi;

using Dims = std::vector<int64_t>;

Dims DimsOf(const ffi::AnyBuffer& buffer);
int64_t Product(const Dims& dims);

// dims[begin:end]
Dims Slice(const Dims& dims, size_t begin, size_t end);

// "[2, 32]"
std::string Text(const Dims& dims);
// "float32"
std::string Text(ffi::DataType dtype);

// The operation and operand that an error is about, e.g. Subject{"jaxfp4_hadamard", "signs"}.
struct Subject {
  const char* op;
  const char* operand;
};

// "<op>: <operand> <problem>"
ffi::Error Invalid(const Subject& subject, const std::string& problem);

ffi::Error ExpectDtype(const Subject& subject, const ffi::AnyBuffer& buffer, ffi::DataType dtype);
// `why` says where the expected shape comes from: "K / 16 scales for x [4, 32]".
ffi::Error ExpectShape(const Subject& subject, const ffi::AnyBuffer& buffer, const Dims& expected,
                       const std::string& why);
ffi::Error ExpectAttribute(const Subject& subject, int64_t value, int64_t least, int64_t most);

// Memory that a kernel may use while it runs: the last result of a call, where it has one.
using ScratchResult = std::optional<ffi::Result<ffi::AnyBuffer>>;
struct Scratch {
  void* data;
  int64_t bytes;
};
ffi::Error ReadScratch(const Subject& subject, ScratchResult result, Scratch* scratch);

// float32, bfloat16 or float16.
ffi::Error ReadFloatDtype(const Subject& subject, const ffi::AnyBuffer& buffer, Dtype* dtype);

// The shape of `buffer` must be the leading dimensions of `dims`, at most `most` of them, then
// `tail`.
ffi::Error ExpectLeading(const Subject& subject, const ffi::AnyBuffer& buffer, const Dims& dims,
                         size_t most, const Dims& tail);

int64_t BitsOf(Element element);
ffi::DataType DataTypeOf(ScaleType type);
inline int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace jaxfp4
