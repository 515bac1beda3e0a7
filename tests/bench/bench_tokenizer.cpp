// Encoding speed: real tokenizers over the texts of the test data, in one piece and line by line on all threads.
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>

#include "qlora/text/tokenizer.h"

namespace {

std::filesystem::path data_folder() {
  if (const char* named = std::getenv("QLORA_TEST_DATA")) return named;
  const char* home = std::getenv("HOME");
  return std::filesystem::path(home == nullptr ? "." : home) / ".cache/qlora/test-data";
}

std::string read_file(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

std::vector<std::string_view> lines_of(std::string_view text) {
  std::vector<std::string_view> lines;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size() - 1) + 1;
    lines.push_back(text.substr(at, end - at));
    at = end;
  }
  return lines;
}

void encode_text(benchmark::State& state, const std::string& tokenizer_file, const std::string& text_file, bool batch) {
  const std::filesystem::path file = data_folder() / "tokenizers" / tokenizer_file;
  const std::string text = read_file(data_folder() / "text" / text_file);
  if (!std::filesystem::exists(file) || text.empty()) return state.SkipWithError("no test data");
  const auto tokenizer = qlora::Tokenizer::load_file(file);
  const std::vector<std::string_view> lines = lines_of(text);
  for (auto _ : state) {
    if (batch) {
      benchmark::DoNotOptimize(tokenizer->encode_batch(lines, false));
    } else {
      benchmark::DoNotOptimize(tokenizer->encode(text, false));
    }
  }
  state.SetBytesProcessed(static_cast<std::int64_t>(text.size()) * static_cast<std::int64_t>(state.iterations()));
}

}  // namespace

int main(int argc, char** argv) {
  for (const std::string tokenizer :
       {"qwen2.5/tokenizer.json", "llama3.1_hf/tokenizer.json", "llama2_hf/tokenizer.json"}) {
    for (const std::string text : {"tinyshakespeare.txt", "wikitext2_train_5k.txt"}) {
      for (const bool batch : {false, true}) {
        const std::string name = tokenizer.substr(0, tokenizer.find('/')) + "/" + text + (batch ? "/lines" : "/whole");
        benchmark::RegisterBenchmark(name.c_str(), encode_text, tokenizer, text, batch)
            ->Unit(benchmark::kMillisecond)
            ->UseRealTime();
      }
    }
  }
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
