#include "qlora/data/prepare.h"

#include <gmock/gmock.h>

#include "qlora/core/parallel.h"

#include "fakes.h"

namespace qlora {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using namespace testing;  // NOLINT: the fakes of this room

std::string rows_of_length(const std::vector<int>& lengths) {
  std::string lines;
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    lines +=
        Json{{"prompt", "p"},
             {"completion", std::string(static_cast<std::size_t>(lengths[i] - 3), static_cast<char>('a' + i % 26))}}
            .dump() +
        "\n";
  }
  return lines;
}

DataOptions options_for(const std::string& file) {
  DataOptions options;
  options.dataset = {entry_of(file)};
  return options;
}

// <s> p ... </s>: a row of `lengths` tokens each.
PreparedData prepare_plain(const DataOptions& options, std::uint64_t seed = 1, ModelLimits limits = {}) {
  return prepare_data(open_data(options, seed), plain_encoder(options), limits, seed);
}

class PrepareTest : public ::testing::Test {
 protected:
  TemporaryFolder folder_;
};

TEST_F(PrepareTest, CountsWhatItKeeps) {
  const auto options = options_for(folder_.write("rows.jsonl", rows_of_length({5, 9, 20, 9})));
  const PreparedData data = prepare_plain(options);
  EXPECT_EQ(data.manifest().dump(),
            R"({"rows_in":4,"rows_kept":4,"dropped":{},"truncated":0,"tokens":43,"label_tokens":35,)"
            R"("length":{"p50":9,"p95":20,"max":20},"duplicates":0,"leaked":0,"fingerprint":")" +
                data.fingerprint() + "\"}");
  EXPECT_EQ(data.train.rows.targets(1), 7);
  EXPECT_EQ(data.train.rows.row_id(3), 3);
  EXPECT_EQ(data.train.rows.prompt_tokens(0), 2);
}

TEST_F(PrepareTest, RowsAroundTheLimitAreDroppedOrCut) {
  auto options = options_for(folder_.write("rows.jsonl", rows_of_length({9, 10, 11, 30})));
  options.max_length = 10;
  const PreparedData dropped = prepare_plain(options);
  EXPECT_EQ(dropped.train.counts.rows_kept, 2);
  EXPECT_EQ(dropped.train.counts.dropped.at("too_long"), 2);
  EXPECT_THAT(dropped.warnings,
              ElementsAre(HasSubstr("2 of 4 rows are longer than max_length and were dropped (the first: ")));
  EXPECT_THAT(dropped.warnings[0], HasSubstr("rows.jsonl:3)"));
  options.overflow = Overflow::kTruncate;
  const PreparedData cut = prepare_plain(options);
  EXPECT_EQ(cut.train.counts.rows_kept, 4);
  EXPECT_EQ(cut.train.counts.truncated, 2);
  EXPECT_EQ(cut.train.rows.max_length(), 10);
  // The model's own limit holds where none is set.
  options.max_length.reset();
  EXPECT_EQ(prepare_plain(options, 1, {.vocabulary = {}, .positions = 10}).train.counts.truncated, 2);
}

