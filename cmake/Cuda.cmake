# The CUDA language and its libraries, for QLORA_CUDA=ON: nvcc from CUDACXX, PATH or CUDA_HOME, else the one that
# scripts/setup takes from PyPI. At run time there is one copy of each library: the one torch itself uses.
set(QLORA_CUDA_ARCHITECTURES 90 CACHE STRING
  "GPU architectures of the kernels, SASS and PTX each; a release takes 75-real;80-real;86-real;89-real;90-real;100-real;120")

if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  find_program(QLORA_NVCC nvcc PATHS ENV CUDA_HOME /usr/local/cuda "${QLORA_TORCH}/../nvidia/cu13" PATH_SUFFIXES bin)
  if(NOT QLORA_NVCC)
    message(FATAL_ERROR "no CUDA compiler (nvcc) was found: install the CUDA Toolkit 13, or run scripts/setup --preset cuda")
  endif()
  set(CMAKE_CUDA_COMPILER "${QLORA_NVCC}")
endif()
set(CMAKE_CUDA_ARCHITECTURES "${QLORA_CUDA_ARCHITECTURES}")
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_RUNTIME_LIBRARY None)
enable_language(CUDA)

file(REAL_PATH "${QLORA_TORCH}/../nvidia/cu13/lib" QLORA_CUDA_LIB)
find_library(QLORA_CUDART NAMES libcudart.so.13 PATHS "${QLORA_CUDA_LIB}" NO_DEFAULT_PATH)
if(NOT QLORA_CUDART)
  message(FATAL_ERROR "torch's CUDA libraries were not found in '${QLORA_CUDA_LIB}': run scripts/setup --preset cuda")
endif()
# cuDNN's functions are found at run time, in the library that torch loads; its headers and the header-only frontend
# stand beside torch.
set(QLORA_CUDNN_FRONTEND "${QLORA_TORCH}/../include" CACHE PATH "Where cudnn_frontend.h lies")
if(NOT EXISTS "${QLORA_CUDNN_FRONTEND}/cudnn_frontend.h")
  message(FATAL_ERROR "cudnn_frontend.h was not found in '${QLORA_CUDNN_FRONTEND}': run scripts/setup --preset cuda")
endif()
add_library(cudnn::frontend INTERFACE IMPORTED GLOBAL)
target_include_directories(cudnn::frontend SYSTEM INTERFACE
  "${QLORA_CUDNN_FRONTEND}" "${QLORA_TORCH}/../nvidia/cudnn/include")

add_library(cuda::runtime INTERFACE IMPORTED GLOBAL)
target_link_libraries(cuda::runtime INTERFACE "${QLORA_CUDART}" "${QLORA_CUDA_LIB}/libcublasLt.so.13")
target_include_directories(cuda::runtime SYSTEM INTERFACE ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
