#include "qlora/app/eval_mmlu.h"

#include "qlora/core/progress.h"
#include "qlora/core/signal.h"

namespace qlora {
namespace {

std::vector<ChoiceQuestion> encode(const MmluSubject& subject, const Tokenizer& tokenizer) {
  const std::string introduction = subject.introduction();
  std::vector<std::string> texts;
  for (const MmluQuestion& question : subject.questions) {
    const std::string context = introduction + question.text();
    texts.push_back(context);
    for (const char* letter : kMmluLetters) texts.push_back(context + " " + letter);
  }
  const auto encoded =
      tokenizer.encode_batch(std::vector<std::string_view>(texts.begin(), texts.end()), /*add_special_tokens=*/true);
  std::vector<ChoiceQuestion> questions;
  for (size_t i = 0; i < encoded.size(); i += kMmluLetters.size() + 1) {
    ChoiceQuestion question{encoded[i].ids, {}};
    const auto length = static_cast<std::ptrdiff_t>(question.context.size());
    for (size_t c = 1; c <= kMmluLetters.size(); ++c) {
      const auto& whole = encoded[i + c].ids;
      question.choices.emplace_back(whole.begin() + std::min(length, std::ssize(whole)), whole.end());
    }
    questions.push_back(std::move(question));
  }
  return questions;
}

}  // namespace

MmluEvaluation::MmluEvaluation(const EvalJob& job, const Tokenizer& tokenizer)
    : subjects_(read_mmlu(job.eval.mmlu_dir, job.eval.mmlu_limit)), batch_size_(job.generate.batch_size) {
  for (const MmluSubject& subject : subjects_) {
    questions_.push_back(encode(subject, tokenizer));
    size_ += subject.questions.size();
  }
}

TaskResult MmluEvaluation::run(const std::string& name, Decoder& decoder) const {
  ChoiceScorer scorer(decoder, batch_size_);
  Progress progress(name, static_cast<std::int64_t>(size_));
  std::vector<std::vector<double>> log_likelihoods;
  for (const auto& questions : questions_) {
    const auto before = static_cast<std::int64_t>(log_likelihoods.size());
    const auto scores = scorer.score(questions, [&](std::int64_t done) {
      throw_if_stopped();
      progress.update(before + done);
    });
    log_likelihoods.insert(log_likelihoods.end(), scores.begin(), scores.end());
  }
  return score_mmlu(subjects_, log_likelihoods);
}

}  // namespace qlora