TEST_F(PrepareTest, RowsWithoutALabelAreDroppedAlsoAfterTheCut) {
  auto options = options_for(folder_.write("rows.jsonl", R"({"prompt":"a long prompt","completion":"x"}
{"prompt":"p","completion":"y"})"));
  options.max_length = 10;
  options.overflow = Overflow::kTruncate;
  const PreparedData data = prepare_plain(options);
  EXPECT_EQ(data.train.counts.rows_kept, 1);
  EXPECT_EQ(data.train.counts.dropped.at("too_long"), 1);
  EXPECT_EQ(data.train.counts.truncated, 0);
}

TEST_F(PrepareTest, AllRowsDroppedIsAnError) {
  auto options = options_for(folder_.write("rows.jsonl", rows_of_length({20, 30})));
  options.max_length = 4;
  const auto error = error_of<DataError>([&] { prepare_plain(options); });
  EXPECT_THAT(error, HasSubstr("all 2 rows were dropped: 2 too_long (the first: "));
  EXPECT_THAT(error, HasSubstr("max_length is 4"));
}

TEST_F(PrepareTest, TokensOutsideOfTheVocabularyNameTheRow) {
  const auto options = options_for(folder_.write("rows.jsonl", rows_of_length({5})));
  EXPECT_THAT(error_of<DataError>([&] { prepare_plain(options, 1, {.vocabulary = 257, .positions = {}}); }),
              HasSubstr("rows.jsonl:1: token 257 (</s>) is outside the model's vocabulary of 257"));
}

TEST_F(PrepareTest, DuplicatesAndLeaksAreCounted) {
  auto options = options_for(folder_.write("rows.jsonl", R"({"prompt":"a","completion":"b"}
{"prompt":"a","completion":"b"}
{"prompt":"c","completion":"d"})"));
  options.eval_dataset = {entry_of(folder_.write("eval.jsonl", R"({"prompt":"c","completion":"d"}
{"prompt":"c","completion":"e"})"))};
  const PreparedData data = prepare_plain(options);
  EXPECT_EQ(data.train.counts.duplicates, 1);
  EXPECT_EQ(data.leaked, 1);
  EXPECT_EQ(data.manifest()["eval"]["rows_kept"], 2);
  options.dataset.front().weight = 2.0;  // asked for: no duplicates
  EXPECT_EQ(prepare_plain(options).train.counts.duplicates, 1);
}

TEST_F(PrepareTest, ValSizeSplitsBySeedWithoutLosingRows) {
  auto options = options_for(folder_.write("rows.jsonl", rows_of_length(std::vector<int>(20, 6))));
  const auto ids = [](const PreparedSet& set) {
    std::vector<std::int64_t> numbers;
    for (std::size_t i = 0; i < set.size(); ++i) numbers.push_back(set.row_id(i).get<std::int64_t>());
    return numbers;
  };
  for (const double size : {0.25, 5.0}) {
    options.val_size = size;
    const PreparedData data = prepare_plain(options, 3);
    EXPECT_EQ(data.train.rows.size(), 15U);
    ASSERT_EQ(data.eval->rows.size(), 5U);
    auto all = ids(data.train.rows);
    const auto eval = ids(data.eval->rows);
    EXPECT_TRUE(std::is_sorted(all.begin(), all.end()));
    EXPECT_TRUE(std::is_sorted(eval.begin(), eval.end()));
    all.insert(all.end(), eval.begin(), eval.end());
    std::sort(all.begin(), all.end());
    EXPECT_EQ(std::unique(all.begin(), all.end()) - all.begin(), 20);
    EXPECT_EQ(ids(prepare_plain(options, 3).eval->rows), eval);
    EXPECT_NE(ids(prepare_plain(options, 4).eval->rows), eval);
  }
  options.val_size = 20;
  EXPECT_THROW(prepare_plain(options), UsageError);
  options.val_size = 2;
  options.eval_dataset = options.dataset;
  EXPECT_THROW(prepare_plain(options), UsageError);
}

TEST_F(PrepareTest, WeightsAndLimitsMixDataSets) {
  auto options = options_for(folder_.write("a.jsonl", rows_of_length({4, 5, 6, 7})));
  options.dataset[0].weight = 2.5;
  options.dataset.push_back(entry_of(folder_.write("b.json", "[" + rows_of_length({8}) + "]"), 3));
  options.dataset.push_back(entry_of(folder_.write("c.jsonl", rows_of_length({9, 10, 11})), 1));
  const PreparedData data = prepare_plain(options);
  EXPECT_EQ(data.train.rows.size(), 4U * 2 + 2 + 1 + 1);
  EXPECT_EQ(data.train.rows.length(10), 8);
  EXPECT_EQ(data.train.rows.length(11), 9);
  EXPECT_EQ(data.train.rows.row_id(11), 5);
}

TEST_F(PrepareTest, TheResultDoesNotDependOnTheNumberOfThreads) {
  std::vector<int> lengths;
  for (int i = 0; i < 500; ++i) lengths.push_back(4 + i * 7 % 61);
  const auto options = options_for(folder_.write("rows.jsonl", rows_of_length(lengths)));
  const int threads = parallel_threads();
  std::vector<std::string> files;
  for (const int count : {1, 3, 8}) {
    set_parallel_threads(count);
    const auto file = folder_.path() / std::to_string(count);
    prepare_plain(options).train.rows.save(file);
    files.emplace_back(MappedFile(file).text());
  }
  set_parallel_threads(threads);
  EXPECT_EQ(files[0], files[1]);
  EXPECT_EQ(files[0], files[2]);
}

TEST_F(PrepareTest, TheFirstBadRowIsNamedWhateverTheThreads) {
  std::string lines = rows_of_length(std::vector<int>(300, 6));
  lines += "{\"prompt\":\"p\",\"completion\":1}\n" + rows_of_length(std::vector<int>(100, 6)) + "{\"prompt\":2}\n";
  const auto options = options_for(folder_.write("rows.jsonl", lines));
  EXPECT_THAT(error_of<DataError>([&] { prepare_plain(options); }),
              HasSubstr("rows.jsonl:301: column 'completion' must be a string, is number"));
}

TEST_F(PrepareTest, TheFingerprintFollowsContentsAndNotPaths) {
  const std::string bytes = rows_of_length({5, 6, 7, 8, 9, 10, 11, 12});
  const auto options = options_for(folder_.write("rows.jsonl", bytes));
  const std::string original = prepare_plain(options).fingerprint();
  EXPECT_EQ(prepare_plain(options_for(folder_.write("moved/other.jsonl", bytes))).fingerprint(), original);
  EXPECT_EQ(prepare_plain(options_for(folder_.write("crlf.jsonl", "\n" + bytes + "\n\n"))).fingerprint(), original);
  EXPECT_EQ(prepare_plain(options, 99).fingerprint(), original) << "the seed draws nothing here";
  std::vector<DataOptions> changed(9, options);
  changed[0].dataset[0].limit = 7;
  changed[1].max_length = 11;
  changed[2].overflow = Overflow::kTruncate;
  changed[3].assistant_only_loss = false;
  changed[4].system_prompt = "S";
  changed[5].prompt_template = "{prompt}!";
  changed[6].add_special_tokens = false;
  changed[7].val_size = 1;
  changed[8].dataset[0].weight = 2;
  std::vector<std::string> seen = {original};
  for (std::size_t i = 0; i < changed.size(); ++i) {
    seen.push_back(prepare_plain(changed[i]).fingerprint());
    EXPECT_NE(seen.back(), original) << "change " << i;
  }
  EXPECT_NE(prepare_plain(options_for(folder_.write("x.jsonl", bytes + "{\"prompt\":\"p\",\"completion\":\"c\"}")))
                .fingerprint(),
            original);
  const auto chat_file =
      folder_.write("chat.jsonl", R"({"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}]})");
  const auto with_template = [&](const std::string& source) {
    const auto data_options = options_for(chat_file);
    const RowEncoder encoder(std::make_shared<ByteTokenizer>(), chat_tokens(),
                             std::make_shared<FunctionTemplate>(render_turns, source), data_options);
    return prepare_data(open_data(data_options, 1), encoder, {}, 1).fingerprint();
  };
  EXPECT_EQ(with_template("a"), with_template("a"));
  EXPECT_NE(with_template("a"), with_template("b"));
}

TEST_F(PrepareTest, AnEndTokenAtWhichTheModelDoesNotStopIsRefused) {
  const auto options = options_for(folder_.write(
      "chat.jsonl", R"({"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}]})"));
  const RowEncoder encoder(std::make_shared<ByteTokenizer>(), plain_tokens(),
                           std::make_shared<FunctionTemplate>(render_turns), options);
  const auto error = error_of<DataError>([&] { prepare_data(open_data(options, 1), encoder, {}, 1); });
  EXPECT_THAT(error, HasSubstr("(chat_template: auto) ends answers with <|end|>, but the model stops at </s>"));
}

