#include "qlora/app/eval_mmlu.h"

#include <algorithm>
#include <span>

#include <fmt/format.h>

#include "qlora/core/progress.h"
#include "qlora/core/signal.h"
#include "qlora/generate/memory.h"

namespace qlora {
namespace {

constexpr const char* kTask = "mmlu";

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

// Whether `partial` has all `count` questions of a subject from `first` on; then they are appended.
bool take_known(const std::string& run, std::size_t first, std::size_t count, const PartialResults& partial,
                std::vector<std::vector<double>>& log_likelihoods) {
  std::vector<std::vector<double>> known;
  for (std::size_t i = first; i < first + count; ++i) {
    const Json* row = partial.find(run, kTask, i);
    if (row == nullptr) return false;
    known.push_back(row->at("log_likelihoods").get<std::vector<double>>());
  }
  log_likelihoods.insert(log_likelihoods.end(), known.begin(), known.end());
  return true;
}

}  // namespace

MmluEvaluation::MmluEvaluation(const EvalJob& job, const Tokenizer& tokenizer)
    : subjects_(read_mmlu(job.eval.mmlu_dir, job.eval.mmlu_limit)), batch_size_(job.generate.batch_size) {
  for (const MmluSubject& subject : subjects_) {
    questions_.push_back(encode(subject, tokenizer));
    size_ += subject.questions.size();
  }
}

void MmluEvaluation::add_to(Sha256& hash) const {
  for (const auto& questions : questions_) {
    for (const ChoiceQuestion& question : questions) {
      const std::span<const std::int32_t> ids = question.context;
      hash.update(fmt::format("{}:", ids.size()));
      hash.update({reinterpret_cast<const char*>(ids.data()), ids.size_bytes()});
    }
  }
}

int64_t MmluEvaluation::bytes(const Decoder& decoder) const {
  int64_t bytes = 0;
  for (const auto& questions : questions_) {
    int64_t longest = 0;
    for (const ChoiceQuestion& question : questions) longest = std::max(longest, std::ssize(question.context));
    bytes = std::max(bytes, choice_scorer_bytes(decoder, batch_size_, std::ssize(questions), longest));
  }
  return bytes;
}

int64_t MmluEvaluation::tokens() const {
  int64_t count = 0;
  for (const auto& questions : questions_) {
    for (const ChoiceQuestion& question : questions) {
      count += std::ssize(question.context);
      for (const auto& choice : question.choices) count += std::ssize(choice);
    }
  }
  return count;
}

TaskResult MmluEvaluation::run(const std::string& name, Decoder& decoder, PartialResults& partial) const {
  ChoiceScorer scorer(decoder, batch_size_);
  Progress progress(name, static_cast<std::int64_t>(size_));
  std::vector<std::vector<double>> log_likelihoods;
  for (const auto& questions : questions_) {
    const std::size_t first = log_likelihoods.size();
    if (take_known(name, first, questions.size(), partial, log_likelihoods)) continue;
    const auto scores = scorer.score(questions, [&](std::int64_t done) {
      throw_if_stopped();
      progress.update(static_cast<std::int64_t>(first) + done);
    });
    for (std::size_t i = 0; i < scores.size(); ++i)
      partial.add(name, kTask, first + i, {{"log_likelihoods", scores[i]}});
    log_likelihoods.insert(log_likelihoods.end(), scores.begin(), scores.end());
  }
  return score_mmlu(subjects_, log_likelihoods);
}

}  // namespace qlora
