// A model folder streamed from disk, tensor by tensor, into a decoder's store and parameters.
#pragma once

#include <memory>

#include <ATen/core/Tensor.h>

#include "qlora/formats/model_folder.h"
#include "qlora/models/decoder.h"
#include "qlora/quant/nf4_serialized.h"
#include "qlora/quant/tensor_bytes.h"
#include "qlora/weights/options.h"

namespace qlora {

// "auto" (CUDA where there is a device), "cpu", "cuda", "cuda:N". Throws UsageError where the device is not there; to
// plan a run on a GPU a build with CUDA is enough.
at::Device choose_device(const std::string& name, bool to_plan = false);

// auto: bfloat16 on CUDA, float32 on the CPU. float16 on the CPU is a UsageError: nothing there computes in it well.
at::ScalarType choose_dtype(ComputeDtype dtype, at::Device device);

// Looks up the folder's tensors, which it must outlive.
FindTensor finder(const ModelFolder& folder);

// Reads every tensor that the decoder wants, those in NF4 with their companions. Tensors it does not know are named in
// one warning. Throws DataError with the names of weights that are missing, and for weights in 4 bits that config.json
// does not announce, or in 16 where it announces 4.
void load_weights(const ModelFolder& folder, Decoder& decoder);

}  // namespace qlora
