// jaxfp4.native._cuda: the FFI handlers as capsules, what they were compiled for, and the GPUs
// here.
#include <nanobind/nanobind.h>

#include "cc/cuda/kernels.h"
#include "cc/ffi/cuda_handlers.h"

namespace nb = nanobind;

namespace jaxfp4 {
namespace {

nb::dict Registrations() {
  nb::dict targets;
  for (const Registration& r : CudaRegistrations()) {
    targets[r.target] = nb::capsule(reinterpret_cast<void*>(r.handler));
  }
  return targets;
}

nb::dict Features() {
  const cuda::Devices found = cuda::FindDevices();
  nb::list devices;
  for (const std::string& name : found.names) devices.append(nb::str(name.c_str()));
  nb::dict features;
  features["architectures"] = JAXFP4_CUDA_ARCHITECTURES;
  features["devices"] = devices;
  features["status"] = "run in emulation, not yet on a GPU";
  if (!found.reason.empty()) features["reason"] = nb::str(found.reason.c_str());
  return features;
}

nb::dict Routes() {
  nb::dict routes;
  for (const cuda::RouteCalls& r : cuda::CallsOfRoutes()) routes[r.name] = r.calls;
  return routes;
}

}  // namespace
}  // namespace jaxfp4

NB_MODULE(_cuda, m) {
  m.def("registrations", &jaxfp4::Registrations,
        "FFI target name -> capsule, for jax.ffi.register_ffi_target.");
  m.def("features", &jaxfp4::Features,
        "The architectures compiled for, the GPUs here, and why there are none.");
  m.def("routes", &jaxfp4::Routes,
        "The kernels of scaled_dot and how many calls each has taken so far.");
  m.def(
      "ffi_api_version", [] { return nb::make_tuple(XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR); },
      "The (major, minor) version of XLA's FFI headers that the handlers were compiled against.");
}
