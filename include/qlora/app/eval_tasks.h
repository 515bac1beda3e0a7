// The tasks of an evaluation: what they ask, and the scores of what a decoder answers.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "qlora/app/eval_mmlu.h"
#include "qlora/app/options.h"
#include "qlora/app/partial_results.h"
#include "qlora/data/prepare.h"
#include "qlora/data/row_encoder.h"
#include "qlora/eval/results.h"
#include "qlora/eval/spider_task.h"
#include "qlora/generate/generator.h"
#include "qlora/models/decoder.h"

namespace qlora {

class EvalTasks {
 public:
  // Reads and renders what job.eval.tasks ask: of `rows` those that offset and limit leave; null where no task is over
  // rows. `model`: its folder. `encoder` and `rows` must outlive it. Make it before the weights are loaded: the SQL
  // sandbox forks its workers here (but for a dry run). Throws DataError for a row without a prompt, or whose prompt
  // leaves no room for an answer.
  EvalTasks(const EvalJob& job, const std::filesystem::path& model, const RowEncoder& encoder, const Dataset* rows);

  // Rows, or questions of the task mmlu where it is the only one.
  std::size_t size() const;
  // Whether the task `generate` has anything to score.
  bool rows_carry_answers() const;
  // What run() takes on the device at most beside the decoder.
  std::int64_t bytes(const Decoder& decoder) const;
  // Tokens that run() passes through the decoder at most.
  std::int64_t tokens() const;
  // SHA-256 of what the model is asked.
  std::string fingerprint() const;

  // The results of every task, in the order of job.eval.tasks. What `partial` knows of the run `name` is taken from
  // there, and what is finished goes there. An answer that is sampled depends on its number among the prompts of one
  // call: such answers are taken from there all or none.
  std::vector<TaskResult> run(const std::string& name, Decoder& decoder, PartialResults& partial);

  // Of what was generated so far; unset: nothing was.
  std::optional<double> output_tokens_per_second() const;

 private:
  // A row that an answer is generated for.
  struct Prompt {
    Json id;
    std::string text;
    std::string gold;  // the last answer, where the row has one
    std::vector<std::int32_t> ids;
  };

  bool generates() const;
  std::int64_t perplexity_batch() const { return job_.generate.batch_size.value_or(8); }  // rows
  std::vector<Prompt> render_prompts(const Dataset& rows, std::int64_t longest_row) const;
  std::vector<std::string> generate(const std::string& name, Decoder& decoder, PartialResults& partial);
  Generator::Settings generator_settings() const;
  std::string text_of(const Answer& answer) const;
  std::optional<std::size_t> stop_position(const std::string& text) const;
  TaskResult generated(const std::vector<std::string>& answers) const;
  TaskResult perplexity(const std::string& name, Decoder& decoder, PartialResults& partial) const;

  EvalJob job_;
  const RowEncoder& encoder_;
  RowRange part_{0, 0};
  std::vector<SpiderQuestion> questions_;
  std::unique_ptr<SpiderScorer> scorer_;
  std::optional<MmluEvaluation> mmlu_;
  std::vector<Prompt> prompts_;
  EncodedSet perplexity_;
  std::vector<std::size_t> row_of_window_;  // for each of perplexity_.rows; empty: they are whole rows
  std::int64_t new_tokens_ = 0;
  double generation_seconds_ = 0.0;
};

}  // namespace qlora
