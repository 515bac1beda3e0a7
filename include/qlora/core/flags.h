// The command line of a command: --key value, --key=value, key=value, --set key=value; - and _ are equal.
#pragma once

#include <string>
#include <vector>

#include "qlora/core/config.h"

namespace qlora {

struct Flags {
  std::vector<Given> settings;
  std::string config;  // --config FILE; empty: none
  bool help = false;
};

// Splits `arguments` by what the keys of `command`, then of `others`, take: a truth value may stand alone, a list that
// is given several times grows. What cannot be understood goes to `problems`.
Flags parse_flags(const std::vector<std::string>& arguments, const CommandKeys& command,
                  const std::vector<CommandKeys>& others, Problems& problems);

}  // namespace qlora
