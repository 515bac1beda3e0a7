// The command table, and how a command's arguments become its options.
#include "qlora/cli/commands.h"

#include <cstdio>

#include "qlora/app/commands.h"
#include "qlora/core/error.h"
#include "qlora/core/flags.h"
#include "qlora/core/log.h"
#include "qlora/core/yaml.h"

namespace qlora {
namespace {

template <class Job>
Command command(const std::string& name, const std::string& summary, int (*use_case)(const Job&)) {
  const auto run = [name, summary, use_case](const std::vector<std::string>& arguments) {
    Job job;
    Problems problems;
    std::vector<std::string> notes;
    auto given = read_options(name, arguments, &job, problems, notes);
    if (!given) {
      std::fputs(help_text({{name, &keys_of<Job>()}, summary}).c_str(), stdout);
      return 0;
    }
    problems.raise();
    job.common.given = std::move(*given);
    set_up_log(job.common.log_level, job.common.quiet);
    for (const std::string& note : notes) log_info("note: {}", note);
    return use_case(job);
  };
  return {name, summary, &keys_of<Job>(), run};
}

}  // namespace

const std::vector<Command>& commands() {
  static const std::vector<Command> table = {
      command("prepare", "turn data into tokens and labels, and show what is trained", run_prepare),
      command("train", "fine-tune a model with QLoRA, LoRA or whole", run_train),
      command("eval", "score a model, with adapters and without", run_eval),
      command("merge", "put adapters into the weights of a model", run_merge),
      command("chat", "try a model in the terminal", run_chat),
  };
  return table;
}

std::optional<std::set<std::string>> read_options(const std::string& name, const std::vector<std::string>& arguments,
                                                  void* job, Problems& problems, std::vector<std::string>& notes) {
  CommandKeys own{name, nullptr};
  std::vector<CommandKeys> others;
  for (const Command& command : commands()) {
    if (command.name == name) {
      own.keys = command.keys;
    } else {
      others.push_back({command.name, command.keys});
    }
  }
  Flags flags = parse_flags(arguments, own, others, problems);
  if (flags.help) return std::nullopt;
  Settings settings{{}, std::move(flags.settings)};
  if (!flags.config.empty()) settings.file = settings_of(read_yaml(flags.config), problems);
  return apply(settings, own, others, job, problems, notes);
}

std::string reference_page() {
  std::vector<CommandText> texts;
  for (const Command& command : commands()) texts.push_back({{command.name, command.keys}, command.summary});
  return reference_page(texts);
}

}  // namespace qlora
