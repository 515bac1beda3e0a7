// Rendering a ten-message conversation with each built-in template; parsing a template.
#include <benchmark/benchmark.h>
#include <nlohmann/json.hpp>

#include "qlora/text/chat_template.h"

namespace {

qlora::Json conversation() {
  qlora::Json messages = qlora::Json::array();
  messages.push_back({{"role", "system"}, {"content", "You answer questions about databases."}});
  for (int i = 0; i < 5; ++i) {
    messages.push_back({{"role", "user"}, {"content", "How many singers are there in each stadium?"}});
    messages.push_back({{"role", "assistant"}, {"content", "SELECT count(*) FROM singer GROUP BY stadium_id"}});
  }
  return {{"messages", messages}, {"add_generation_prompt", true}, {"bos_token", "<s>"}, {"eos_token", "</s>"}};
}

void render(benchmark::State& state, const std::string& name) {
  const auto chat_template = qlora::choose_chat_template(name, ".");
  const qlora::Json variables = conversation();
  std::int64_t bytes = 0;
  for (auto _ : state) bytes += static_cast<std::int64_t>(chat_template->render(variables).size());
  state.SetBytesProcessed(bytes);
}
BENCHMARK_CAPTURE(render, chatml, "chatml");
BENCHMARK_CAPTURE(render, llama3, "llama3");
BENCHMARK_CAPTURE(render, alpaca, "alpaca");

void parse(benchmark::State& state) {
  const std::string source = qlora::choose_chat_template("alpaca", ".")->source();
  for (auto _ : state) benchmark::DoNotOptimize(qlora::ChatTemplate::parse(source, "alpaca"));
}
BENCHMARK(parse);

}  // namespace

BENCHMARK_MAIN();
