// The FFI target jaxfp4_scaled_dot_v1 of the CPU platform.
#pragma once

#include "xla/ffi/api/ffi.h"

XLA_FFI_DECLARE_HANDLER_SYMBOL(ScaledDotCpu);
