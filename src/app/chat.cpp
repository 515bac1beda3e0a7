// The use case `qlora chat`: lines from stdin are what is said, answers stream to stdout.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <iostream>

#include <fmt/format.h>

#include "qlora/app/adapter_runs.h"
#include "qlora/app/commands.h"
#include "qlora/app/output.h"
#include "qlora/core/error.h"
#include "qlora/core/log.h"
#include "qlora/data/row_encoder.h"
#include "qlora/generate/generator.h"
#include "qlora/text/chat_template.h"

namespace qlora {
namespace {

// An answer's text as its tokens come, up to the first stop text. What may be the beginning of one is held back.
class AnswerStream {
 public:
  AnswerStream(const Tokenizer& tokenizer, const std::vector<std::string>& stops, bool shown)
      : decoded_(tokenizer, /*skip_special_tokens=*/true), stops_(stops), shown_(shown) {
    for (const std::string& stop : stops_) longest_ = std::max(longest_, stop.size());
  }

  void push(std::int32_t id) { add(decoded_.push(id)); }
  bool stopped() const { return stopped_; }

  std::string finish() {
    add(decoded_.finish());
    show(text_.size());
    return text_;
  }

 private:
  void add(const std::string& piece) {
    if (stopped_) return;
    text_ += piece;
    for (const std::string& stop : stops_) {
      const std::size_t at = text_.find(stop);
      if (at == std::string::npos) continue;
      text_.resize(at);
      stopped_ = true;
    }
    const std::size_t held = stopped_ || longest_ == 0 ? 0 : longest_ - 1;
    if (text_.size() > held) show(text_.size() - held);
  }

  void show(std::size_t end) {
    if (end <= printed_) return;
    if (shown_) print_text(text_.substr(printed_, end - printed_));
    printed_ = end;
  }

  DecodeStream decoded_;
  const std::vector<std::string>& stops_;
  bool shown_;
  std::size_t longest_ = 0;
  std::string text_;
  std::size_t printed_ = 0;
  bool stopped_ = false;
};

class Chat {
 public:
  explicit Chat(const ChatJob& job)
      : job_(job),
        model_(model_folder_of(job.model)),
        encoder_(model_, with_adapters_template(job.data, job.adapter), {}),
        interactive_(::isatty(STDIN_FILENO) == 1) {
    if (encoder_.chat_template() == nullptr)
      choose_chat_template(job.data.chat_template, model_);  // says what there is
    voices_.push_back({"base", nullptr, nullptr});
    for (const std::string& folder : job.adapter)
      adapters_.push_back(load_lora_adapter(folder, read_model_config(model_)));
    const BaseSettings settings = settings_for(0);
    for (std::size_t i = 0; i < adapters_.size(); ++i) {
      voices_.push_back({name_of(job.adapter[i], names()), &adapters_[i], nullptr});
      if (same_base(settings, settings_for(i))) continue;
      throw UsageError(fmt::format(
          "adapter: {} was trained over a base {}, {} over one {}; set load_in_4bit (or use_bnb_nested_quant: false) "
          "for both",
          job.adapter[0], words_for(settings), job.adapter[i], words_for(settings_for(i))));
    }
    voice_ = adapters_.empty() ? 0 : 1;
    if (job.common.dry_run) return;
    fetch_weights(job.model, model_);
    base_ = std::make_unique<BaseModel>(model_, settings);
    for (std::size_t i = 0; i < adapters_.size(); ++i)
      warn_of_another_base(adapters_[i], job.adapter[i], base_->folder());
  }

  int run() {
    if (job_.common.dry_run) return print_plan();
    decoder();  // the weights, before the first word
    log_info("talking to {}; /adapter NAME swaps ({}), /reset begins anew, Ctrl-D ends", voices_[voice_].name,
             fmt::join(names(), ", "));
    reset();
    for (std::string line; read(line);) {
      if (line.starts_with('/')) {
        obey(line);
      } else if (line.find_first_not_of(" \t\r") != std::string::npos) {
        say(line);
      }
    }
    return static_cast<int>(ExitCode::kOk);
  }

 private:
  // The base, or an adapter over it.
  struct Voice {
    std::string name;
    const LoraAdapter* adapter;
    std::unique_ptr<Decoder> decoder;  // once it has spoken
  };

