# jaxfp4_options: what every C++ source of the project is compiled with.
# Results are compared bit for bit across targets, so the compiler may neither fuse nor reorder
# floating-point operations.
add_library(jaxfp4_options INTERFACE)
target_include_directories(jaxfp4_options INTERFACE ${PROJECT_SOURCE_DIR})
target_compile_options(jaxfp4_options INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-ffp-contract=off -fno-fast-math -fno-math-errno -fno-trapping-math
    -fvisibility=hidden -fvisibility-inlines-hidden -Wall -Wextra -Wno-psabi -Wno-ignored-attributes
    # gcc 12 warns about its own AVX-512 header
    $<$<CXX_COMPILER_ID:GNU>:-Wno-uninitialized -Wno-maybe-uninitialized>>)
if(JAXFP4_SANITIZE)
  target_compile_options(jaxfp4_options INTERFACE
    -fsanitize=${JAXFP4_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer -g1
    # All those checks make many small loops; gcc would give registers to each as a region of its own.
    $<$<CXX_COMPILER_ID:GNU>:-fira-region=one>)
  target_link_options(jaxfp4_options INTERFACE -fsanitize=${JAXFP4_SANITIZE})
endif()
