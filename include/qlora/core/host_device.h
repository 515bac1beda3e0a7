// Functions that the CPU forms and the CUDA kernels share carry this mark.
#pragma once

#ifdef __CUDACC__
#define QLORA_HOST_DEVICE __host__ __device__
#else
#define QLORA_HOST_DEVICE
#endif
