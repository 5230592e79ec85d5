// jaxfp4.native._cpu: the FFI handlers as capsules, and which CPU target runs them.
#include <nanobind/nanobind.h>

#include "cc/cpu/targets.h"
#include "cc/ffi/cpu_handlers.h"

namespace nb = nanobind;

namespace jaxfp4 {
namespace {

nb::dict Registrations() {
  nb::dict targets;
  for (const Registration& r : CpuRegistrations()) {
    targets[r.target] = nb::capsule(reinterpret_cast<void*>(r.handler));
  }
  return targets;
}

nb::dict Features() {
  nb::list targets;
  for (const Kernels* kernels : SupportedTargets()) targets.append(kernels->name);
  nb::dict features;
  features["targets"] = targets;
  features["active"] = ActiveKernels().name;
  return features;
}

void Force(const char* name) {
  if (!ForceTarget(name)) {
    throw nb::value_error(
        "force_target: this CPU or this build has no such target; see features()");
  }
}

}  // namespace
}  // namespace jaxfp4

NB_MODULE(_cpu, m) {
  m.def("registrations", &jaxfp4::Registrations,
        "FFI target name -> capsule, for jax.ffi.register_ffi_target.");
  m.def("features", &jaxfp4::Features, "The supported CPU targets, best last, and the active one.");
  m.def("force_target", &jaxfp4::Force, nb::arg("name"),
        "Make one of features()['targets'] active; '' goes back to the best.");
  m.def("ffi_api_version", [] { return nb::make_tuple(XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR); },
        "The (major, minor) version of XLA's FFI headers that the handlers were compiled against.");
}
