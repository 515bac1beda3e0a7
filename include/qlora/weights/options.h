// The config keys that say which model is loaded, and how.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "qlora/core/schema_fwd.h"

namespace qlora {

// What is trained: adapters over a 4-bit base, adapters over a 16-bit base, or every weight.
enum class Method { kQlora, kLora, kFull };

// The type that products are computed in. kAuto: bfloat16 where the device has it, float32 on the CPU.
enum class ComputeDtype { kAuto, kBfloat16, kFloat16, kFloat32 };

enum class MatmulDtype { kAuto, kFp8 };

enum class QuantType { kNf4, kFp4 };

struct ModelOptions {
  std::string model_name_or_path;  // a folder in Hugging Face layout, or a name on the Hub
  std::string model_revision = "main";
  Method method = Method::kQlora;    // train only; it decides what load_in_4bit then is
  std::optional<bool> load_in_4bit;  // unset: as `method` says (train), as the adapter was trained (eval, chat)
  QuantType bnb_4bit_quant_type = QuantType::kNf4;
  bool use_bnb_nested_quant = true;  // quantize the absolute maxima of the blocks, too
  ComputeDtype dtype = ComputeDtype::kAuto;
  MatmulDtype matmul_dtype = MatmulDtype::kAuto;
  std::string dequantize_cache = "auto";  // auto | off | GiB
};

void declare(Schema<ModelOptions>& schema);

}  // namespace qlora
