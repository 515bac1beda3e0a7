// From data files to prepared sets: every row encoded, counted, kept or dropped, and the whole fingerprinted.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "qlora/core/json.h"
#include "qlora/data/dataset.h"
#include "qlora/data/options.h"
#include "qlora/data/prepared_set.h"
#include "qlora/data/row_encoder.h"

namespace qlora {

// What a model's config.json says about the ids and lengths it takes; unset where it does not say.
struct ModelLimits {
  std::optional<std::int64_t> vocabulary;  // vocab_size
  std::optional<std::int64_t> positions;   // max_position_embeddings
};
// Throws DataError for a config.json that is malformed; without the file nothing is known.
ModelLimits read_model_limits(const std::filesystem::path& model_folder);

// What became of the rows of one set. rows_in = rows_kept + the sum of dropped.
struct RowCounts {
  std::int64_t rows_in = 0;
  std::int64_t rows_kept = 0;
  std::map<std::string, std::int64_t> dropped;  // "too_long", "no_label"
  std::int64_t truncated = 0;
  std::int64_t tokens = 0;
  std::int64_t label_tokens = 0;
  std::vector<std::int64_t> lengths;  // of the rows kept, ascending
  std::int64_t duplicates = 0;        // rows kept that equal an earlier one token by token, but for weights
  std::int64_t only_last = 0;         // chats of which only the last answer is trained
  std::int64_t without_end = 0;       // answers whose end is no token at which generation stops
  std::map<std::int32_t, std::int64_t> end_tokens;   // what ends the last answers: token -> rows
  std::map<std::string, std::string> first_dropped;  // reason -> place of the first such row

  std::int64_t percentile(double share) const;  // nearest rank; 0 without rows
};

// Rows [begin, end) of a data set, at most as many as it has.
struct RowRange {
  std::size_t begin = 0;
  std::size_t end = SIZE_MAX;
};

struct EncodedSet {
  PreparedSet rows;
  RowCounts counts;
};

// Encodes the rows of a range on all cores; the result does not depend on their number. Rows longer than
// limits.positions are dropped or cut, as the encoder's options say. Throws DataError with the place of the first row
// that cannot be read, rendered or encoded, or that holds a token outside the vocabulary. `metadata` goes into the set.
EncodedSet encode_rows(const Dataset& dataset, const RowEncoder& encoder, const ModelLimits& limits,
                       const Json& metadata, RowRange range = {});

// Rows of `eval` that equal a row of `train` token by token.
std::int64_t count_leaked(const PreparedSet& train, const PreparedSet& eval);

// A training set and, if there is one, its evaluation set.
struct PreparedData {
  EncodedSet train;
  std::optional<EncodedSet> eval;
  std::int64_t leaked = 0;  // evaluation rows that are also training rows, token by token
  Json fingerprint_parts;   // what the rows depend on, each by name
  std::vector<std::string> warnings;

  std::string fingerprint() const;  // SHA-256 over the parts
  // The manifest, as it is written and documented.
  Json manifest() const;
};

// What `dataset` and `eval_dataset` or val_size mean: opened, weighted and split.
struct DataSources {
  Dataset train;
  std::optional<Dataset> eval;

  std::vector<const Dataset*> datasets() const;
};
// Throws UsageError for contradicting keys, DataError for missing or empty data.
DataSources open_data(const DataOptions& options, std::uint64_t seed);

// The whole way for one model folder. Throws DataError where no row is left or no answer ends in a token at which
// generation stops.
PreparedData prepare_data(const std::filesystem::path& model_folder, const DataOptions& options, std::uint64_t seed);
PreparedData prepare_data(const DataSources& sources, const RowEncoder& encoder, const ModelLimits& limits,
                          std::uint64_t seed);

// What prepared rows depend on, by name: "tokenizer", "special_tokens", "chat_template", "schemas", "data",
// "eval_data", and each option that matters. max_length is what limits.positions and the option resolve to.
Json fingerprint_parts(const DataSources& sources, const RowEncoder& encoder, const ModelLimits& limits,
                       std::uint64_t seed);

// max_length where it is set, else the model's.
ModelLimits resolve_limits(const DataOptions& options, ModelLimits limits);

// Complaints about the rows that preview shows instead of refusing them: an end token that differs from the model's.
std::optional<std::string> end_token_problem(const RowCounts& counts, const RowEncoder& encoder);

// A prepared folder holds train.bin, eval.bin where there is an evaluation set, and manifest.json. `folder` must exist
// and hold none of them yet; nothing is synced to the disk.
void write_prepared(const PreparedData& data, const std::filesystem::path& folder);

struct OpenedData {
  PreparedSet train;
  std::optional<PreparedSet> eval;
};
OpenedData open_prepared(const std::filesystem::path& folder);

// Throws DataError naming each part (tokenizer, chat_template, data, option ...) in which the prepared set differs from
// what `options` would prepare now. Without options.dataset the data is the set's own, and so is every option that is
// left at its default. Returns the encoder of these options, which was made for that.
RowEncoder check_prepared(const OpenedData& data, const std::filesystem::path& model_folder, const DataOptions& options,
                          std::uint64_t seed);

}  // namespace qlora
