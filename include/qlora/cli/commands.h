// The command table: what the first word of the command line may be.
#pragma once

#include <functional>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "qlora/core/describe.h"

namespace qlora {

struct Command {
  std::string name;
  std::string summary;
  const KeySet* keys;
  // Reads the arguments behind the command's name, runs it, returns the exit code. Throws Error.
  std::function<int(const std::vector<std::string>& arguments)> run;
};

const std::vector<Command>& commands();

// Reads the options of the command `name` as its run would: the config file, then flags, into the job whose keys the
// command has. Problems are collected, not raised; `notes` say which synonyms were read as what. Returns the names of
// the keys that were set; nullopt where --help was asked for: then nothing else was done.
std::optional<std::set<std::string>> read_options(const std::string& name, const std::vector<std::string>& arguments,
                                                  void* job, Problems& problems, std::vector<std::string>& notes);

// docs/reference.md.
std::string reference_page();

// The whole program: finds the command, runs it, prints an Error on stderr, returns the exit code.
int run_program(const std::vector<std::string>& arguments);

}  // namespace qlora
