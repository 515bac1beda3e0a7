// The declarations of the model's keys.
#include "qlora/weights/options.h"

#include "qlora/core/schema.h"

namespace qlora {
namespace {

bool is_cache_choice(const std::string& text) {
  double gib = 0;
  return text == "auto" || text == "off" || (text_to(text, gib) && gib > 0 && gib < 1e6);
}

}  // namespace

void declare(Schema<ModelOptions>& schema) {
  using M = ModelOptions;
  schema
      .key(
          "model_name_or_path", &M::model_name_or_path,
          "The model: a folder in Hugging Face layout, or a name on the Hub (owner/name), taken from the cache that is "
          "shared with huggingface_hub, or downloaded into it (HF_HOME, HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE hold).")
      .synonyms({"base_model", "model"});
  schema.key("model_revision", &M::model_revision, "Of a model of the Hub: a branch, a tag or a commit.")
      .synonyms({"revision_of_model"});
  schema.key("method", &M::method, "Train adapters over a 4-bit base, adapters over a 16-bit base, or all weights.")
      .choices({{"qlora", Method::kQlora}, {"lora", Method::kLora}, {"full", Method::kFull}});
  schema
      .key("load_in_4bit", &M::load_in_4bit,
           "Quantize the base. Unset: as `method` says (train), as the adapter was trained (eval, chat; a bare base is "
           "not quantized). A checkpoint of bitsandbytes in NF4 is held as it is.")
      .synonym("quantization_bit", {{"4", "true"}});
  schema.key("bnb_4bit_quant_type", &M::bnb_4bit_quant_type, "The 4-bit code.")
      .choices({{"nf4", QuantType::kNf4}, {"fp4", QuantType::kFp4}})
      .synonyms({"quantization_type"})
      .not_built_yet({"fp4"});
  schema
      .key("use_bnb_nested_quant", &M::use_bnb_nested_quant,
           "Double quantization: the scales of the 4-bit blocks are quantized, too.")
      .synonyms({"double_quantization", "bnb_4bit_use_double_quant"})
      .synonym("quantize", {{"bnb.nf4-dq", "true"}, {"bnb.nf4", "false"}});
  schema
      .key("dtype", &M::dtype,
           "The type that is computed in. auto: bfloat16 where the device has it, float32 on the CPU.")
      .choices({{"auto", ComputeDtype::kAuto},
                {"bfloat16", ComputeDtype::kBfloat16},
                {"float16", ComputeDtype::kFloat16},
                {"float32", ComputeDtype::kFloat32}})
      .spelt({{"bf16", "bfloat16"}, {"fp16", "float16"}, {"fp32", "float32"}})
      .synonyms({"bnb_4bit_compute_dtype", "torch_dtype"})
      .synonym("bf16", {{"true", "bfloat16"}, {"auto", "auto"}, {"false", std::nullopt}})
      .synonym("fp16", {{"true", "float16"}, {"false", std::nullopt}});
  schema
      .key("matmul_dtype", &M::matmul_dtype,
           "The type of the products with a 4-bit base. auto: that of dtype. fp8: weights, activations and gradients "
           "are "
           "rounded to e4m3 for them (3 bits of fraction), adapters are not: faster on an H100 or H200, and the losses "
           "are those of a base that is rounded once more: compare with auto over some steps. On the CPU the same "
           "rounding, no speed.")
      .choices({{"auto", MatmulDtype::kAuto}, {"fp8", MatmulDtype::kFp8}});
  schema
      .key("dequantize_cache", &M::dequantize_cache,
           "How much of a 4-bit base stays dequantized, for speed: off, or so many GiB. auto: 4 GiB on the CPU, off on "
           "a GPU. The numbers are the same.")
      .form("auto, off or a number of GiB", is_cache_choice);
  schema.rule("method", [](const M& m) -> std::string {
    if (!m.load_in_4bit || *m.load_in_4bit == (m.method == Method::kQlora)) return "";
    return *m.load_in_4bit ? "only qlora loads the base in 4 bits; load_in_4bit: true contradicts it"
                           : "qlora loads the base in 4 bits; load_in_4bit: false contradicts it (method: lora?)";
  });
}

}  // namespace qlora