  BaseSettings settings_for(std::size_t adapter) const {
    return settings_of(job_.common, job_.model, read_model_config(model_),
                       adapters_.empty() ? nullptr : &adapters_[adapter]);
  }

  std::vector<std::string> names() const {
    std::vector<std::string> all;
    for (const Voice& voice : voices_) all.push_back(voice.name);
    return all;
  }

  int print_plan() const {
    print_text(job_.common.json ? json_line({{"runs", names()}}) : fmt::format("{}\n", fmt::join(names(), ", ")));
    return static_cast<int>(ExitCode::kOk);
  }

  bool read(std::string& line) const {
    if (interactive_) std::fputs("> ", stderr);
    const bool more = static_cast<bool>(std::getline(std::cin, line));
    if (!more && interactive_) std::fputs("\n", stderr);
    return more;
  }

  Decoder& decoder() {
    Voice& voice = voices_[voice_];
    if (voice.decoder == nullptr)
      voice.decoder = voice.adapter != nullptr ? base_->decoder(*voice.adapter, 0) : base_->decoder(TrainingPlan{});
    return *voice.decoder;
  }

  void reset() {
    messages_ = Json::array();
    if (const auto& prompt = job_.data.system_prompt; prompt && !prompt->empty())
      messages_.push_back({{"role", "system"}, {"content", *prompt}});
  }

  void complain(const std::string& problem) const {
    if (!interactive_) throw UsageError(problem);
    log_error("{}", problem);
  }

  void obey(const std::string& line) {
    const std::size_t space = line.find_first_of(" \t\r");
    const std::string command = line.substr(0, space);
    const std::size_t begin = space == std::string::npos ? space : line.find_first_not_of(" \t\r", space);
    const std::string argument =
        begin == std::string::npos ? "" : line.substr(begin, line.find_last_not_of(" \t\r") + 1 - begin);
    if (command == "/reset" && argument.empty()) return reset();
    if (command != "/adapter") return complain(fmt::format("'{}': there are /adapter NAME and /reset", line));
    const auto all = names();
    const auto found = std::find(all.begin(), all.end(), argument);
    if (found == all.end())
      return complain(fmt::format("/adapter: '{}' is none of {}", argument, fmt::join(all, ", ")));
    voice_ = static_cast<std::size_t>(found - all.begin());
    decoder();
    log_info("talking to {}", argument);
  }

  void say(const std::string& line) {
    messages_.push_back({{"role", "user"}, {"content", line}});
    try {
      const std::string answer = generate();
      messages_.push_back({{"role", "assistant"}, {"content", answer}});
      if (job_.common.json) {
        const Json turn = {{"adapter", voices_[voice_].name}, {"message", line}, {"answer", answer}};
        print_text(json_line(turn));
      } else {
        print_text("\n");
      }
    } catch (const DataError& error) {  // too long, or not of the template's taste
      if (!interactive_) throw;
      messages_.erase(messages_.size() - 1);
      log_error("{}; /reset begins anew", error.what());
    }
  }

  std::string generate() {
    Example example;
    example.place = "the conversation";
    example.messages = messages_;
    const std::vector<std::int32_t> ids = encoder_.encode_prompt(encoder_.render(example));
    AnswerStream stream(encoder_.tokenizer(), job_.generate.stop, !job_.common.json);
    Generator::Settings settings;
    settings.options = job_.generate;
    const std::int64_t room = decoder().config().longest_row() - static_cast<std::int64_t>(ids.size());
    settings.options.max_new_tokens = std::clamp<std::int64_t>(room, 1, settings.options.max_new_tokens);
    settings.stop_ids = encoder_.stop_ids();
    settings.seed = static_cast<std::uint64_t>(job_.common.seed) + turns_++;
    settings.on_token = [&](std::size_t, std::int32_t id) { stream.push(id); };
    settings.stops = [&](std::span<const std::int32_t>) { return stream.stopped(); };
    Generator(decoder(), settings).generate({ids});
    return stream.finish();
  }

  const ChatJob& job_;
  std::filesystem::path model_;
  RowEncoder encoder_;
  bool interactive_;
  std::vector<LoraAdapter> adapters_;
  std::vector<Voice> voices_;
  std::size_t voice_ = 0;
  std::unique_ptr<BaseModel> base_;
  Json messages_;
  std::uint64_t turns_ = 0;
};

}  // namespace

int run_chat(const ChatJob& job) {
  return Chat(job).run();
}

}  // namespace qlora
