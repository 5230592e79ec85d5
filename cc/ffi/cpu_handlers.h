// The FFI targets of the CPU platform.
#pragma once

#include "cc/ffi/registration.h"

namespace jaxfp4 {

const std::vector<Registration>& CpuRegistrations();

}  // namespace jaxfp4
