// Every declared key of every command: misspelt, of the wrong type, out of range, given twice, not built; and the
// resolved dump of each command loads back.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <set>
#include <sstream>

#include <gtest/gtest.h>
#include <spdlog/fmt/fmt.h>

#include "qlora/app/options.h"
#include "qlora/cli/commands.h"
#include "qlora/core/config.h"
#include "qlora/core/yaml.h"

namespace qlora {
namespace {

struct Result {
  std::string problems;
  std::vector<std::string> notes;
};

template <class Job>
Result apply_to(const std::string& command, const std::string& yaml, Job& job) {
  Problems problems;
  Result result;
  CommandKeys own{command, nullptr};
  std::vector<CommandKeys> others;
  for (const Command& known : commands()) {
    if (known.name == command) own.keys = known.keys;
    if (known.name != command) others.push_back({known.name, known.keys});
  }
  apply({settings_of(parse_yaml(yaml, "c"), problems), {}}, own, others, &job, problems, result.notes);
  // What is missing (a model, a data set) is not this test's business.
  for (const Problem& problem : problems.all()) {
    if (problem.message.starts_with("missing")) continue;
    result.problems += (result.problems.empty() ? "" : "\n") + problem.line();
  }
  return result;
}

Result apply_to(const std::string& command, const std::string& yaml) {
  PrepareJob prepare;
  TrainJob train;
  EvalJob eval;
  MergeJob merge;
  ChatJob chat;
  if (command == "prepare") return apply_to(command, yaml, prepare);
  if (command == "train") return apply_to(command, yaml, train);
  if (command == "eval") return apply_to(command, yaml, eval);
  if (command == "merge") return apply_to(command, yaml, merge);
  return apply_to(command, yaml, chat);
}

// Calls check(command, key) for every key.
template <class F>
int for_all_keys(F check) {
  int count = 0;
  for (const Command& command : commands()) {
    for (const auto& key : command.keys->keys) {
      check(command.name, *key);
      ++count;
    }
  }
  return count;
}

bool is_known(const std::string& name) {
  return std::any_of(commands().begin(), commands().end(), [&](const Command& command) {
    return command.keys->find(name) != nullptr || command.keys->find_synonym(name).first != nullptr;
  });
}

// Slips of the finger: a letter lost, two swapped, one doubled. Those that are names themselves are none.
std::vector<std::string> misspellings(const std::string& name) {
  std::vector<std::string> all;
  for (size_t i = 0; i < name.size(); ++i) {
    std::string lost = name, swapped = name, doubled = name;
    lost.erase(i, 1);
    doubled.insert(i, 1, name[i]);
    if (i > 0) std::swap(swapped[i], swapped[i - 1]);
    for (const std::string& word : {lost, swapped, doubled}) {
      if (!word.empty() && !is_known(word)) all.push_back(word);
    }
  }
  return all;
}

TEST(EveryKey, Misspelt) {
  std::set<std::string> done;
  int words = 0;
  for_all_keys([&](const std::string& command, const Key& key) {
    if (!done.insert(key.name).second) return;
    for (const std::string& word : misspellings(key.name)) {
      const std::string found = apply_to(command, word + ": 1").problems;
      // Another name may be as near (adapter, adapters); it must be one slip away, too.
      const std::string start = "c:1:1: " + word + ": unknown key; did you mean ";
      ASSERT_EQ(found.substr(0, start.size()), start);
      const std::string meant = found.substr(start.size(), found.size() - start.size() - 1);
      const std::vector<std::string> slips = misspellings(meant);
      EXPECT_TRUE(meant == key.name || std::find(slips.begin(), slips.end(), word) != slips.end() ||
                  meant.find(word) != std::string::npos || word.find(meant) != std::string::npos)
          << word << " was " << key.name << ": " << found;
      ++words;
    }
  });
  EXPECT_GT(words, 1500);
}

TEST(EveryKey, OfTheWrongType) {
  const int count = for_all_keys([](const std::string& command, const Key& key) {
    // A list of lists is of no key's type.
    const std::string found = apply_to(command, key.name + ": [[[]]]").problems;
    EXPECT_NE(found.find(key.name + ": expected "), std::string::npos) << found;
    EXPECT_EQ(found.substr(0, 4), "c:1:") << found;
    const bool takes_any_text = key.type == "text" && key.choices.empty();
    const bool takes_paths = key.name == "dataset" || key.name == "eval_dataset" || key.name == "adapter";
    if (takes_any_text || takes_paths || key.name == "lora_target_modules") return;
    const std::string text = apply_to(command, key.name + ": '?!'").problems;
    EXPECT_EQ(text.substr(0, 4), "c:1:") << text;
    EXPECT_NE(text.find(": expected "), std::string::npos) << text;
    EXPECT_NE(text.find("got \"?!\""), std::string::npos) << text;
  });
  EXPECT_GT(count, 150);
}

std::string sample(const Key& key, double number) {
  const std::string text = fmt::format("{}", number);
  return key.arity == Arity::kMap ? "{x: " + text + "}" : key.arity == Arity::kMany ? "[" + text + "]" : text;
}

TEST(EveryKey, OutOfRange) {
  int bounded = 0;
  for_all_keys([&](const std::string& command, const Key& key) {
    const auto check = [&](double number) {
      const std::string found = apply_to(command, key.name + ": " + sample(key, number)).problems;
      EXPECT_NE(found.find(fmt::format("{} is out of range: {}", number, key.bounds())), std::string::npos)
          << key.name << ": " << found;
      ++bounded;
    };
    if (key.low) check(key.low_open ? *key.low : *key.low - 1);
    if (key.high) check(key.high_open ? *key.high : *key.high + 1);
  });
  EXPECT_GT(bounded, 50);
}

TEST(EveryKey, GivenTwice) {
  for_all_keys([](const std::string& command, const Key& key) {
    const std::string found = apply_to(command, fmt::format("{0}:\n{0}:\n", key.name)).problems;
    EXPECT_EQ(found, fmt::format("c:2:1: {}: given twice, first at c:1:1", key.name));
  });
}

TEST(EveryKey, WithoutAValueIsNotGiven) {
  for_all_keys(
      [](const std::string& command, const Key& key) { EXPECT_EQ(apply_to(command, key.name + ":\n").problems, ""); });
}

TEST(EveryKey, ItsDefaultIsAccepted) {
  for_all_keys([](const std::string& command, const Key& key) {
    // The flag standing alone contradicts nothing but what rules ask for.
    EXPECT_EQ(apply_to(command, key.name + ": " + yaml_line(key.default_json()) + "\n").problems, "") << key.name;
  });
}

TEST(EveryKey, HasHelpAGroupAndAType) {
  for_all_keys([](const std::string&, const Key& key) {
    EXPECT_TRUE(key.help.ends_with(".")) << key.name << ": " << key.help;
    EXPECT_TRUE(!key.type.empty() || !key.choices.empty()) << key.name;
  });
}

TEST(EveryKey, WhatIsNotBuiltSaysSo) {
  int refused = 0;
  for_all_keys([&](const std::string& command, const Key& key) {
    for (const std::string& choice : key.not_built_choices) {
      const std::string found = apply_to(command, key.name + ": " + choice).problems;
      EXPECT_EQ(found.substr(found.find(key.name)), key.name + ": " + choice + " is not built yet");
      ++refused;
    }
    if (key.not_built && key.is_bool) {
      EXPECT_EQ(apply_to(command, key.name + ": true").problems,
                fmt::format("c:1:{}: {} is not built yet", key.name.size() + 3, key.name + ": " + key.name));
      ++refused;
    }
  });
  EXPECT_GT(refused, 0);
}

TEST(EverySynonym, IsReadWithANoteThatNamesTheKey) {
  int count = 0;
  for (const Command& command : commands()) {
    for (const auto& key : command.keys->keys) {
      for (const Synonym& synonym : key->synonyms) {
        if (command.keys->find(synonym.name) != nullptr) continue;
        std::string value = synonym.values.empty() ? yaml_line(key->default_json()) : synonym.values[0].first;
        if (synonym.compute) value = "2";
        if (value == "null") value = key->is_bool ? "true" : "5";
        const bool is_empty = value == "\"\"" || value == "[]" || value == "{}";
        if (is_empty) value = key->type == "a whole number" ? "5" : "abc.json";
        if (key->not_built) continue;
        const Result result = apply_to(command.name, synonym.name + ": " + value);
        EXPECT_EQ(result.problems, "") << synonym.name;
        ASSERT_EQ(result.notes.size(), 1u) << synonym.name;
        EXPECT_NE(result.notes[0].find("is read as " + key->name), std::string::npos) << result.notes[0];
        ++count;
      }
    }
  }
  EXPECT_GT(count, 60);
}

TEST(Synonyms, OfThePeers) {
  TrainJob job;
  const Result result = apply_to("train",
                                 "base_model: /tmp\nmicro_batch_size: 3\nnum_epochs: 4\nlr_scheduler: cosine\n"
                                 "optimizer: adamw_torch\nlora_rank: 4\nscale: 2\nlora_target_linear: true\n"
                                 "quantization_bit: 4\ndouble_quantization: false\ntrain_on_inputs: false\n"
                                 "sample_packing: true\nsequence_len: 64\nbnb_4bit_compute_dtype: bf16\n"
                                 "clip_grad_norm: 0.3\nevaluation_strategy: no\nval_set_size: 0.1\nlr: 1e-3\n",
                                 job);
  EXPECT_EQ(result.problems, "");
  EXPECT_EQ(job.model.model_name_or_path, "/tmp");
  EXPECT_EQ(job.train.per_device_train_batch_size, 3);
  EXPECT_EQ(job.train.num_train_epochs, 4.0);
  EXPECT_EQ(job.train.lr_scheduler_type, Scheduler::kCosine);
  EXPECT_EQ(job.adapter.lora_r, 4);
  EXPECT_EQ(job.adapter.lora_alpha, 8.0) << "mlx-lm's scale is alpha / r";
  EXPECT_TRUE(job.adapter.lora_target_modules.all_linear());
  EXPECT_EQ(job.model.load_in_4bit, true);
  EXPECT_FALSE(job.model.use_bnb_nested_quant);
  EXPECT_EQ(job.data.assistant_only_loss, true) << "axolotl's is inverted";
  EXPECT_TRUE(job.data.packing);
  EXPECT_EQ(job.data.max_length, 64);
  EXPECT_EQ(job.model.dtype, ComputeDtype::kBfloat16);
  EXPECT_EQ(job.train.max_grad_norm, 0.3);
  EXPECT_EQ(job.train.learning_rate, 1e-3);
  EXPECT_EQ(job.data.val_size, 0.1);
}

TEST(Synonyms, BatchSizeIsAKeyOfEvalAndASynonymInTrain) {
  TrainJob train;
  EvalJob eval;
  EXPECT_EQ(apply_to("train", "batch_size: 7", train).problems, "");
  EXPECT_EQ(train.train.per_device_train_batch_size, 7);
  const Result result = apply_to("eval", "batch_size: 7", eval);
  EXPECT_EQ(eval.generate.batch_size, 7);
  EXPECT_TRUE(result.notes.empty());
}

TEST(TargetModules, AllFormsAreTold) {
  const auto target = [](const std::string& text) {
    TrainJob job;
    EXPECT_EQ(apply_to("train", "lora_target_modules: " + text, job).problems, "");
    return job.adapter.lora_target_modules;
  };
  EXPECT_TRUE(target("all-linear").all_linear());
  EXPECT_TRUE(target("all").all_linear());
  EXPECT_EQ(target("[q_proj, mlp.up_proj]").names, (std::vector<std::string>{"q_proj", "mlp.up_proj"}));
  EXPECT_EQ(target("q_proj, v_proj").names, (std::vector<std::string>{"q_proj", "v_proj"}));
  EXPECT_EQ(target("'.*[.](q|v)_proj'").regex, ".*[.](q|v)_proj");
  EXPECT_TRUE(target("'.*[.](q|v)_proj'").names.empty());
}

TEST(Rules, NameWhatContradicts) {
  EXPECT_EQ(apply_to("train", "method: lora\nload_in_4bit: true").problems,
            "c:1:1: method: only qlora loads the base in 4 bits; load_in_4bit: true contradicts it");
  EXPECT_EQ(apply_to("train", "load_in_4bit: false").problems,
            "method: qlora loads the base in 4 bits; load_in_4bit: false contradicts it (method: lora?)");
  EXPECT_EQ(apply_to("eval", "method: qlora\nload_in_4bit: false").problems, "") << "method is no key of eval";
  EXPECT_EQ(apply_to("train", "packing: true").problems, "c:1:1: packing: needs max_length: rows are packed to it");
  EXPECT_EQ(apply_to("train", "eval_strategy: epoch").problems, "c:1:1: eval_strategy: needs eval_dataset or val_size");
  EXPECT_EQ(apply_to("train", "load_best_model_at_end: true").problems,
            "c:1:1: load_best_model_at_end: needs eval_strategy: steps or epoch");
  EXPECT_EQ(apply_to("train", "report_to: [tensorboard, none]").problems, "c:1:1: report_to: none stands alone");
  EXPECT_EQ(apply_to("train", "max_steps: 0").problems,
            "c:1:1: max_steps: 0 steps train nothing: give a number above 0, or -1 for the epochs");
  EXPECT_EQ(apply_to("eval", "require: spider:0.6").problems,
            "c:1:10: require: expected task.score:minimum, as in spider.execution:0.6, got \"spider:0.6\"");
  EXPECT_EQ(apply_to("train", "device: gpu").problems,
            "c:1:9: device: expected auto, cpu, cuda or cuda:N, got \"gpu\"");
}

TEST(Sources, WhatIsNotBuiltIsNamed) {
  EXPECT_EQ(apply_to("train", "dataset: x.parquet").problems,
            "c:1:10: dataset.path: reading parquet files is not built yet");
  EXPECT_EQ(apply_to("train", "dataset: tatsu-lab/alpaca\nmodel_name_or_path: Qwen/Qwen1.5-1.8B-Chat").problems, "");
}

template <class Job>
void expect_round_trip(const std::string& command, const std::string& yaml) {
  Job job, again;
  EXPECT_EQ(apply_to(command, yaml, job).problems, "");
  EXPECT_NE(to_json(job), to_json(Job{}));
  EXPECT_EQ(apply_to(command, to_yaml(job), again).problems, "");
  EXPECT_EQ(to_json(again), to_json(job));
}

TEST(Dump, LoadsBackToTheSame) {
  expect_round_trip<TrainJob>(
      "train",
      "dataset: [a.json, {path: b.jsonl, format: text, weight: 0.1, limit: 3}]\nlora_alpha: 7.5\n"
      "lora_target_modules: '.*(q|v)'\nsystem_prompt: \"a\\nb: #\"\nlearning_rate: 2e-4\n"
      "chat_template_kwargs: {enable_thinking: false}\neval_strategy: no\nseed: 7\n");
  expect_round_trip<EvalJob>("eval",
                             "adapter: [a, b]\nrequire: spider.execution:0.6\nstop: ['a,b', '\\n']\nlimit: 3\n");
  expect_round_trip<MergeJob>("merge", "adapter: [a=0.5, b]\nmerge_into: dequantized\ndtype: float32\n");
  expect_round_trip<PrepareJob>("prepare", "dataset: a.json\nmax_length: 5\n");
  expect_round_trip<ChatJob>("chat", "adapter: a\ntemperature: 0.7\n");
}

std::string config_text(const std::string& name) {
  std::ifstream stream(std::string(QLORA_SOURCE_DIR "/configs/") + name);
  return {std::istreambuf_iterator<char>(stream), {}};
}

// What each shipped config resolves to, as far as the run that it repeats is published.
TEST(Configs, HoldEverySettingOfThePublishedRuns) {
  const Json attention = {"q_proj", "k_proj", "v_proj", "o_proj"};
  const Json all = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"};
  const Json batches = {
      {"num_train_epochs", 3}, {"per_device_train_batch_size", 4}, {"gradient_accumulation_steps", 4}};
  const Json lora = {{"method", "qlora"}, {"lora_r", 16}, {"lora_alpha", 32}, {"lora_dropout", 0.05}};
  const Json cosine = {{"learning_rate", 2e-4}, {"lr_scheduler_type", "cosine"}};
  const std::map<std::string, std::vector<Json>> runs = {
      {"spider.yaml",
       {lora,
        cosine,
        {{"model_name_or_path", "Qwen/Qwen1.5-1.8B-Chat"},
         {"lora_target_modules", attention},
         {"dtype", "float16"},
         {"num_train_epochs", 5},
         {"per_device_train_batch_size", 8},
         {"gradient_accumulation_steps", 2},
         {"warmup_ratio", 0.05},
         {"weight_decay", 0.01},
         {"max_length", 512},
         {"prompt_style", "question"},
         {"chat_template", "chatml"}}}},
      {"heavydb_lfm2_2.6b.yaml",
       {lora,
        cosine,
        {{"model_name_or_path", "LiquidAI/LFM2-2.6B"},
         {"use_bnb_nested_quant", true},
         {"packing", true},
         {"optim", "paged_adamw_32bit"}}}},
      {"alpaca_llama3_8b.yaml",
       {lora,
        cosine,
        batches,
        {{"model_name_or_path", "meta-llama/Meta-Llama-3-8B"},
         {"lora_target_modules", all},
         {"use_bnb_nested_quant", true},
         {"dtype", "bfloat16"},
         {"optim", "paged_adamw_32bit"},
         {"warmup_ratio", 0.03},
         {"weight_decay", 0.01},
         {"max_length", 2048},
         {"packing", true},
         {"gradient_checkpointing", "true"},
         {"max_grad_norm", 0.3},
         {"chat_template", "alpaca"}}}},
      {"sft_llama3.1_8b.yaml",
       {lora,
        batches,
        {{"model_name_or_path", "meta-llama/Llama-3.1-8B"},
         {"lora_target_modules", attention},
         {"dtype", "bfloat16"},
         {"learning_rate", 2e-4}}}},
      {"sql_context_llama2_70b.yaml",
       {{{"model_name_or_path", "meta-llama/Llama-2-70b-hf"},
         {"method", "qlora"},
         {"learning_rate", 2e-5},
         {"prompt_style", "context"},
         {"max_steps", 300}}}},
  };
  for (const auto& [name, settings] : runs) {
    TrainJob job;
    apply_to("train", config_text(name), job);
    const Json resolved = to_json(job);
    for (const Json& part : settings) {
      for (const auto& [key, value] : part.items())
        EXPECT_EQ(resolved.value(key, Json()), value) << name << ": " << key;
    }
  }
  TrainJob spider;
  apply_to("train", config_text("spider.yaml"), spider);
  EXPECT_EQ(spider.data.dataset.at(0).limit, 3500);
  EXPECT_EQ(spider.data.eval_dataset.at(0).limit, 200);
}

// A config may ask for what is not built yet, but nothing in it is wrong.
TEST(Configs, NothingIsWrongInAnyCommand) {
  int count = 0;
  for (const auto& file : std::filesystem::directory_iterator(QLORA_SOURCE_DIR "/configs")) {
    for (const Command& command : commands()) {
      const Result result = apply_to(command.name, config_text(file.path().filename()));
      std::istringstream lines(result.problems);
      for (std::string line; std::getline(lines, line);) {
        EXPECT_TRUE(line.ends_with(" is not built yet")) << file.path() << " in " << command.name << ": " << line;
      }
      EXPECT_TRUE(result.notes.empty()) << file.path() << " uses a synonym";
      ++count;
    }
  }
  EXPECT_GE(count, 5 * 5);
}

TEST(Reference, ThePageIsWhatTheDeclarationsGive) {
  std::ifstream file(QLORA_SOURCE_DIR "/docs/reference.md");
  const std::string page{std::istreambuf_iterator<char>(file), {}};
  EXPECT_EQ(page, reference_page()) << "renew it: qlora --reference > docs/reference.md";
}

}  // namespace
}  // namespace qlora
