// A handler and the name it is registered under.
#pragma once

#include <vector>

#include "xla/ffi/api/c_api.h"

namespace jaxfp4 {

struct Registration {
  const char* target;
  XLA_FFI_Handler* handler;
};

}  // namespace jaxfp4
