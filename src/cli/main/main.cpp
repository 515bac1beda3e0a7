// The program `qlora`: the only place that exits.
#include <string>
#include <vector>

#include "qlora/cli/commands.h"

int main(int count, char** arguments) {
  return qlora::run_program(std::vector<std::string>(arguments + 1, arguments + count));
}
