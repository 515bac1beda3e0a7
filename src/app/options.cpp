// The declarations of what every command has and of merge's keys; the commands as sums of their parts.
#include "qlora/app/options.h"

#include <algorithm>

#include <spdlog/fmt/fmt.h>

#include "qlora/core/schema.h"
#include "qlora/eval/task_scores.h"

namespace qlora {
namespace {

bool is_device(const std::string& text) {
  int64_t index = -1;
  if (text == "auto" || text == "cpu" || text == "cuda") return true;
  return text.starts_with("cuda:") && text_to(text.substr(5), index) && index >= 0;
}

std::string unless(bool holds, const std::string& message) {
  return holds ? "" : message;
}

std::string missing_mmlu(const std::vector<std::string>& tasks, const EvalOptions& options) {
  const bool asked = std::find(tasks.begin(), tasks.end(), "mmlu") != tasks.end();
  return unless(!asked || !options.mmlu_dir.empty(),
                "missing: name the folder that holds test/NAME_test.csv and dev/NAME_dev.csv");
}

template <class Job>
void needs_model(Schema<Job>& schema) {
  schema.rule("model_name_or_path", [](const Job& job) {
    return unless(!job.model.model_name_or_path.empty(), "missing: name the model's folder");
  });
}

// The part of `dataset` that training leaves to evaluation.
bool splits_off_rows(const DataOptions& data) {
  return !data.dataset.empty() && data.val_size > 0;
}

template <class Job>
void evaluates_one_set(Schema<Job>& schema) {
  schema.rule("val_size", [](const Job& job) {
    return unless(job.data.val_size == 0 || job.data.eval_dataset.empty(),
                  "contradicts eval_dataset: give one of them");
  });
}

template <class Job>
void needs_output(Schema<Job>& schema) {
  schema.rule("output_dir", [](const Job& job) {
    return unless(!job.common.output_dir.empty() || job.common.dry_run, "missing: name the folder to write to");
  });
}

}  // namespace

// A path, and after a last = its weight.
template <>
struct CustomForm<WeightedAdapter> {
  static constexpr bool kTakesList = false;
  static std::string type() { return "PATH or PATH=WEIGHT"; }

  static bool read(const Value& value, WeightedAdapter& adapter) {
    if (value.kind != Value::Kind::kScalar) return false;
    const size_t equals = value.text.rfind('=');
    const bool weighted = equals != std::string::npos && text_to(value.text.substr(equals + 1), adapter.weight);
    if (!weighted) adapter.weight = 1.0;
    adapter.path = weighted ? value.text.substr(0, equals) : value.text;
    return !adapter.path.empty();
  }

