# Helpers for the rooms of the library.

set(DEPLOYKIT_WARNINGS -Wall -Wextra -Wno-psabi)
if(DEPLOYKIT_WERROR)
  list(APPEND DEPLOYKIT_WARNINGS -Werror)
endif()
find_package(Threads REQUIRED)

# deploykit_room(NAME SOURCES...): an object library of one folder. Sources may include "core/...", "cpu/..." and
# "deploykit/..." headers.
function(deploykit_room name)
  add_library(${name} OBJECT ${ARGN})
  deploykit_options(${name})
endfunction()

function(deploykit_options name)
  target_include_directories(${name} PUBLIC ${PROJECT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/include)
  target_compile_options(${name} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:${DEPLOYKIT_WARNINGS}> -fno-math-errno)
  target_link_libraries(${name} PUBLIC Threads::Threads)
  if(DEPLOYKIT_SANITIZE)
    # -O1 compiles in a fraction of the time and keeps the reports' lines true; assertions are on.
    target_compile_options(${name} PUBLIC $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${DEPLOYKIT_SANITIZE};-fno-omit-frame-pointer;-fno-sanitize-recover=all;-O1;-g1;-UNDEBUG>)
    target_link_options(${name} PUBLIC -fsanitize=${DEPLOYKIT_SANITIZE})
  endif()
endfunction()

# deploykit_isa_room(NAME SOURCES...): every source once for each instruction set of this architecture, with the macro
# DEPLOYKIT_ISA (scalar, avx2, avxvnni, avx512, neon) naming the namespace to put it in. Such a source must keep
# everything in that namespace and use no templates or inline functions of the standard library that others use too:
# the linker would be free to take the copy that only newer CPUs run.
function(deploykit_isa_room name)
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    set(isas scalar avx2 avxvnni avx512)
    # -ffp-contract=off: a multiplication and an addition are fused where the source says so, on every path alike.
    set(flags_scalar "")
    set(flags_avx2 -mavx2 -mfma -mf16c)
    set(flags_avxvnni -mavx2 -mfma -mf16c -mavxvnni)
    set(flags_avx512 -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mavx512bf16)
  elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64")
    set(isas scalar neon)
    set(flags_scalar "")
    set(flags_neon -march=armv8.2-a+dotprod+fp16)
  else()
    set(isas scalar)
    set(flags_scalar "")
  endif()
  foreach(isa IN LISTS isas)
    add_library(${name}_${isa} OBJECT ${ARGN})
    deploykit_options(${name}_${isa})
    target_compile_options(${name}_${isa} PRIVATE ${flags_${isa}} -ffp-contract=off)
    target_compile_definitions(${name}_${isa} PRIVATE DEPLOYKIT_ISA=${isa} DEPLOYKIT_ISA_${isa}=1)
    list(APPEND objects $<TARGET_OBJECTS:${name}_${isa}>)
  endforeach()
  set(${name}_objects ${objects} PARENT_SCOPE)
  set(${name}_isas ${isas} PARENT_SCOPE)
endfunction()
