// The FFI targets of the CUDA platform.
#pragma once

#include "cc/ffi/registration.h"

namespace jaxfp4 {

const std::vector<Registration>& CudaRegistrations();

}  // namespace jaxfp4
