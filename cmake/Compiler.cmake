# Warnings are errors; ccache and a fast linker where the machine has them.
add_library(qlora_compiler INTERFACE)
target_compile_options(qlora_compiler INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wpedantic -Werror -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual
    # g++ 12 sees overlaps and overflows in "text" + std::string that are not there (GCC bug 105651).
    $<$<AND:$<CXX_COMPILER_ID:GNU>,$<VERSION_LESS:$<CXX_COMPILER_VERSION>,13>>:-Wno-restrict;-Wno-stringop-overflow>
    # g++ 13 takes every object that returns a reference for its owner, views (JsonNode) too.
    $<$<AND:$<CXX_COMPILER_ID:GNU>,$<VERSION_GREATER_EQUAL:$<CXX_COMPILER_VERSION>,13>>:-Wno-dangling-reference>
    -march=${QLORA_MARCH}
    # A fused multiply-add rounds once where the reference rounds twice: NF4 and losses must be equal to the bit.
    -ffp-contract=off>)
target_include_directories(qlora_compiler INTERFACE
  $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include> $<BUILD_INTERFACE:${PROJECT_BINARY_DIR}/include>)

if(QLORA_SANITIZE)
  target_compile_options(qlora_compiler INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=address,undefined -fno-omit-frame-pointer -fno-sanitize-recover=undefined
      # With its checks g++ no longer sees that an empty optional's value is never read.
      $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>>)
  target_link_options(qlora_compiler INTERFACE -fsanitize=address,undefined)
  target_compile_definitions(qlora_compiler INTERFACE QLORA_POISON_FREED=1)
endif()

find_program(QLORA_CCACHE ccache)
if(QLORA_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env
    CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime
    CCACHE_BASEDIR=${PROJECT_SOURCE_DIR} CCACHE_NOHASHDIR=1 ${QLORA_CCACHE})
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${QLORA_CCACHE})
endif()
set(CMAKE_PCH_INSTANTIATE_TEMPLATES OFF)

# Not mold: the 1.10 of Debian 12 starts PT_GNU_RELRO at a .tbss that may lie in the page before the segment, and a
# program laid out so does not load ("cannot apply additional memory protection after relocation").
find_program(QLORA_LLD ld.lld)
if(QLORA_LLD)
  add_link_options(-fuse-ld=lld)
endif()
