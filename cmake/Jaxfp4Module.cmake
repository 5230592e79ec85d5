# The Python extension modules jaxfp4.native._cpu and, where nvcc is found, jaxfp4.native._cuda.
if(CMAKE_VERSION VERSION_LESS 3.26)
  set(JAXFP4_PYTHON_DEV Development.Module)
else()
  set(JAXFP4_PYTHON_DEV Development.Module OPTIONAL_COMPONENTS Development.SABIModule)
endif()
find_package(Python 3.11 REQUIRED COMPONENTS Interpreter ${JAXFP4_PYTHON_DEV})

function(jaxfp4_python_query variable code)
  execute_process(COMMAND ${Python_EXECUTABLE} -c "${code}" OUTPUT_VARIABLE answer
    OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE status)
  if(NOT status EQUAL 0)
    message(FATAL_ERROR
      "${Python_EXECUTABLE} -c '${code}' failed: nanobind and jaxlib must be installed")
  endif()
  set(${variable} ${answer} PARENT_SCOPE)
endfunction()

jaxfp4_python_query(nanobind_ROOT "import nanobind; print(nanobind.cmake_dir())")
find_package(nanobind CONFIG REQUIRED)

# XLA's FFI headers. A handler compiled against newer headers than the runtime's makes the whole CPU
# backend fail to start, and an older one keeps working: build against the oldest supported jaxlib.
if(NOT JAXFP4_XLA_INCLUDE)
  jaxfp4_python_query(jaxlib_dir
    "from importlib.util import find_spec as f; print(f('jaxlib').submodule_search_locations[0])")
  set(JAXFP4_XLA_INCLUDE ${jaxlib_dir}/include CACHE PATH "directory of xla/ffi/api/ffi.h")
endif()
file(STRINGS ${JAXFP4_XLA_INCLUDE}/xla/ffi/api/c_api.h minor REGEX "define XLA_FFI_API_MINOR")
string(REGEX REPLACE "[^0-9]" "" minor "${minor}")
if(minor GREATER 3)
  message(WARNING "XLA FFI headers are API 0.${minor}: the modules will not load under an older "
    "jaxlib. Build against jaxlib 0.10.2 (API 0.3) to serve every supported version.")
endif()

add_library(jaxfp4_xla INTERFACE)
target_include_directories(jaxfp4_xla SYSTEM INTERFACE ${JAXFP4_XLA_INCLUDE})

function(jaxfp4_place_module name)
  if(JAXFP4_INPLACE)
    set_target_properties(${name} PROPERTIES
      LIBRARY_OUTPUT_DIRECTORY ${PROJECT_SOURCE_DIR}/jaxfp4/native)
  endif()
  install(TARGETS ${name} LIBRARY DESTINATION jaxfp4/native)
endfunction()

if(JAXFP4_CPU)
  file(GLOB JAXFP4_FFI_SOURCES CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/cc/ffi/*.cc)
  list(FILTER JAXFP4_FFI_SOURCES EXCLUDE REGEX "/cuda_[^/]*$")
  nanobind_add_module(_cpu STABLE_ABI NB_STATIC cc/module/cpu_module.cc ${JAXFP4_FFI_SOURCES})
  target_link_libraries(_cpu PRIVATE jaxfp4_cpu jaxfp4_xla)
  jaxfp4_place_module(_cpu)
endif()

if(NOT JAXFP4_CUDA STREQUAL "OFF")
  add_subdirectory(cc/cuda)
endif()
