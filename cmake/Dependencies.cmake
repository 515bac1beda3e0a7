# Every third-party target, each by the name that says what it is.
# Where a static library exists it is taken, so that the installed folder needs few files beside it.

set(QLORA_DEPS "${PROJECT_SOURCE_DIR}/.deps" CACHE PATH "Where scripts/setup put the Python environment that holds torch")

# qlora_system_library(TARGET LIBRARY HEADER [SHARED]): an imported target for an apt package.
function(qlora_system_library target library header)
  string(MAKE_C_IDENTIFIER "${library}" id)
  # The kind is part of the cached name: a build folder from before a change of kind must not keep the other one.
  if(ARGV3 STREQUAL "SHARED")
    set(found QLORA_SHARED_LIB_${id})
    find_library(${found} NAMES ${library})
  else()
    set(found QLORA_LIB_${id})
    find_library(${found} NAMES lib${library}.a ${library})
  endif()
  find_path(QLORA_INC_${id} ${header})
  if(NOT ${found} OR NOT QLORA_INC_${id})
    message(FATAL_ERROR "${library} (header ${header}) was not found: run scripts/setup")
  endif()
  add_library(${target} INTERFACE IMPORTED GLOBAL)
  target_link_libraries(${target} INTERFACE ${${found}})
  if(NOT QLORA_INC_${id} STREQUAL "/usr/include")
    target_include_directories(${target} SYSTEM INTERFACE ${QLORA_INC_${id}})
  endif()
endfunction()

find_package(Threads REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(spdlog REQUIRED)
qlora_system_library(yaml-cpp::yaml-cpp yaml-cpp yaml-cpp/yaml.h)
qlora_system_library(pcre2::pcre2 pcre2-8 pcre2.h)
qlora_system_library(sentencepiece::sentencepiece sentencepiece sentencepiece_processor.h SHARED)
qlora_system_library(utf8proc::utf8proc utf8proc utf8proc.h)
# One OpenSSL in the process: libcurl brings the shared one.
qlora_system_library(openssl::crypto crypto openssl/evp.h SHARED)
qlora_system_library(curl::curl curl curl/curl.h SHARED)
qlora_system_library(sqlite::sqlite sqlite3 sqlite3.h)
target_link_libraries(sqlite::sqlite INTERFACE Threads::Threads ${CMAKE_DL_LIBS} m)
target_link_libraries(openssl::crypto INTERFACE Threads::Threads ${CMAKE_DL_LIBS})

# libtorch from the PyPI wheel. Not find_package(Torch): its configuration demands nvcc, and puts torch's include
# folder first, whose own fmt/ and google/ then hide the system's. -idirafter puts it last.
file(GLOB QLORA_TORCH_CANDIDATES "${QLORA_DEPS}/python/lib/python3*/site-packages/torch")
set(QLORA_TORCH "${QLORA_TORCH_CANDIDATES}" CACHE PATH "The torch folder of a PyTorch wheel")
if(NOT EXISTS "${QLORA_TORCH}/lib/libtorch_cpu.so")
  message(FATAL_ERROR "libtorch was not found in '${QLORA_TORCH}': run scripts/setup, or set QLORA_TORCH to the torch folder of a PyTorch installation")
endif()
add_library(torch::torch INTERFACE IMPORTED GLOBAL)
target_compile_options(torch::torch INTERFACE
  "$<$<COMPILE_LANGUAGE:CXX>:SHELL:-idirafter ${QLORA_TORCH}/include>"
  "$<$<COMPILE_LANGUAGE:CXX>:SHELL:-idirafter ${QLORA_TORCH}/include/torch/csrc/api/include>")
set(QLORA_TORCH_LIBRARIES torch_cpu c10)
if(QLORA_CUDA)
  if(NOT EXISTS "${QLORA_TORCH}/lib/libtorch_cuda.so")
    message(FATAL_ERROR "the torch in '${QLORA_TORCH}' has no CUDA part: run scripts/setup --preset cuda")
  endif()
  list(APPEND QLORA_TORCH_LIBRARIES torch_cuda c10_cuda)
  include(Cuda)
endif()
list(TRANSFORM QLORA_TORCH_LIBRARIES REPLACE "(.+)" "${QLORA_TORCH}/lib/lib\\1.so")
target_link_options(torch::torch INTERFACE "-Wl,--no-as-needed")
target_link_libraries(torch::torch INTERFACE ${QLORA_TORCH_LIBRARIES} Threads::Threads)
