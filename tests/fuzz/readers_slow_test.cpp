// Whatever bytes a reader is given, it reads them or throws an Error: no crash, no other exception, no endless run.
// Valid inputs are changed at random. QLORA_FUZZ_ROUNDS: changes a reader (5,000); QLORA_TEST_SEED: where they begin.
#include <algorithm>
#include <cstdlib>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "qlora/adapters/peft_config.h"
#include "qlora/core/config.h"
#include "qlora/core/error.h"
#include "qlora/core/yaml.h"
#include "qlora/data/prepared_set.h"
#include "qlora/data/row_encoder.h"
#include "qlora/eval/score/spider_sql.h"
#include "qlora/eval/score/sql_text.h"
#include "qlora/formats/json_rows.h"
#include "qlora/formats/safetensors.h"
#include "qlora/models/config.h"
#include "qlora/text/chat_template.h"
#include "qlora/text/chat_template_builtin.h"
#include "qlora/text/tokenizer.h"
#include "qlora/text/tokenizer/json_tokenizer.h"

#include "support/temporary_folder.h"

namespace qlora {
namespace {

using Texts = std::vector<std::string>;

std::uint64_t number_from_environment(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

// Changes of a text: bytes flipped, cut out, doubled, exchanged for a telling piece, or spliced with another seed.
class Mutator {
 public:
  Mutator(Texts seeds, std::uint64_t seed) : seeds_(std::move(seeds)), random_(seed) {}

  std::string next() {
    std::string text = seeds_[below(seeds_.size())];
    for (std::size_t changes = 1 + below(4); changes > 0; --changes) change(text);
    return text;
  }

 private:
  std::size_t below(std::size_t count) { return std::uniform_int_distribution<std::size_t>(0, count - 1)(random_); }

  void change(std::string& text) {
    static const Texts kPieces = {"\"",
                                  "{",
                                  "}",
                                  "[",
                                  "]",
                                  "'",
                                  "(",
                                  ")",
                                  "\\",
                                  "\n",
                                  "\xFF",
                                  "\xE2\x96",
                                  "0",
                                  "-1",
                                  "1e9",
                                  "null",
                                  "1e999",
                                  "{{",
                                  "{%",
                                  "%}",
                                  "}}",
                                  ":",
                                  ",",
                                  "- ",
                                  "&a",
                                  "*a",
                                  "<<",
                                  "#",
                                  "%",
                                  "\\u",
                                  ".",
                                  "*",
                                  "../",
                                  "\x01",
                                  "~",
                                  "|",
                                  "9223372036854775808",
                                  "select",
                                  "from",
                                  "where ("};
    const std::size_t at = below(text.size() + 1);
    const std::size_t length = std::min(text.size() - at, below(12));
    switch (below(5)) {
      case 0:
        if (at < text.size()) text[at] = static_cast<char>(text[at] ^ (1 << below(8)));
        break;
      case 1:
        text.erase(at, length);
        break;
      case 2:
        text.insert(at, text.substr(at, length));
        break;
      case 3:
        text.replace(at, length, kPieces[below(kPieces.size())]);
        break;
      default: {
        const std::string& other = seeds_[below(seeds_.size())];
        text = text.substr(0, at) + other.substr(std::min(at, other.size()));
      }
    }
  }

  Texts seeds_;
  std::mt19937_64 random_;
};

struct Read {
  std::size_t well = 0;
  std::size_t refused = 0;
};

// Gives `read` changed seeds. Any exception that is no Error fails the test and shows the bytes.
Read fuzz(const Texts& seeds, const std::function<void(const std::string&)>& read) {
  const std::uint64_t seed = number_from_environment("QLORA_TEST_SEED", 1);
  Mutator mutator(seeds, seed);
  Read count;
  for (std::uint64_t round = number_from_environment("QLORA_FUZZ_ROUNDS", 5000); round > 0; --round) {
    const std::string text = mutator.next();
    try {
      read(text);
      ++count.well;
    } catch (const Error&) {
      ++count.refused;
    } catch (const std::exception& exception) {
      ADD_FAILURE() << "seed " << seed << ", " << round << " rounds left: " << exception.what() << "\n" << text;
      return count;
    }
  }
  return count;
}

// Both outcomes were seen: else the changes are too wild, or too tame, to say anything.
void expect_both(const Read& count) {
  EXPECT_GT(count.well, 0U);
  EXPECT_GT(count.refused, 0U);
}

TEST(Fuzz, YamlSettings) {
  expect_both(fuzz({"a: 1\nb: [1, 2, {c: d}]\n# comment\ne:\n  - f: \"g\\n\"\n    h: |\n      text\n",
                    "dataset: {path: x.json, format: spider}\nlora_r: 16\nlearning_rate: 2e-4\n", "x: &a [1]\ny: *a\n"},
                   [](const std::string& text) {
                     Problems problems;
                     settings_of(parse_yaml(text, "fuzz.yaml"), problems);
                     problems.raise();
                   }));
}

TEST(Fuzz, JsonRows) {
  const TemporaryFolder folder;
  expect_both(fuzz({"{\"a\": 1, \"b\": [true, null]}\n{\"a\": \"\\u00e9\"}\n", "[{\"a\": 1},\n {\"b\": {\"c\": []}}]\n",
                    "\xEF\xBB\xBF{\"a\": -1.5e3}"},
                   [&](const std::string& text) {
                     const JsonRows rows(folder.write("rows.json", text));
                     for (std::size_t i = 0; i < rows.size(); ++i) rows.parse(i);
                   }));
}

TEST(Fuzz, Safetensors) {
  const TemporaryFolder folder;
  const std::vector<float> values(6, 1.5F);
  std::map<std::string, HostTensor> tensors;
  tensors["a"] = {ElementType::kF32, {2, 3}, std::as_bytes(std::span(values))};
  tensors["b"] = {ElementType::kU8, {24}, std::as_bytes(std::span(values))};
  write_safetensors(folder.path() / "seed.safetensors", tensors);
  expect_both(fuzz({read_bytes(folder.path() / "seed.safetensors")}, [&](const std::string& bytes) {
    const SafetensorsFile file(folder.write("x.safetensors", bytes));
    int sum = 0;
    for (const SafetensorsEntry& entry : file.entries()) {
      for (const std::byte byte : file.tensor(entry).bytes) sum += std::to_integer<int>(byte);
    }
    EXPECT_GE(sum, 0);
  }));
}

TEST(Fuzz, PreparedSets) {
  const TemporaryFolder folder;
  EncodedRow row;
  row.ids = {1, 2, 3};
  row.labelled = {0, 1, 1};
  PreparedSet::from_rows({row, row}, {Json("x"), Json(7)}, Json{{"rows", 2}}).save(folder.path() / "seed");
  expect_both(fuzz({read_bytes(folder.path() / "seed")}, [&](const std::string& bytes) {
    const PreparedSet set = PreparedSet::open(folder.write("set", bytes));
    for (std::size_t i = 0; i < set.size(); ++i) static_cast<void>(set.row_id(i).dump().size() + set.ids(i).size());
  }));
}

TEST(Fuzz, TokenizerFiles) {
  const TemporaryFolder folder;
  const std::string document = R"json({"version": "1.0", "added_tokens": [{"id": 9, "content": "<e>", "special": true,
    "single_word": false, "lstrip": true, "rstrip": false, "normalized": false}], "post_processor": null,
    "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Replace", "pattern": {"Regex": "a+"},
      "content": "a"}]},
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": "\\w+|\\s+(?!\\S)"},
      "behavior": "Isolated", "invert": false}, {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]},
    "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "c": 2, "ab": 3, "abc": 4, "<unk>": 5}, "unk_token": "<unk>",
      "merges": ["a b", "ab c"]}})json";
  const std::string unigram = R"json({"version": "1.0", "added_tokens": [], "normalizer": {"type": "Precompiled",
    "precompiled_charsmap": "CAAAAAABAABhAAAAYWIAAA=="}, "pre_tokenizer": {"type": "Metaspace", "replacement": "_",
      "prepend_scheme": "always", "split": true}, "decoder": {"type": "ByteFallback"},
    "model": {"type": "Unigram", "unk_id": 0, "byte_fallback": true,
      "vocab": [["<unk>", 0], ["_", -1.5], ["a", -2], ["_ab", -3.25], ["b", -1e1], ["<0xC3>", -9], ["c", -2.5]]}})json";
  expect_both(fuzz({document, unigram}, [&](const std::string& text) {
    const auto tokenizer = JsonTokenizer::read(folder.write("tokenizer.json", text));
    static_cast<void>(tokenizer->decode(tokenizer->encode("abc <e> \xC3\xA9 aab", true).ids, false));
  }));
}

