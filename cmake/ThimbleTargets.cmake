# One place for the flags of our own targets.
add_library(thimble_flags INTERFACE)
target_compile_features(thimble_flags INTERFACE cxx_std_20)
target_compile_options(thimble_flags INTERFACE
  "$<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wconversion;-Wno-missing-field-initializers;-Werror;-fno-math-errno;$<$<CXX_COMPILER_ID:GNU>:-Wno-restrict;-Wno-stringop-overread>>")
target_include_directories(thimble_flags INTERFACE "${PROJECT_SOURCE_DIR}")
target_link_libraries(thimble_flags INTERFACE fmt::fmt Threads::Threads)
# AVX2 is the floor; kernels are compiled a second time for AVX-512 and chosen at run time.
target_compile_options(thimble_flags INTERFACE "$<$<COMPILE_LANGUAGE:CXX>:-march=x86-64-v3>")
target_compile_options(thimble_flags INTERFACE "$<$<COMPILE_LANGUAGE:CXX>:-fopenmp-simd>")
if(CMAKE_UNITY_BUILD AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # To the compiler every source file is a header there, whose types must not depend on private ones.
  target_compile_options(thimble_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wno-subobject-linkage>)
endif()
if(THIMBLE_SANITIZE)
  target_compile_options(thimble_flags INTERFACE -fsanitize=${THIMBLE_SANITIZE} -fno-omit-frame-pointer
                                                 -fno-sanitize-recover=all
                                                 $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
  target_link_options(thimble_flags INTERFACE -fsanitize=${THIMBLE_SANITIZE})
endif()

# thimble_library(name SOURCES... [LINK libs...]): a static library thimble_<name> under our flags.
function(thimble_library name)
  cmake_parse_arguments(arg "" "" "SOURCES;LINK;PRIVATE_LINK" ${ARGN})
  add_library(thimble_${name} STATIC ${arg_SOURCES})
  target_link_libraries(thimble_${name} PUBLIC thimble_flags ${arg_LINK} PRIVATE ${arg_PRIVATE_LINK})
endfunction()

# thimble_isa_sources(target files... [EXACT]): compiles each file twice, as namespace thimble::avx2 and
# thimble::avx512 (macro THIMBLE_ISA), so that one binary runs on both and the choice is made at run time. EXACT: without
# fused operations that are not written as such, so that all give the same bits.
function(thimble_isa_sources target)
  cmake_parse_arguments(arg "EXACT" "" "" ${ARGN})
  foreach(isa avx2 avx512)
    set(object thimble_${target}_${isa})
    add_library(${object} OBJECT ${arg_UNPARSED_ARGUMENTS})
    if(arg_EXACT)
      target_compile_options(${object} PRIVATE -ffp-contract=off)
    endif()
    target_link_libraries(${object} PRIVATE thimble_flags)
    target_compile_definitions(${object} PRIVATE THIMBLE_ISA=${isa})
    # Threading jumps, GCC computes the constants of both ends of a clamp for every lane: denormal numbers, at a
    # hundred cycles each.
    target_compile_options(${object} PRIVATE -O3 -fno-trapping-math $<$<CXX_COMPILER_ID:GNU>:-fno-thread-jumps>)
    if(isa STREQUAL "avx512")
      # Not -march, which would compete with the one of thimble_flags.
      target_compile_options(${object} PRIVATE -mavx512f -mavx512bw -mavx512cd -mavx512dq -mavx512vl
                                               -mprefer-vector-width=512)
    endif()
    target_sources(thimble_${target} PRIVATE $<TARGET_OBJECTS:${object}>)
  endforeach()
endfunction()

# thimble_test(name SOURCES... LINK... [LABELS label] [FILTER cases]): one GoogleTest binary, every case its own ctest entry.
function(thimble_test name)
  cmake_parse_arguments(arg "" "FILTER" "SOURCES;LINK;LABELS" ${ARGN})
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE thimble_flags ${arg_LINK} GTest::gtest GTest::gtest_main)
  # A test compiles in three quarters of the time; what it tests is optimised all the same.
  target_compile_options(${name} PRIVATE $<$<CONFIG:Release>:-O1>)
  thimble_test_cases(${name} LABELS ${arg_LABELS} FILTER "${arg_FILTER}")
endfunction()

# thimble_test_cases(name [LABELS label] [PREFIX prefix ENVIRONMENT variable=value] [FILTER cases]): ctest entries for the
# cases of a test binary, once more under other names in another environment.
function(thimble_test_cases name)
  cmake_parse_arguments(arg "" "PREFIX;ENVIRONMENT;FILTER" "LABELS" ${ARGN})
  if(NOT arg_LABELS)
    set(arg_LABELS fast)
  endif()
  set(environment "")
  if(arg_ENVIRONMENT)
    set(environment ENVIRONMENT "${arg_ENVIRONMENT}")
  endif()
  include(GoogleTest)
  gtest_discover_tests(${name} TEST_PREFIX "${arg_PREFIX}" TEST_FILTER "${arg_FILTER}" DISCOVERY_MODE PRE_TEST DISCOVERY_TIMEOUT 60
                       WORKING_DIRECTORY "${PROJECT_SOURCE_DIR}"
                       PROPERTIES LABELS "${arg_LABELS}" TIMEOUT 600 ${environment})
endfunction()

# thimble_cuda_library(name SOURCES... [LINK libs...]): a static library thimble_<name> compiled by nvcc for every architecture of
# CMAKE_CUDA_ARCHITECTURES, in the namespace thimble::cuda; nothing without THIMBLE_CUDA. Products and sums are fused only
# where the text says so, as on the CPU.
function(thimble_cuda_library name)
  if(NOT THIMBLE_CUDA)
    return()
  endif()
  cmake_parse_arguments(arg "" "" "SOURCES;LINK" ${ARGN})
  add_library(thimble_${name} STATIC ${arg_SOURCES})
  # Compiling them needs nothing that the libraries they use are linked from.
  set_target_properties(thimble_${name} PROPERTIES OPTIMIZE_DEPENDENCIES ON)
  # fmt 9 takes nvcc for a compiler without constexpr.
  target_compile_definitions(thimble_${name} PRIVATE THIMBLE_ISA=cuda FMT_USE_CONSTEXPR=1)
  target_compile_options(thimble_${name} PRIVATE
    "$<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr;--fmad=false;-Werror=all-warnings;-Xcompiler=-Wall,-Wextra>"
    "$<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wconversion;-Werror>")
  target_include_directories(thimble_${name} PUBLIC "${PROJECT_SOURCE_DIR}")
  target_link_libraries(thimble_${name} PUBLIC fmt::fmt CUDA::cudart CUDA::cublasLt ${arg_LINK})
  add_dependencies(thimble_cuda thimble_${name})
endfunction()
