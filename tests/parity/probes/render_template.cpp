// Reads JSON lines {"template": TEXT, "variables": {...}} and answers each with {"text": ...} or {"error": ...}.
// --builtin NAME prints the source of a built-in template instead. With --time N the answer also carries "seconds" for
// one rendering: the best of batches of N.
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <iostream>
#include <map>
#include <string>

#include <nlohmann/json.hpp>

#include "qlora/core/error.h"
#include "qlora/text/chat_template.h"
#include "qlora/text/chat_template_builtin.h"

namespace {

using qlora::ChatTemplate;
using qlora::Json;

std::shared_ptr<const ChatTemplate> parsed(const std::string& source) {
  static std::map<std::string, std::shared_ptr<const ChatTemplate>> cache;
  auto& entry = cache[source];
  if (!entry) entry = ChatTemplate::parse(source, "template");
  return entry;
}

// For one rendering: the best of batches, so that other work on the machine counts little.
double seconds(const ChatTemplate& chat_template, const Json& variables, int repeats) {
  double best = 1e9;
  for (int batch = 0; batch < 10; ++batch) {
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < repeats; ++i) (void)chat_template.render(variables);
    const double taken = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    best = std::min(best, taken / repeats);
  }
  return best;
}

Json answer(const Json& request, int repeats) {
  Json reply;
  try {
    const auto chat_template = parsed(request.at("template").get<std::string>());
    const Json& variables = request.at("variables");
    reply["text"] = chat_template->render(variables);
    if (repeats > 1) reply["seconds"] = seconds(*chat_template, variables, repeats);
  } catch (const qlora::Error& error) {
    reply["error"] = error.what();
  }
  return reply;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 3 && std::string(argv[1]) == "--builtin") {
    std::cout << qlora::builtin_chat_template(argv[2]);
    return 0;
  }
  const int repeats = argc == 3 && std::string(argv[1]) == "--time" ? std::atoi(argv[2]) : 1;
  std::ios::sync_with_stdio(false);
  for (std::string line; std::getline(std::cin, line);) {
    std::cout << answer(Json::parse(line), repeats).dump() << '\n';
  }
  return 0;
}
