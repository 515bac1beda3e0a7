// Encodes and decodes length-prefixed texts from standard input, for tokenizers_test.py.
// tokenize FILE: reads little-endian u32 lengths, each with its text; writes per text u32 count, i32 ids, u32 begins,
// u32 ends, then the decoded texts (special tokens kept, then skipped), each u32 length and bytes.
// tokenize FILE --time: prints the seconds to encode them on one thread and on all, the number of threads, and a
// checksum of the ids (sum = sum * 31 + id + 1, modulo 2^64).
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <iostream>

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

std::uint64_t checksum(const std::vector<qlora::Encoding>& encodings) {
  std::uint64_t sum = 0;
  for (const auto& encoding : encodings) {
    for (const std::int32_t id : encoding.ids) sum = sum * 31 + static_cast<std::uint64_t>(id) + 1;
  }
  return sum;
}

// The best of three, one text after another on this thread, then as a batch on all threads.
void time_texts(const qlora::Tokenizer& tokenizer, const std::vector<std::string>& texts) {
  const std::vector<std::string_view> views(texts.begin(), texts.end());
  double one = 1e9, all = 1e9;
  std::uint64_t sum = 0;
  for (int round = 0; round < 3; ++round) {
    std::vector<qlora::Encoding> encodings;
    encodings.reserve(views.size());
    auto start = std::chrono::steady_clock::now();
    for (const std::string_view text : views) encodings.push_back(tokenizer.encode(text, false));
    one = std::min(one, seconds_since(start));
    sum = checksum(encodings);
    start = std::chrono::steady_clock::now();
    encodings = tokenizer.encode_batch(views, false);
    all = std::min(all, seconds_since(start));
    if (checksum(encodings) != sum) throw qlora::DataError("the batch has other ids");
  }
  std::printf("%.6f %.6f %d %llu\n", one, all, qlora::parallel_threads(), static_cast<unsigned long long>(sum));
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const auto tokenizer =
        std::filesystem::is_directory(argv[1]) ? qlora::Tokenizer::load(argv[1]) : qlora::Tokenizer::load_file(argv[1]);
    const std::vector<std::string> texts = read_texts(std::cin);
    if (argc > 2 && std::string(argv[2]) == "--time") {
      time_texts(*tokenizer, texts);
      return 0;
    }
    std::string out;
    for (const std::string& text : texts) answer(*tokenizer, text, out);
    std::fwrite(out.data(), 1, out.size(), stdout);
    return 0;
  } catch (const qlora::Error& error) {
    std::cerr << error.what() << '\n';
    return static_cast<int>(error.code());
  }
}