TEST(Fuzz, RankFiles) {
  const TemporaryFolder folder;
  constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string list, lines;
  for (std::size_t byte = 0; byte < 256; ++byte) {
    const std::string base64 = {kDigits[byte >> 2], kDigits[(byte & 3) << 4], '=', '='};
    list += (byte == 0 ? "" : ", ") + ("{\"rank\": " + std::to_string(byte)) + ", \"token_bytes\": \"" + base64 + "\"}";
    lines += base64 + " " + std::to_string(byte) + "\n";
  }
  const std::string tekken =
      R"({"config": {"pattern": "\\w+|\\W+", "default_vocab_size": 280, "default_num_special_tokens": 24}, "vocab": [)" +
      list + "]}";
  expect_both(fuzz({tekken}, [&](const std::string& text) {
    const auto tokenizer = Tokenizer::load_file(folder.write("tekken.json", text));
    static_cast<void>(tokenizer->decode(tokenizer->encode("abc <s>", true).ids, false));
  }));
  // No change makes a known vocabulary of so few ranks.
  const Read read =
      fuzz({lines}, [&](const std::string& text) { Tokenizer::load_file(folder.write("x.tiktoken", text)); });
  EXPECT_EQ(read.well, 0U);
}

TEST(Fuzz, SentencePieceModels) {
  const TemporaryFolder folder;
  // ModelProto: pieces = 1 {piece = 1, score = 2, type = 3}, trainer_spec = 2 {model_type = 3}, normalizer_spec = 3.
  const auto field = [](char tag, const std::string& bytes) {
    return std::string{tag, static_cast<char>(bytes.size())} + bytes;
  };
  const auto model = [&](char model_type) {
    std::string bytes;
    const auto piece = [&](const std::string& text, char type) {
      bytes += field('\x0A', field('\x0A', text) + std::string("\x15\0\0\x80\xBF\x18", 6) + type);
    };
    piece("<unk>", 2);
    piece("<s>", 3);
    piece("</s>", 3);
    for (const char* text : {"\u2581", "a", "b", "ab", "\u2581a"}) piece(text, 1);
    return bytes + field('\x12', {'\x18', model_type}) + field('\x1A', "\x0A\x08identity");
  };
  expect_both(fuzz({model(1), model(2)}, [&](const std::string& bytes) {
    const auto tokenizer = Tokenizer::load_file(folder.write("tokenizer.model", bytes));
    static_cast<void>(tokenizer->decode(tokenizer->encode("abba \xC3\xA9", true).ids, false));
  }));
}