TEST_F(PrepareTest, WritesAndOpensAFolder) {
  auto options = options_for(folder_.write("rows.jsonl", rows_of_length({5, 6, 7, 8})));
  options.val_size = 1;
  const PreparedData data = prepare_plain(options);
  const fs::path out = folder_.path() / "out";
  fs::create_directories(out);
  write_prepared(data, out);
  const OpenedData opened = open_prepared(out);
  ASSERT_EQ(opened.train.size(), 3U);
  ASSERT_EQ(opened.eval->size(), 1U);
  for (std::size_t row = 0; row < 3; ++row) {
    const auto a = opened.train.ids(row), b = data.train.rows.ids(row);
    EXPECT_TRUE(std::equal(a.begin(), a.end(), b.begin(), b.end()));
    for (std::int64_t t = 0; t < opened.train.length(row); ++t) {
      EXPECT_EQ(opened.train.labelled(row, t), data.train.rows.labelled(row, t));
    }
  }
  EXPECT_EQ(read_json(out / "manifest.json"), data.manifest());
  options.val_size = 2;
  write_prepared(prepare_plain(options), folder_.path());
  fs::copy_file(folder_.path() / "train.bin", out / "train.bin", fs::copy_options::overwrite_existing);
  EXPECT_THAT(error_of<DataError>([&] { open_prepared(out); }), HasSubstr("different runs of prepare"));
}

