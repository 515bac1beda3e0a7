// The task `mmlu` of `qlora eval`: its questions as tokens, and a run over them.
#pragma once

#include <functional>
#include <vector>

#include "qlora/app/options.h"
#include "qlora/app/partial_results.h"
#include "qlora/core/hash.h"
#include "qlora/eval/mmlu_task.h"
#include "qlora/generate/choice_scorer.h"
#include "qlora/text/tokenizer.h"

namespace qlora {

class MmluEvaluation {
 public:
  // Reads job.eval.mmlu_dir and encodes it: the tokens of a choice are those that "{context} {letter}" has behind the
  // context's own, both with what the tokenizer adds by itself (BOS).
  MmluEvaluation(const EvalJob& job, const Tokenizer& tokenizer);

  // What run() takes on the device at most beside the decoder.
  int64_t bytes(const Decoder& decoder) const;
  size_t size() const { return size_; }  // questions
  int64_t tokens() const;                // of all questions with their choices
  void add_to(Sha256& hash) const;       // what is asked
  // A subject that `partial` knows whole is not asked again.
  TaskResult run(const std::string& name, Decoder& decoder, PartialResults& partial) const;

 private:
  std::vector<MmluSubject> subjects_;
  std::vector<std::vector<ChoiceQuestion>> questions_;  // by subject
  std::optional<int64_t> batch_size_;
  size_t size_ = 0;
};

}  // namespace qlora