TEST(Fuzz, ChatTemplates) {
  Texts seeds;
  for (const char* name : {"chatml", "llama3", "alpaca"}) seeds.emplace_back(builtin_chat_template(name));
  seeds.emplace_back(
      "{% set ns = namespace(n=0) %}{% for m in messages if m.role != 'x' %}{%- set ns.n = ns.n + 1 -%}"
      "{{ m['content'][1:3] | trim | upper ~ loop.index0 }}{% else %}none{% endfor %}"
      "{% macro f(a, b=1) %}{{ '%s' % a }}{% endmacro %}{{ f(ns.n) }}{{ messages | tojson }}");
  const Json variables = Json::parse(
      R"({"messages": [{"role": "user", "content": " Hi "}, {"role": "assistant", "content": "Yo"}],
          "add_generation_prompt": true, "bos_token": "<s>", "eos_token": "</s>"})");
  expect_both(fuzz(seeds, [&](const std::string& text) { ChatTemplate::parse(text, "fuzz")->render(variables); }));
}

TEST(Fuzz, SpiderSql) {
  SpiderSchema schema;
  schema.tables = {{"singer", {"singer_id", "name", "age"}}, {"concert", {"concert_id", "singer_id", "year"}}};
  // What the official parser cannot read is a SpiderSyntaxError, and scores as such.
  std::size_t parsed = 0, refused = 0;
  fuzz({"SELECT DISTINCT T1.name , max(T2.year) FROM singer AS T1 JOIN concert AS T2 ON T1.singer_id = T2.singer_id "
        "WHERE T2.year BETWEEN 2014 AND 2015 OR T1.name NOT IN (SELECT name FROM singer WHERE age > 40) "
        "GROUP BY T1.name HAVING count(*) >= 2 ORDER BY avg(T2.year) DESC LIMIT 3",
        "SELECT count(*) FROM singer UNION SELECT age FROM singer WHERE name LIKE '%a%' AND age != 3"},
       [&](const std::string& sql) {
         try {
           parse_spider_sql(sql, schema);
           ++parsed;
         } catch (const SpiderSyntaxError&) {
           ++refused;
         }
       });
  EXPECT_GT(parsed, 0U);
  EXPECT_GT(refused, 0U);
}

TEST(Fuzz, ModelAndAdapterConfigs) {
  const auto json = [](const std::string& text) {
    try {
      return Json::parse(text);
    } catch (const std::exception& exception) {
      throw DataError(exception.what());
    }
  };
  expect_both(fuzz({R"({"model_type": "llama", "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": true, "rope_scaling": {"rope_type": "llama3",
    "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8}})"},
                   [&](const std::string& text) { parse_model_config(json(text), "config.json"); }));
  expect_both(fuzz({R"({"peft_type": "LORA", "r": 8, "lora_alpha": 16, "lora_dropout": 0.1, "bias": "none",
    "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", "use_rslora": false})"},
                   [&](const std::string& text) { parse_lora_config(json(text), "adapter_config.json"); }));
}

}  // namespace
}  // namespace qlora
