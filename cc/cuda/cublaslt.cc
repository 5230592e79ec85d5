// Finds cuBLASLt: as XLA has loaded it; else where jax[cuda] puts it, which is on this module's
// search path; else where the system has it.
#include "cc/cuda/cublaslt.h"

#include <dlfcn.h>

#include <initializer_list>

namespace jaxfp4::cuda::cublaslt {
namespace {

void* Open() {
  for (const int loaded : {RTLD_NOLOAD, 0}) {
    for (const char* name : {"libcublasLt.so.13", "libcublasLt.so.12"}) {
      if (void* library = dlopen(name, RTLD_LAZY | RTLD_LOCAL | loaded)) return library;
    }
  }
  return nullptr;
}

template <class Function>
bool Find(void* library, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(library, name));
  return *function != nullptr;
}

const Library* Load() {
  static Library l;
  void* so = Open();
  const bool found = so != nullptr &&  //
                     Find(so, "cublasLtCreate", &l.create) &&
                     Find(so, "cublasLtMatmulDescCreate", &l.create_matmul) &&
                     Find(so, "cublasLtMatmulDescDestroy", &l.destroy_matmul) &&
                     Find(so, "cublasLtMatmulDescSetAttribute", &l.set_matmul) &&
                     Find(so, "cublasLtMatrixLayoutCreate", &l.create_layout) &&
                     Find(so, "cublasLtMatrixLayoutDestroy", &l.destroy_layout) &&
                     Find(so, "cublasLtMatmulPreferenceCreate", &l.create_preference) &&
                     Find(so, "cublasLtMatmulPreferenceDestroy", &l.destroy_preference) &&
                     Find(so, "cublasLtMatmulPreferenceSetAttribute", &l.set_preference) &&
                     Find(so, "cublasLtMatmulAlgoGetHeuristic", &l.get_heuristic) &&
                     Find(so, "cublasLtMatmul", &l.matmul);
  return found ? &l : nullptr;
}

}  // namespace

const Library* FindLibrary() {
  static const Library* const library = Load();
  return library;
}

}  // namespace jaxfp4::cuda::cublaslt
