# The CPU library: every cc/cpu/*_kernel.cc is compiled once per target, in that target's namespace;
# the rest of cc/cpu once, for the baseline.
set(JAXFP4_AVX2_FLAGS -mavx2 -mfma -mf16c -mbmi -mbmi2)
set(JAXFP4_AVX512_FLAGS ${JAXFP4_AVX2_FLAGS} -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512cd)
set(JAXFP4_AVX512_BF16_FLAGS ${JAXFP4_AVX512_FLAGS} -mavx512vnni -mavx512bf16 -mavx512vbmi)
# Before registers are allocated, scheduling costs spills: kernels keep all of them busy.
set(JAXFP4_NEON_FLAGS -DJAXFP4_NEON -fno-schedule-insns)
set(JAXFP4_NEON_DOTPROD_FLAGS ${JAXFP4_NEON_FLAGS} -march=armv8.2-a+dotprod)
set(JAXFP4_NEON_I8MM_FLAGS ${JAXFP4_NEON_FLAGS} -march=armv8.2-a+dotprod+i8mm+bf16)

file(GLOB JAXFP4_CPU_SOURCES CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/cc/cpu/*.cc)
set(JAXFP4_KERNEL_SOURCES ${JAXFP4_CPU_SOURCES})
list(FILTER JAXFP4_KERNEL_SOURCES INCLUDE REGEX "_kernel\\.cc$")
list(FILTER JAXFP4_CPU_SOURCES EXCLUDE REGEX "_kernel\\.cc$")

add_library(jaxfp4_cpu STATIC ${JAXFP4_CPU_SOURCES})
target_link_libraries(jaxfp4_cpu PUBLIC jaxfp4_options)

function(jaxfp4_add_target name)  # jaxfp4_add_target(avx2 -mavx2 ...)
  add_library(jaxfp4_${name} OBJECT ${JAXFP4_KERNEL_SOURCES})
  target_link_libraries(jaxfp4_${name} PRIVATE jaxfp4_options)
  target_compile_definitions(jaxfp4_${name} PRIVATE JAXFP4_TARGET=${name})
  target_compile_options(jaxfp4_${name} PRIVATE ${ARGN})
  target_sources(jaxfp4_cpu PRIVATE $<TARGET_OBJECTS:jaxfp4_${name}>)
  string(TOUPPER ${name} upper)
  target_compile_definitions(jaxfp4_cpu PRIVATE JAXFP4_HAVE_${upper})
endfunction()

jaxfp4_add_target(scalar)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  jaxfp4_add_target(avx2 ${JAXFP4_AVX2_FLAGS})
  jaxfp4_add_target(avx512 ${JAXFP4_AVX512_FLAGS})
  jaxfp4_add_target(avx512_bf16 ${JAXFP4_AVX512_BF16_FLAGS})
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64)$")
  jaxfp4_add_target(neon ${JAXFP4_NEON_FLAGS})
  jaxfp4_add_target(neon_dotprod ${JAXFP4_NEON_DOTPROD_FLAGS})
  jaxfp4_add_target(neon_i8mm ${JAXFP4_NEON_I8MM_FLAGS})
endif()
