// The program around the commands: help, version, errors as exit codes.
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>

#include <spdlog/fmt/fmt.h>

#include "qlora/app/failure.h"
#include "qlora/app/output.h"
#include "qlora/app/version.h"
#include "qlora/cli/commands.h"
#include "qlora/core/error.h"
#include "qlora/core/log.h"
#include "qlora/core/signal.h"

namespace qlora {
namespace {

std::string program_help() {
  std::string text =
      "qlora fine-tunes language models with QLoRA.\n\n"
      "usage: qlora COMMAND [--config FILE.yaml] [--key value | key=value ...]\n\n";
  for (const Command& command : commands()) text += fmt::format("  {:<10}{}\n", command.name, command.summary);
  return text +
         "\n  qlora COMMAND --help    the keys of a command\n"
         "  qlora --reference       the keys of all commands, as Markdown\n"
         "  qlora --version         versions of the program and of what it runs on\n";
}

std::string unknown_command(const std::string& name) {
  std::vector<std::string> names;
  for (const Command& command : commands()) names.push_back(command.name);
  const std::string near = nearest(name, names);
  return fmt::format("unknown command \"{}\"; {}", name,
                     near.empty() ? "known are " + joined(names) : "did you mean " + near + "?");
}

// One line of stderr for each line of the message.
int report(const std::string& who, ExitCode code, const std::string& message) {
  const bool colour = stderr_takes_colour();
  const std::string prefix = who + (colour ? ": \033[31merror:\033[0m " : ": error: ");
  for (size_t start = 0; start <= message.size();) {
    const size_t end = std::min(message.find('\n', start), message.size());
    std::fprintf(stderr, "%s%s\n", prefix.c_str(), message.substr(start, end - start).c_str());
    start = end + 1;
  }
  return static_cast<int>(code);
}

int run_command(const std::string& name, const std::vector<std::string>& arguments) {
  for (const Command& command : commands()) {
    if (command.name == name) return command.run(arguments);
  }
  throw UsageError(unknown_command(name));
}

// What the program says of itself.
int describe(const std::string& flag) {
  if (flag == "--help" || flag == "-h" || flag == "help") {
    print_text(program_help());
  } else if (flag == "--version") {
    print_text(version_text());
  } else if (flag == "--reference") {
    print_text(reference_page());
  } else {
    throw UsageError("expected a command before " + flag + "; see qlora --help");
  }
  return 0;
}

}  // namespace

int run_program(const std::vector<std::string>& arguments) {
  const std::string name = arguments.empty() ? "--help" : arguments[0];
  const bool is_command = !name.starts_with("-") && name != "help";
  const std::string who = is_command ? "qlora " + name : "qlora";
  exit_on_signals();
  try {
    const int code = is_command ? run_command(name, {arguments.begin() + 1, arguments.end()}) : describe(name);
    if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
      throw Error(ExitCode::kRuntime, std::string("standard output cannot be written: ") + std::strerror(errno));
    }
    return code;
  } catch (const std::exception& exception) {
    const Error error = as_error(exception);
    return report(who, error.code(), error.what());
  }
}

}  // namespace qlora