  static Json json(const WeightedAdapter& adapter) {
    return adapter.weight == 1.0 ? adapter.path : fmt::format("{}={}", adapter.path, adapter.weight);
  }
};

void declare(Schema<CommonOptions>& schema) {
  using C = CommonOptions;
  schema.key("output_dir", &C::output_dir, "The folder to write to.");
  schema.key("device", &C::device, "auto (cuda if there is one), cpu, cuda, or cuda:N.")
      .form("auto, cpu, cuda or cuda:N", is_device);
  schema.key("seed", &C::seed, "All that is random follows from it.").at_least(0);
  schema.key("log_level", &C::log_level, "What is worth a line on stderr.")
      .choices({{"debug", LogLevel::kDebug},
                {"info", LogLevel::kInfo},
                {"warning", LogLevel::kWarning},
                {"error", LogLevel::kError}})
      .transient();
  schema.key("quiet", &C::quiet, "Only warnings and errors on stderr, and no progress.").transient();
  schema.key("json", &C::json, "The result as one JSON object, alone on stdout.").transient();
  schema.key("dry_run", &C::dry_run, "Check all that can be checked without the weights, and print the plan.")
      .transient();
}

void declare(Schema<MergeOptions>& schema) {
  using M = MergeOptions;
  schema.key("adapter", &M::adapter, "An adapter's folder, PATH or PATH=WEIGHT. May be given several times.")
      .synonyms({"adapters"});
  schema.key("format", &M::format, "What is written: a Hugging Face folder, a GGUF file, or the adapter as GGUF.")
      .choices({{"hf", MergeFormat::kHf}, {"gguf", MergeFormat::kGguf}, {"gguf-lora", MergeFormat::kGgufLora}})
      .not_built_yet({"gguf", "gguf-lora"});
  schema.key("dtype", &M::dtype, "The type of the merged weights. auto: the base's own.")
      .choices({{"auto", MergeDtype::kAuto},
                {"bfloat16", MergeDtype::kBfloat16},
                {"float16", MergeDtype::kFloat16},
                {"float32", MergeDtype::kFloat32}})
      .spelt({{"bf16", "bfloat16"}, {"fp16", "float16"}, {"fp32", "float32"}});
  schema
      .key("merge_into", &M::merge_into,
           "The base's own weights, or those that training saw: quantized to NF4 and dequantized.")
      .choices({{"original", MergeBase::kOriginal}, {"dequantized", MergeBase::kDequantized}});
  schema
      .key("quantize", &M::quantize,
           "Quantize what is written: the linears, in NF4 as bitsandbytes stores it (with use_bnb_nested_quant).")
      .choices({{"none", MergeQuantize::kNone},
                {"q8_0", MergeQuantize::kQ8_0},
                {"q4_k_m", MergeQuantize::kQ4KM},
                {"nf4", MergeQuantize::kNf4}})
      .not_built_yet({"q8_0", "q4_k_m"});
  schema.rule("adapter", [](const M& m) { return unless(!m.adapter.empty(), "missing: name an adapter's folder"); });
}

void declare(Schema<PrepareJob>& schema) {
  using J = PrepareJob;
  schema
      .key("preview", &J::preview,
           "Write nothing, and show the first N rows: text, prompt, tokens, and where loss is taken.")
      .at_least(1)
      .transient();
  schema.group("Common", &J::common);
  schema.group("Model", &J::model, {.only = {"model_name_or_path", "model_revision"}});
  schema.group("Data", &J::data, {.without = {"prepared_dir"}});
  needs_model(schema);
  evaluates_one_set(schema);
  schema.rule("dataset",
              [](const J& job) { return unless(!job.data.dataset.empty(), "missing: name a file or folder of rows"); });
  schema.rule("output_dir", [](const J& job) {
    return unless(job.preview || job.common.dry_run || !job.common.output_dir.empty(),
                  "missing: name the folder to write to");
  });
}

void declare(Schema<TrainJob>& schema) {
  using J = TrainJob;
  schema.group("Common", &J::common);
  schema.group("Model", &J::model);
  schema.group("Data", &J::data);
  schema.group("Adapter", &J::adapter);
  schema.group("Training", &J::train);
  schema.group("Generation", &J::generate, {.without = {"batch_size"}});
  schema.group("Evaluation", &J::eval, {.only = {"extract", "sql_timeout", "plug_value", "mmlu_dir", "mmlu_limit"}});
  needs_model(schema);
  needs_output(schema);
  evaluates_one_set(schema);
  schema.rule("dataset", [](const J& job) {
    const bool given = !job.data.dataset.empty() || !job.data.prepared_dir.empty();
    return unless(given, "missing: name a file or folder of rows, or a prepared_dir");
  });
  schema.rule("eval_strategy", [](const J& job) {
    const bool has_rows = !job.data.eval_dataset.empty() || job.data.val_size > 0 || !job.data.prepared_dir.empty();
    return unless(has_rows || job.train.eval_strategy == Strategy::kNo, "needs eval_dataset or val_size");
  });
  schema.rule("eval_tasks", [](const J& job) {
    const bool has_rows = job.data.prepared_dir.empty() || !job.data.eval_dataset.empty();
    return unless(has_rows || !needs_rows(job.train.eval_tasks),
                  "a prepared set holds tokens alone: name the eval_dataset, too");
  });
  schema.rule("mmlu_dir", [](const J& job) { return missing_mmlu(job.train.eval_tasks, job.eval); });
  schema.rule("metric_for_best_model", [](const J& job) {
    const std::string& metric = job.train.metric_for_best_model;
    if (metric == "eval_loss" || metric == "loss" || task_score_of(metric, job.train.eval_tasks)) return std::string();
    std::string known = "eval_loss";
    for (const std::string& task : job.train.eval_tasks) {
      for (const std::string& score : score_names(task)) known += ", " + evaluation_key({task, score});
    }
    return fmt::format("an evaluation gives no '{}'; with these eval_tasks it gives {}", metric, known);
  });
}

void declare(Schema<EvalJob>& schema) {
  using J = EvalJob;
  schema.group("Common", &J::common);
  schema.group("Model", &J::model, {.without = {"method"}});
  schema.group("Data", &J::data, {.without = {"prepared_dir", "shuffle", "packing"}});
  schema.group("Generation", &J::generate);
  schema.group("Evaluation", &J::eval);
  schema.rule("tasks", [](const J& job) {
    return unless(!job.eval.tasks.empty() || !job.eval.ratings.empty(),
                  "missing: name spider, perplexity, mmlu or generate");
  });
  schema.rule("model_name_or_path", [](const J& job) {
    const bool has_answers =
        !job.model.model_name_or_path.empty() || !job.eval.predictions.empty() || job.eval.tasks.empty();
    return unless(has_answers, "missing: name the model's folder, or a file of predictions");
  });
  schema.rule("eval_dataset", [](const J& job) {
    const bool has_rows = !job.data.eval_dataset.empty() || splits_off_rows(job.data) || !job.eval.gold.empty() ||
                          !job.eval.predictions.empty();
    return unless(has_rows || !needs_rows(job.eval.tasks),
                  "missing: name a file or folder of rows, or the dataset and val_size that training had");
  });
  schema.rule("mmlu_dir", [](const J& job) { return missing_mmlu(job.eval.tasks, job.eval); });
}

void declare(Schema<MergeJob>& schema) {
  using J = MergeJob;
  schema.group("Common", &J::common);
  schema.group("Model", &J::model,
               {.only = {"model_name_or_path", "model_revision", "bnb_4bit_quant_type", "use_bnb_nested_quant"}});
  schema.group("Merging", &J::merge);
  needs_model(schema);
  needs_output(schema);
}

void declare(Schema<ChatJob>& schema) {
  using J = ChatJob;
  schema.key("adapter", &J::adapter, "An adapter's folder. May be given several times; /adapter NAME swaps.")
      .synonyms({"adapters"});
  schema.group("Common", &J::common, {.without = {"output_dir"}});
  schema.group("Model", &J::model, {.without = {"method"}});
  schema.group("Data", &J::data, {.only = {"chat_template", "chat_template_kwargs", "system_prompt"}});
  schema.group("Generation", &J::generate, {.without = {"batch_size"}});
  needs_model(schema);
}

}  // namespace qlora
