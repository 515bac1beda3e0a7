#include "qlora/adapters/peft.h"

#include <sys/stat.h>

#include <fstream>
#include <limits>
#include <map>
#include <numeric>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "qlora/adapters/pattern.h"
#include "qlora/core/error.h"

#include "support/temporary_folder.h"

namespace qlora {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

const std::vector<std::string> kLinears = {"model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj",
                                           "model.layers.1.self_attn.q_proj", "model.layers.1.mlp.up_proj", "lm_head"};

LoraConfig parse(const std::string& text) {
  return parse_lora_config(parse_json(text, "adapter_config.json"), "adapter_config.json");
}

LoraConfig with_targets(const std::string& targets, const std::string& more = "") {
  return parse(R"({"peft_type": "LORA", "target_modules": )" + targets + more + "}");
}

TEST(LoraConfigTest, ReadsTheLeastThatPeftWrites) {
  const LoraConfig config = with_targets(R"(["q_proj", "up_proj"])");
  EXPECT_EQ(config.r, 8);
  EXPECT_THAT(config.target_modules.names, ElementsAre("q_proj", "up_proj"));
  EXPECT_THAT(config.warnings, IsEmpty());
  EXPECT_DOUBLE_EQ(lora_scale(config, "x"), 1.0);
}

TEST(LoraConfigTest, PatternsChooseRankAndScaleByTheEndOfTheName) {
  const LoraConfig config = with_targets(R"(["q_proj"])", R"(, "r": 4, "lora_alpha": 8, "use_rslora": true,
      "rank_pattern": {"layers.1.self_attn.q_proj": 16, "q_pro": 2, ".*up_proj": 32}, "alpha_pattern": {"up_proj": 64})");
  EXPECT_EQ(lora_rank(config, kLinears[0]), 4);
  EXPECT_EQ(lora_rank(config, kLinears[2]), 16);
  EXPECT_EQ(lora_rank(config, kLinears[3]), 32);
  EXPECT_DOUBLE_EQ(lora_scale(config, kLinears[0]), 8.0 / 2.0);
  EXPECT_DOUBLE_EQ(lora_scale(config, kLinears[2]), 8.0 / 4.0);
  EXPECT_DOUBLE_EQ(lora_scale(config, kLinears[3]), 64.0 / std::sqrt(32.0));
}

TEST(LoraConfigTest, TargetsAsPeftMatchesThem) {
  const auto targets = [](const LoraConfig& config) { return lora_targets(config, kLinears, {"lm_head"}); };
  EXPECT_THAT(targets(with_targets(R"("all-linear")")),
              ElementsAre(kLinears[0], kLinears[1], kLinears[2], kLinears[3]));
  EXPECT_THAT(targets(with_targets(R"(["q_proj"])")), ElementsAre(kLinears[0], kLinears[2]));
  EXPECT_THAT(targets(with_targets(R"(["proj"])")), IsEmpty());
  EXPECT_THAT(targets(with_targets(R"(["lm_head"])")), ElementsAre("lm_head"));
  EXPECT_THAT(targets(with_targets(R"(".*\\.1\\..*(q|up)_proj")")), ElementsAre(kLinears[2], kLinears[3]));
  EXPECT_THAT(targets(with_targets(R"("q_proj")")), IsEmpty());  // a string is a regular expression for the whole name
  EXPECT_THAT(targets(with_targets(R"(["q_proj"])", R"(, "layers_to_transform": [1])")), ElementsAre(kLinears[2]));
  EXPECT_THAT(targets(with_targets(R"(["q_proj"])", R"(, "layers_to_transform": 0, "layers_pattern": "layers")")),
              ElementsAre(kLinears[0]));
  EXPECT_THAT(targets(with_targets(R"(["q_proj"])", R"(, "exclude_modules": ["layers.0.self_attn.q_proj"])")),
              ElementsAre(kLinears[2]));
  EXPECT_THAT(expand_all_linear(kLinears, "lm_head"), ElementsAre("q_proj", "up_proj"));
}

TEST(LoraConfigTest, ModulesToSaveCarryNoAdapter) {
  const LoraConfig config =
      with_targets(R"(["q_proj", "lm_head"])", R"(, "modules_to_save": ["lm_head", "0.self_attn.q_proj"])");
  EXPECT_THAT(lora_targets(config, kLinears, {"lm_head"}), ElementsAre(kLinears[2]));
  EXPECT_TRUE(saves_module(config, "lm_head"));
  EXPECT_FALSE(saves_module(config, "lm_head.more"));
}

TEST(LoraConfigTest, RefusesFeaturesByName) {
  for (const std::string feature :
       {R"("bias": "all")", R"("lora_bias": true)", R"("fan_in_fan_out": true)", R"("layer_replication": [[0, 4]])",
        R"("init_lora_weights": "pissa_niter_4")", R"("target_parameters": ["x"])", R"("trainable_token_indices": [1])",
        R"("use_qalora": true)"}) {
    try {
      with_targets(R"(["q_proj"])", ", " + feature);
      ADD_FAILURE() << feature;
    } catch (const UsageError& error) {
      EXPECT_THAT(error.what(), HasSubstr("not supported yet")) << feature;
    }
  }
  EXPECT_THROW(parse(R"({"peft_type": "LOHA", "target_modules": []})"), UsageError);
}

TEST(LoraConfigTest, RefusesWrongValuesByKey) {
  for (const std::string wrong :
       {R"("r": 0)", R"("r": -4)", R"("r": 1.5)", R"("lora_alpha": "16")", R"("lora_dropout": 1)", R"("use_rslora": 1)",
        R"("rank_pattern": [])", R"("rank_pattern": {"a": 0})", R"("alpha_pattern": {"a": "b"})",
        R"("layers_to_transform": [-1])", R"("base_model_name_or_path": 3)"}) {
    EXPECT_THROW(with_targets(R"(["q_proj"])", ", " + wrong), DataError) << wrong;
  }
  EXPECT_THROW(with_targets("[1]"), DataError);
  EXPECT_THROW(parse(R"({"peft_type": "LORA"})"), DataError);
  EXPECT_THROW(parse(R"({"r": 8})"), DataError);
  EXPECT_THROW(parse("[]"), DataError);
  EXPECT_THROW(lora_targets(with_targets(R"("(")"), kLinears, {"lm_head"}), DataError);
}

TEST(LoraConfigTest, UnknownKeysWarnAndStay) {
  const LoraConfig config = with_targets(R"(["q_proj"])", R"(, "use_new": true, "other": null, "peft_version": "9")");
  ASSERT_EQ(config.warnings.size(), 1U);
  EXPECT_THAT(config.warnings[0], HasSubstr("'use_new'"));
  const Json written = parse_json(lora_config_text(config), "written");
  EXPECT_EQ(written.at("use_new"), true);
  EXPECT_FALSE(written.contains("other"));
}

TEST(NamePatternTest, ARunawayPatternIsAnError) {
  const NamePattern pattern("(a+)+[bc]");
  EXPECT_THROW(pattern.matches_whole(std::string(200, 'a') + "d"), DataError);
}

class LoraAdapterTest : public testing::Test {
 protected:
  LoraAdapterTest() {
    config_.r = 2;
    config_.target_modules.names = {"q_proj"};
    put("model.layers.0.self_attn.q_proj.lora_A.weight", {2, 4});
    put("model.layers.0.self_attn.q_proj.lora_B.weight", {3, 2});
  }

  void put(const std::string& key, const Shape& shape, ElementType type = ElementType::kF32) {
    tensors_["base_model.model." + key] = {
        type, shape,
        std::as_bytes(std::span(values_)).first(static_cast<std::size_t>(*element_count(shape)) * element_size(type))};
  }

  LoraAdapter load() const {
    write_safetensors(folder_ / "adapter_model.safetensors", tensors_);
    std::ofstream(folder_ / "adapter_config.json") << lora_config_text(config_);
    return load_lora_adapter(folder_);
  }

  template <class E = DataError>
  void expect_refused(const std::string& because) const {
    try {
      load();
      ADD_FAILURE() << "accepted; expected: " << because;
    } catch (const E& error) {
      EXPECT_THAT(error.what(), HasSubstr(because));
    }
  }

  const TemporaryFolder temporary_;
  const fs::path folder_ = temporary_.path();
  LoraConfig config_;
  std::vector<float> values_ = std::vector<float>(64, 0.5F);
  std::map<std::string, HostTensor> tensors_;
};

TEST_F(LoraAdapterTest, ComesBackAsItWasSaved) {
  const LoraAdapter first = load();
  const AdapterRecord record{"nf4", true, "float32", "c0", "w0"};
  LoraConfig all = config_;
  all.target_modules = {};
  save_lora_adapter(folder_ / "new" / "deep", all, first.matrices, {}, record);
  const LoraAdapter second = load_lora_adapter(folder_ / "new" / "deep");
  ASSERT_EQ(second.matrices.size(), 1U);
  EXPECT_EQ(second.matrices[0].module, "model.layers.0.self_attn.q_proj");
  EXPECT_EQ(second.matrices[0].b.shape, (Shape{3, 2}));
  EXPECT_THAT(second.config.target_modules.names, ElementsAre("q_proj"));  // all-linear is written out
  ASSERT_TRUE(second.record.has_value());
  EXPECT_EQ(second.record->quant_type, "nf4");
  EXPECT_TRUE(second.record->nested);
  EXPECT_EQ(second.record->base_weights, "w0");
  EXPECT_FALSE(first.record.has_value());
}

TEST_F(LoraAdapterTest, RefusesHalvesAndWrongShapes) {
  put("model.layers.1.self_attn.q_proj.lora_A.weight", {2, 4});
  expect_refused("lora_B is missing");
  tensors_.clear();
  put("model.layers.1.self_attn.q_proj.lora_B.weight", {3, 2});
  expect_refused("lora_A is missing");
  put("model.layers.1.self_attn.q_proj.lora_A.weight", {4, 4});
  expect_refused("gives it rank 2");
  put("model.layers.1.self_attn.q_proj.lora_A.weight", {2, 4});
  put("model.layers.1.self_attn.q_proj.lora_B.weight", {3, 4});
  expect_refused("gives it rank 2");
  put("model.layers.1.self_attn.q_proj.lora_B.weight", {6});
  expect_refused("no matrix");
  put("model.layers.1.self_attn.q_proj.lora_B.weight", {3, 2}, ElementType::kI32);
  expect_refused("not F32");
  tensors_.clear();
  expect_refused("no adapter");
}

// PEFT's form: A has the experts' ranks one after the other, the columns of B go through the experts first.
TEST_F(LoraAdapterTest, TakesFusedExpertsApart) {
  const std::string experts = "model.layers.0.mlp.experts.";
  std::iota(values_.begin(), values_.end(), 0.0F);
  config_.rank_pattern = {{R"(.*\.gate_up_proj)", 2}, {R"(.*\.down_proj)", 1}};
  config_.alpha_pattern = {{R"(.*\.gate_up_proj)", 6}};
  config_.extra = {{"target_parameters", {"gate_up_proj", "down_proj"}}};
  put(experts + "base_layer.lora_A.weight", {6, 4});
  put(experts + "base_layer.lora_B.weight", {4, 6});
  put(experts + "lora_A.weight", {3, 5});
  put(experts + "lora_B.weight", {2, 3});
  const LoraAdapter adapter = load();
  EXPECT_TRUE(adapter.fused_experts);
  std::map<std::string, const LoraMatrices*> found;
  std::vector<std::string> modules{"model.layers.1.mlp.experts.1.up_proj"};
  for (const LoraMatrices& matrices : adapter.matrices) {
    found[matrices.module] = &matrices;
    modules.push_back(matrices.module);
  }
  ASSERT_EQ(found.size(), 10U);
  const LoraMatrices& up = *found.at(experts + "1.up_proj");
  EXPECT_EQ(up.a.shape, (Shape{2, 4}));
  EXPECT_THAT(to_float32(up.a), ElementsAre(8, 9, 10, 11, 12, 13, 14, 15));
  EXPECT_EQ(up.b.shape, (Shape{2, 2}));
  EXPECT_THAT(to_float32(up.b), ElementsAre(13, 16, 19, 22));
  EXPECT_THAT(to_float32(found.at(experts + "1.gate_proj")->b), ElementsAre(1, 4, 7, 10));
  EXPECT_THAT(to_float32(found.at(experts + "2.down_proj")->a), ElementsAre(10, 11, 12, 13, 14));
  EXPECT_THAT(to_float32(found.at(experts + "2.down_proj")->b), ElementsAre(2, 5));
  EXPECT_EQ(lora_scale(adapter.config, experts + "1.up_proj"), 3.0);
  EXPECT_EQ(lora_rank(adapter.config, experts + "2.down_proj"), 1);
  EXPECT_EQ(lora_targets(adapter.config, modules, {}).size(), 10U);  // none of the other layer

  config_.rank_pattern[0].second = 4;
  expect_refused("A [6, 4] and B [4, 6] are not those of experts of rank 4");
  tensors_.erase("base_model.model." + experts + "base_layer.lora_A.weight");
  expect_refused("its partner lora_A is missing");
}

TEST_F(LoraAdapterTest, RefusesValuesThatAreNotFinite) {
  values_[5] = std::numeric_limits<float>::quiet_NaN();
  expect_refused("row 1, column 1 is NaN");
}

TEST_F(LoraAdapterTest, ReadsEmbeddingsMagnitudesAndSavedModulesAndWritesThemAgain) {
  config_.use_dora = true;
  config_.modules_to_save = {"lm_head", "norm"};
  put("model.layers.0.self_attn.q_proj.lora_magnitude_vector", {3});
  put("lm_head.weight", {5, 4});
  put("model.norm.weight", {4});
  save_lora_adapter(folder_ / "again", config_, load().matrices, load().saved, {});
  const LoraAdapter dora = load_lora_adapter(folder_ / "again");
  ASSERT_TRUE(dora.matrices.at(0).magnitude.has_value());
  EXPECT_EQ(dora.matrices[0].magnitude->shape, (Shape{3}));
  EXPECT_TRUE(dora.config.use_dora);
  EXPECT_THAT(dora.config.modules_to_save, ElementsAre("lm_head", "norm"));
  ASSERT_EQ(dora.saved.size(), 2U);
  EXPECT_EQ(dora.saved[0].name, "lm_head.weight");
  EXPECT_EQ(dora.saved[1].values.shape, (Shape{4}));

  config_.use_dora = false;
  config_.target_modules.names = {"embed_tokens"};
  config_.modules_to_save.clear();
  tensors_.clear();
  put("model.embed_tokens.lora_embedding_A", {2, 7});
  put("model.embed_tokens.lora_embedding_B", {3, 2});
  put("model.embed_tokens.base_layer.weight", {7, 3});  // PEFT's copy of the base
  save_lora_adapter(folder_ / "table", config_, load().matrices, {}, {});
  const LoraAdapter table = load_lora_adapter(folder_ / "table");
  EXPECT_TRUE(table.matrices.at(0).embedding);
  EXPECT_TRUE(table.file->contains("base_model.model.model.embed_tokens.lora_embedding_B"));
  const std::string name = "model.embed_tokens";
  EXPECT_NO_THROW(check_lora_adapter(table, {{name, {7, 3}}}, {name}));
  EXPECT_THROW(check_lora_adapter(table, {{name, {3, 7}}}, {name}), DataError);
}

TEST_F(LoraAdapterTest, RefusesTensorsThatItsConfigDoesNotName) {
  put("model.layers.0.self_attn.q_proj.lora_magnitude_vector", {3});
  expect_refused("does not say use_dora");
  config_.use_dora = true;
  put("model.layers.0.self_attn.q_proj.lora_magnitude_vector", {2});
  expect_refused("lora_B has 3 rows");
  tensors_.erase("base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector");
  expect_refused("it is missing, though adapter_config.json says use_dora");
  config_.use_dora = false;
  put("lm_head.weight", {2, 4});
  expect_refused("modules_to_save does not name it");
  tensors_.clear();
  put("model.layers.0.self_attn.q_proj.lora_B.bias", {3});
  expect_refused<UsageError>("biases on B");
  tensors_.clear();
  tensors_["x.lora_A.weight"] = {ElementType::kF32, {2}, std::as_bytes(std::span(values_)).first(8)};
  expect_refused("does not begin with");
}

TEST_F(LoraAdapterTest, RefusesMissingAndPickledFiles) {
  EXPECT_THROW(load_lora_adapter(folder_ / "none"), DataError);
  EXPECT_THROW(load_lora_adapter(folder_), DataError);
  std::ofstream(folder_ / "adapter_config.json") << lora_config_text(config_);
  ASSERT_EQ(::mkfifo((folder_ / "adapter_model.bin").c_str(), 0600), 0);
  try {
    load_lora_adapter(folder_);
    FAIL();
  } catch (const DataError& error) {
    EXPECT_THAT(error.what(), HasSubstr("pickle"));
  }
}

TEST_F(LoraAdapterTest, MustFitItsBase) {
  const LoraAdapter adapter = load();
  const std::string module = "model.layers.0.self_attn.q_proj";
  EXPECT_NO_THROW(check_lora_adapter(adapter, {{module, {3, 4}}}, {"lm_head"}));
  EXPECT_THROW(check_lora_adapter(adapter, {{module, {4, 4}}}, {"lm_head"}), DataError);
  EXPECT_THROW(check_lora_adapter(adapter, {{"other", {3, 4}}}, {"lm_head"}), DataError);
  EXPECT_THROW(
      check_lora_adapter(adapter, {{module, {3, 4}}, {"model.layers.1.self_attn.q_proj", {3, 4}}}, {"lm_head"}),
      DataError);  // targeted, but not in the adapter
}

}  // namespace
}  // namespace qlora