// A byte-level tokenizer of the letters a to z and </s>.
Json letters_tokenizer() {
  Json vocabulary = Json::object();
  for (int i = 0; i < 26; ++i) vocabulary[std::string(1, static_cast<char>('a' + i))] = i;
  const Json level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", false}, {"use_regex", false}};
  const Json end = {{"id", 26},        {"content", "</s>"},   {"single_word", false}, {"lstrip", false},
                    {"rstrip", false}, {"normalized", false}, {"special", true}};
  return {{"version", "1.0"},
          {"added_tokens", Json::array({end})},
          {"normalizer", nullptr},
          {"pre_tokenizer", level},
          {"post_processor", nullptr},
          {"decoder", level},
          {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", Json::array()}}}};
}

TEST_F(PrepareTest, WhatTrainsMustBeWhatWasPrepared) {
  Json tokenizer = letters_tokenizer();
  folder_.write("model/tokenizer.json", tokenizer.dump());
  folder_.write("model/tokenizer_config.json", R"({"eos_token":"</s>"})");
  folder_.write("model/config.json", R"({"vocab_size":27,"max_position_embeddings":32})");
  const fs::path model = folder_.path() / "model", out = folder_.path() / "out";
  const auto options = options_for(folder_.write("rows.jsonl", rows_of_length({5, 9, 12})));
  fs::create_directories(out);
  write_prepared(prepare_data(model, options, 1), out);
  const OpenedData opened = open_prepared(out);
  EXPECT_EQ(opened.train.size(), 3U);
  EXPECT_NO_THROW(check_prepared(opened, model, options, 1));
  EXPECT_NO_THROW(check_prepared(opened, model, {}, 1)) << "without data only the model is compared";

  auto changed = options;
  changed.max_length = 16;
  changed.dataset[0].limit = 2;
  EXPECT_THAT(error_of<DataError>([&] { check_prepared(opened, model, changed, 1); }),
              HasSubstr("prepared with another data, max_length: run prepare again"));
  folder_.write("model/tokenizer_config.json", R"({"eos_token":"</s>","pad_token":"a"})");
  EXPECT_THAT(error_of<DataError>([&] { check_prepared(opened, model, {}, 1); }), HasSubstr("another special_tokens:"));
  folder_.write("model/tokenizer_config.json", R"({"eos_token":"</s>"})");
  std::swap(tokenizer["model"]["vocab"]["a"], tokenizer["model"]["vocab"]["b"]);
  folder_.write("model/tokenizer.json", tokenizer.dump());
  EXPECT_THAT(error_of<DataError>([&] { check_prepared(opened, model, {}, 1); }), HasSubstr("another tokenizer:"));
}

TEST_F(PrepareTest, DamagedSetsAreFound) {
  const auto options = options_for(folder_.write("rows.jsonl", rows_of_length({5, 6, 7, 8})));
  const fs::path file = folder_.path() / "set.bin";
  prepare_plain(options).train.rows.save(file);
  const std::string bytes(MappedFile(file).text());
  for (std::size_t size = 0; size < bytes.size(); size += 7) {
    folder_.write("cut.bin", bytes.substr(0, size));
    EXPECT_THROW(PreparedSet::open(folder_.path() / "cut.bin"), DataError) << size;
  }
  for (std::size_t at = 0; at < bytes.size(); at += 5) {
    std::string flipped = bytes;
    flipped[at] = static_cast<char>(flipped[at] ^ 4);
    folder_.write("flipped.bin", flipped);
    EXPECT_THROW(PreparedSet::open(folder_.path() / "flipped.bin"), DataError) << at;
  }
  EXPECT_EQ(PreparedSet::open(file).size(), 4U);
}

class FilesTest : public PrepareTest {};

DatasetEntry with_split(const std::string& path, const std::string& split) {
  DatasetEntry entry = entry_of(path);
  entry.split = split;
  return entry;
}

TEST_F(FilesTest, FoldersGiveTheFilesOfTheirSplit) {
  for (const char* name : {"train-0.jsonl", "train-1.json", "dev.jsonl", "constrain.jsonl", "sub/test.jsonl"}) {
    folder_.write("d/" + std::string(name), rows_of_length({5}));
  }
  const auto names = [&](const std::string& split, Dataset::Role role) {
    std::vector<std::string> found;
    for (const auto& file : files_of(with_split((folder_.path() / "d").string(), split), role)) {
      found.push_back(file.filename().string());
    }
    return found;
  };
  EXPECT_THAT(names("", Dataset::Role::kTraining), ElementsAre("train-0.jsonl", "train-1.json"));
  EXPECT_THAT(names("", Dataset::Role::kEvaluation), ElementsAre("dev.jsonl"));
  EXPECT_THAT(names("validation", Dataset::Role::kTraining), ElementsAre("dev.jsonl"));
  EXPECT_THAT(names("test", Dataset::Role::kTraining), ElementsAre("test.jsonl"));
  EXPECT_THAT(error_of<DataError>([&] { names("gold", Dataset::Role::kTraining); }), HasSubstr("the split 'gold'"));
}

TEST_F(FilesTest, WithoutNamesOfSplitsAllRowsTrain) {
  for (const char* name : {"rows.json", "more.jsonl", "dataset_infos.json", ".hidden.json"}) {
    folder_.write("d/" + std::string(name), rows_of_length({5}));
  }
  const std::string path = (folder_.path() / "d").string();
  for (const char* split : {"", "train"}) {
    const auto files = files_of(with_split(path, split), Dataset::Role::kTraining);
    EXPECT_THAT(files, ElementsAre(folder_.path() / "d/more.jsonl", folder_.path() / "d/rows.json")) << split;
  }
  EXPECT_THROW(files_of(with_split(path, "test"), Dataset::Role::kTraining), DataError);
  folder_.write("d/test.json", rows_of_length({5}));
  EXPECT_THROW(files_of(with_split(path, "train"), Dataset::Role::kTraining), DataError);
}

TEST_F(FilesTest, WhatCannotBeReadIsNamed) {
  const auto open = [](const std::string& path, const std::string& split = "") {
    return [=] {
      DataOptions options;
      options.dataset = {with_split(path, split)};
      open_data(options, 1);
    };
  };
  EXPECT_THAT(error_of<DataError>(open("/nowhere/rows.jsonl")), HasSubstr("/nowhere/rows.jsonl: no such file"));
  EXPECT_THAT(error_of<DataError>(open("rows")), HasSubstr("rows: no such file or folder"));
  EXPECT_THAT(error_of<UsageError>(open(folder_.write("a.csv", "x"))), HasSubstr("reading .csv is not built yet"));
  EXPECT_THAT(error_of<UsageError>(open(folder_.write("p/a.parquet", "x"))),
              HasSubstr("reading .parquet is not built yet"));
  EXPECT_THAT(error_of<UsageError>(open((folder_.path() / "p").string())), HasSubstr(".parquet is not built yet"));
  EXPECT_THAT(error_of<DataError>(open(folder_.write("empty.jsonl", "\n"))), HasSubstr("holds no row"));
  EXPECT_THAT(error_of<UsageError>(open(folder_.write("one.jsonl", rows_of_length({5})), "test")),
              HasSubstr("has no split 'test'"));
  const auto odd = folder_.write("odd.jsonl", "{\"a\":1}");
  EXPECT_THAT(error_of<DataError>(open(odd)), HasSubstr(odd + ":1: the format cannot be told"));
  const auto broken = folder_.write("broken.jsonl", "\n{\"a\" 1}");
  EXPECT_THAT(error_of<DataError>(open(broken)), HasSubstr(broken + ":2:6: broken JSON"));
  EXPECT_THROW(open_data({}, 1), UsageError);
}

}  // namespace
}  // namespace qlora
