// What config.json may say, in its old and new forms, and what is refused in which words.
#include "qlora/models/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "qlora/core/error.h"

namespace qlora {
namespace {

using Json = nlohmann::ordered_json;
using testing::HasSubstr;

Json config_of(const std::string& model_type) {
  return {{"model_type", model_type}, {"vocab_size", 64},         {"hidden_size", 32},
          {"intermediate_size", 48},  {"num_hidden_layers", 4},   {"num_attention_heads", 4},
          {"num_key_value_heads", 2}, {"rms_norm_eps", 1e-5},     {"max_position_embeddings", 128},
          {"rope_theta", 500000.0},   {"initializer_range", 0.02}};
}

ModelConfig parse(const Json& json) {
  return parse_model_config(json, "config.json");
}

ModelConfig parse(const std::string& model_type, const Json& changes) {
  Json json = config_of(model_type);
  if (!changes.is_null()) json.update(changes);
  return parse(json);
}

template <class Error>
std::string refusal(const std::string& model_type, const Json& changes) {
  try {
    parse(model_type, changes);
  } catch (const Error& error) {
    return error.what();
  }
  return "not refused";
}

TEST(ModelConfig, OfAnUnknownTypeListsWhatIsKnown) {
  const std::string text = refusal<UsageError>("bert", {});
  EXPECT_THAT(text, HasSubstr("config.json: model_type 'bert' is not built yet; known are: gemma2, gemma3_text"));
  EXPECT_THAT(text, HasSubstr("smollm3"));
  EXPECT_EQ(text.find('\n'), std::string::npos);
}

TEST(ModelConfig, KnowsAStoredQuantization) {
  const auto with = [](const Json& quantization) { return Json{{"quantization_config", quantization}}; };
  EXPECT_FALSE(parse("llama", with(nullptr)).stored_nf4);
  EXPECT_FALSE(parse("llama", with({{"load_in_4bit", false}})).stored_nf4);
  const ModelConfig config = parse("llama", with({{"quant_method", "bitsandbytes"},
                                                  {"load_in_4bit", true},
                                                  {"bnb_4bit_quant_type", "nf4"},
                                                  {"bnb_4bit_use_double_quant", true},
                                                  {"llm_int8_skip_modules", {"lm_head", "model.layers.0"}}}));
  ASSERT_TRUE(config.stored_nf4);
  EXPECT_TRUE(config.stored_nf4->nested);
  EXPECT_THAT(config.stored_nf4->dense, testing::ElementsAre("lm_head", "model.layers.0"));
  EXPECT_FALSE(
      parse("llama", with({{"load_in_4bit", true}, {"bnb_4bit_quant_type", "nf4"}})).stored_nf4.value().nested);
  EXPECT_THAT(refusal<UsageError>("llama", with({{"load_in_4bit", true}})),
              HasSubstr("config.json: quantization_config: weights quantized to 'fp4' are not supported"));
  EXPECT_THAT(refusal<UsageError>("llama", with({{"load_in_8bit", true}})), HasSubstr("to int8 (LLM.int8)"));
  EXPECT_THAT(refusal<UsageError>("llama", with({{"quant_method", "gptq"}, {"bits", 4}})), HasSubstr("by 'gptq'"));
  EXPECT_THAT(refusal<DataError>("llama", with("nf4")), HasSubstr("'quantization_config' must be an object"));
}

TEST(ModelConfig, RefusesInWordsThatNameTheField) {
  EXPECT_THAT(refusal<DataError>("llama", {{"attention_bias", "yes"}}),
              HasSubstr("config.json: 'attention_bias' must be true or false, is \"yes\""));
  EXPECT_THAT(refusal<DataError>("mistral", {{"sliding_window", 0}}), HasSubstr("'sliding_window' is 0: not a size"));
  EXPECT_THAT(refusal<DataError>("gemma2", {{"layer_types", {"full_attention"}}}),
              HasSubstr("'layer_types' names 1 layers, num_hidden_layers is 4"));
  EXPECT_THAT(refusal<DataError>("gemma2", {{"layer_types", "full_attention"}}),
              HasSubstr("'layer_types' must be a list of strings"));
  EXPECT_THAT(refusal<UsageError>("lfm2", {{"layer_types", {"conv", "conv", "conv", "mamba"}}}),
              HasSubstr("layer type 'mamba' is not built yet; known are: full_attention, sliding_attention, conv"));
  EXPECT_THAT(refusal<DataError>("smollm3", {{"no_rope_layers", {1, 0}}}),
              HasSubstr("'no_rope_layers' names 2 layers, num_hidden_layers is 4"));
  EXPECT_THAT(refusal<DataError>("llama", {{"intermediate_size", nullptr}}),
              HasSubstr("'intermediate_size' is missing"));
  EXPECT_THAT(refusal<DataError>("llama", {{"num_attention_heads", 5}, {"num_key_value_heads", 5}}),
              HasSubstr("hidden_size 32 is no multiple of num_attention_heads 5"));
  EXPECT_THAT(refusal<DataError>("phi3", {{"partial_rotary_factor", 0.4}}), HasSubstr("RoPE turns 3 of 8 columns"));
  EXPECT_THAT(refusal<UsageError>("qwen2", {{"hidden_act", "relu"}}), HasSubstr("hidden_act 'relu' is not built yet"));
  EXPECT_THAT(refusal<UsageError>("gemma2", {{"hidden_activation", "gelu"}}),
              HasSubstr("hidden_activation 'gelu' is not built yet"));
}

TEST(ModelConfig, RefusesRopeScalingInWordsThatNameTheField) {
  EXPECT_THAT(refusal<UsageError>("llama", {{"rope_scaling", {{"rope_type", "spiral"}}}}),
              HasSubstr("known are: default, linear, dynamic, llama3, yarn, longrope"));
  EXPECT_THAT(refusal<DataError>("phi3", {{"rope_scaling", {{"type", "longrope"}, {"short_factor", {1, 1, 1, 1}}}}}),
              HasSubstr("config.json: rope_scaling: 'long_factor' is missing"));
  EXPECT_THAT(refusal<DataError>("phi3", {{"rope_scaling", {{"type", "su"}, {"short_factor", {1, 1}}}}}),
              HasSubstr("'short_factor' has 2 numbers, needs 4"));
  EXPECT_THAT(refusal<DataError>("llama", {{"rope_scaling", {{"rope_type", "linear"}, {"factor", -2}}}}),
              HasSubstr("'factor' is -2: must be above 0"));
  EXPECT_THAT(refusal<DataError>("llama", {{"rope_scaling", {{"rope_type", "llama3"}}}}),
              HasSubstr("rope_scaling: 'factor' is missing"));
}

TEST(ModelConfig, TakesWhatReleasedModelsLeaveOut) {
  const ModelConfig gemma = parse("gemma2", {});
  EXPECT_TRUE(gemma.tied_embeddings);
  EXPECT_EQ(gemma.head_dim, 256);
  EXPECT_EQ(gemma.attention_softcap, 50.0);
  EXPECT_EQ(gemma.kind(0), LayerKind::kWindowedAttention);
  EXPECT_EQ(gemma.kind(1), LayerKind::kAttention);
  EXPECT_EQ(parse("gemma2", {{"attn_logit_softcapping", nullptr}}).attention_softcap, 0.0);
  EXPECT_EQ(parse("qwen3", {}).head_dim, 128);
  EXPECT_EQ(parse("mistral", {}).window, 4096);
  EXPECT_EQ(parse("mistral", {{"sliding_window", nullptr}}).window, 0);
  const ModelConfig smol = parse("smollm3", {});
  EXPECT_TRUE(smol.rotates(2));
  EXPECT_FALSE(smol.rotates(3));
}

TEST(ModelConfig, ReadsExperts) {
  const ModelConfig mixtral = parse("mixtral", {});
  EXPECT_EQ(mixtral.experts, 8);
  EXPECT_EQ(mixtral.experts_per_token, 2);
  EXPECT_EQ(mixtral.expert_intermediate, 48);
  EXPECT_TRUE(mixtral.normalized_routing);
  EXPECT_TRUE(mixtral.has_experts(0));
  EXPECT_EQ(mixtral.window, 0);
  EXPECT_EQ(mixtral.router_loss_weight, 0.0);
  const Json moe{{"num_local_experts", 16}, {"num_experts_per_tok", 4}, {"moe_intermediate_size", 12},
                 {"mlp_only_layers", {3}},  {"decoder_sparse_step", 2}, {"output_router_logits", true}};
  const ModelConfig qwen = parse("qwen3_moe", moe);
  EXPECT_EQ(qwen.experts, 16);
  EXPECT_EQ(qwen.expert_intermediate, 12);
  EXPECT_FALSE(qwen.normalized_routing);
  EXPECT_FALSE(qwen.has_experts(0));
  EXPECT_TRUE(qwen.has_experts(1));
  EXPECT_FALSE(qwen.has_experts(3));
  EXPECT_EQ(qwen.router_loss_weight, 0.001);
  EXPECT_FALSE(parse("qwen3_moe", {{"num_experts", 0}}).has_experts(1));
  EXPECT_EQ(parse("qwen3_moe", {{"num_experts", 9}}).experts, 9);
  EXPECT_THAT(refusal<DataError>("mixtral", {{"num_experts_per_tok", 9}}),
              HasSubstr("'num_experts_per_tok' is 9, there are 8 experts"));
  EXPECT_THAT(refusal<DataError>("mixtral", {{"num_local_experts", 1000000}}),
              HasSubstr("'num_local_experts' is 1000000: more than 100000 in all layers"));
  EXPECT_THAT(refusal<UsageError>("mixtral", {{"router_jitter_noise", 0.1}}),
              HasSubstr("'router_jitter_noise' is not built yet"));
}

TEST(ModelConfig, ReadsLfm2InItsFirstForm) {
  const ModelConfig c = parse("lfm2", {{"block_ff_dim", 6656}, {"full_attn_idxs", {2}}, {"norm_eps", 1e-3}});
  EXPECT_EQ(c.intermediate, 4608);
  EXPECT_EQ(c.norm_epsilon, 1e-3);
  EXPECT_EQ(c.kind(1), LayerKind::kConvolution);
  EXPECT_EQ(c.kind(2), LayerKind::kAttention);
  EXPECT_EQ(parse("lfm2", {{"block_auto_adjust_ff_dim", false}}).intermediate, 48);
}

TEST(ModelConfig, ReadsRopeOfEachKindOfLayer) {
  const ModelConfig old = parse("gemma3_text", {{"rope_local_base_freq", 20000.0}});
  EXPECT_EQ(old.rope_base, 500000.0);
  EXPECT_EQ(old.windowed_rope_base, 20000.0);
  const Json kinds{{"full_attention", {{"rope_type", "linear"}, {"factor", 8.0}, {"rope_theta", 1e6}}},
                   {"sliding_attention", {{"rope_type", "default"}, {"rope_theta", 30000.0}}}};
  const ModelConfig c = parse("gemma3_text", {{"rope_parameters", kinds}});
  EXPECT_EQ(c.rope_base, 1e6);
  EXPECT_EQ(c.rope_scaling.factor, 8.0);
  EXPECT_EQ(c.windowed_rope_base, 30000.0);
}

}  // namespace
}  // namespace qlora
