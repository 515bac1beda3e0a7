// Encodes and decodes length-prefixed texts from standard input, for tokenizers_test.py.
// tokenize FILE: reads little-endian u32 lengths, each with its text; writes per text u32 count, i32 ids, u32 begins,
// u32 ends, then the decoded texts (special tokens kept, then skipped), each u32 length and bytes.
// tokenize FILE --time TEXT_FILE...: prints seconds to encode the files, in one piece each and line by line.
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>

#include "qlora/core/error.h"
#include "qlora/core/parallel.h"
#include "qlora/text/tokenizer.h"

namespace {

void put(std::string& out, std::uint32_t value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

void put_text(std::string& out, const std::string& text) {
  put(out, static_cast<std::uint32_t>(text.size()));
  out += text;
}

std::vector<std::string> read_texts(std::istream& in) {
  std::vector<std::string> texts;
  std::uint32_t length = 0;
  while (in.read(reinterpret_cast<char*>(&length), sizeof(length))) {
    std::string text(length, '\0');
    in.read(text.data(), length);
    texts.push_back(std::move(text));
  }
  return texts;
}

void answer(const qlora::Tokenizer& tokenizer, const std::string& text, std::string& out) {
  const qlora::Encoding encoding = tokenizer.encode(text, true);
  put(out, static_cast<std::uint32_t>(encoding.ids.size()));
  for (const std::int32_t id : encoding.ids) put(out, static_cast<std::uint32_t>(id));
  for (const auto& span : encoding.spans) put(out, static_cast<std::uint32_t>(span.begin));
  for (const auto& span : encoding.spans) put(out, static_cast<std::uint32_t>(span.end));
  put_text(out, tokenizer.decode(encoding.ids, false));
  put_text(out, tokenizer.decode(encoding.ids, true));
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::string read_file(const char* path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

void time_files(const qlora::Tokenizer& tokenizer, int count, char** files) {
  std::vector<std::string> texts;
  for (int i = 0; i < count; ++i) texts.push_back(read_file(files[i]));
  std::vector<std::string_view> lines;
  for (const std::string& text : texts) {
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t end = std::min(text.find('\n', at), text.size() - 1) + 1;
      lines.emplace_back(text.data() + at, end - at);
      at = end;
    }
  }
  auto start = std::chrono::steady_clock::now();
  std::size_t tokens = 0;
  for (const std::string& text : texts) tokens += tokenizer.encode(text, false).ids.size();
  const double whole = seconds_since(start);
  start = std::chrono::steady_clock::now();
  std::size_t line_tokens = 0;
  for (const auto& encoding : tokenizer.encode_batch(lines, false)) line_tokens += encoding.ids.size();
  std::printf("%.6f %zu %.6f %zu %d\n", whole, tokens, seconds_since(start), line_tokens, qlora::parallel_threads());
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const auto tokenizer =
        std::filesystem::is_directory(argv[1]) ? qlora::Tokenizer::load(argv[1]) : qlora::Tokenizer::load_file(argv[1]);
    if (argc > 3 && std::string(argv[2]) == "--time") {
      time_files(*tokenizer, argc - 3, argv + 3);
      return 0;
    }
    std::string out;
    for (const std::string& text : read_texts(std::cin)) answer(*tokenizer, text, out);
    std::fwrite(out.data(), 1, out.size(), stdout);
    return 0;
  } catch (const qlora::Error& error) {
    std::cerr << error.what() << '\n';
    return static_cast<int>(error.code());
  }
}
