// The declarations of evaluation's keys.
#include "qlora/eval/options.h"

#include <spdlog/fmt/fmt.h>

#include "qlora/core/schema.h"

namespace qlora {

template <>
struct CustomForm<RequiredScore> {
  static constexpr bool kTakesList = false;
  static std::string type() { return "task.score:minimum, as in spider.execution:0.6"; }

  static bool read(const Value& value, RequiredScore& required) {
    const size_t dot = value.text.find('.'), colon = value.text.rfind(':');
    if (value.kind != Value::Kind::kScalar || dot == std::string::npos || colon == std::string::npos) return false;
    if (dot == 0 || dot + 1 >= colon) return false;
    required.task = value.text.substr(0, dot);
    required.score = value.text.substr(dot + 1, colon - dot - 1);
    return text_to(value.text.substr(colon + 1), required.minimum);
  }

  static Json json(const RequiredScore& required) {
    return fmt::format("{}.{}:{}", required.task, required.score, required.minimum);
  }
};

void declare(Schema<EvalOptions>& schema) {
  using E = EvalOptions;
  schema.key("adapter", &E::adapter, "An adapter's folder. May be given several times; all share one loaded base.")
      .synonyms({"adapters"});
  schema.key("tasks", &E::tasks, "What to score.").one_of({"spider", "perplexity", "mmlu", "generate"});
  schema.key("baseline", &E::baseline, "Score the bare base, too, and pair the results.");
  schema.key("limit", &E::limit, "Rows of eval_dataset, after `offset`.").at_least(1).synonyms({"max_samples"});
  schema.key("offset", &E::offset, "Rows of eval_dataset to skip.").at_least(0);
  schema
      .key("extract", &E::extract, "none: the raw answer counts; sql: the SQL in it. The other is reported beside it.")
      .choices({{"none", Extract::kNone}, {"sql", Extract::kSql}});
  schema.key("sql_timeout", &E::sql_timeout, "Seconds that a query may take.").above(0);
  schema.key("plug_value", &E::plug_value,
             "Execution: try the gold query's values in place of the predicted ones, too.");
  schema
      .key("predictions", &E::predictions,
           "Score this file, one SQL a line or a predictions.jsonl, without any model. May be given several times: the "
           "runs in all files are paired with the one called base, else with the first.")
      .no_commas();
  schema.key("gold", &E::gold, "The gold of `predictions`: lines SQL, tab, db_id.");
  schema.key("per_row", &E::per_row, "Write a line a row to this file (.tsv for spider, .jsonl for perplexity).");
  schema.key(
      "blind", &E::blind,
      "Write the answers of two runs to this CSV file for people to judge: side by side, in random order, without "
      "names; which is which goes to a .key.json beside it.");
  schema.key("ratings", &E::ratings,
             "Read the preferences (a, b, tie) in such a file back into the report: by itself, or with `tasks`.");
  schema.key("require", &E::require,
             "task.score:minimum, as in spider.execution:0.6; exit 7 where it is missed. May be given several times.");
  schema.key("mmlu_dir", &E::mmlu_dir, "The folder of MMLU: test/NAME_test.csv and dev/NAME_dev.csv.");
  schema.key("mmlu_limit", &E::mmlu_limit, "Questions of each subject.").at_least(1);
  schema
      .key(
          "stride", &E::stride,
          "Perplexity: a row longer than max_length is read in windows of that length which begin so many tokens after "
          "each other; each token counts once, as far as one stands before it. Unset: such a row is left out, or cut "
          "as `overflow` says.")
      .at_least(1);
}

}  // namespace qlora
