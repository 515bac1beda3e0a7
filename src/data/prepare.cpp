#include "qlora/data/prepare.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include <fmt/format.h>

#include "qlora/core/error.h"
#include "qlora/core/hash.h"

namespace qlora {
namespace fs = std::filesystem;

DataSources open_data(const DataOptions& options, std::uint64_t seed) {
  if (options.dataset.empty()) throw UsageError("dataset: no data set is named");
  if (options.val_size > 0 && !options.eval_dataset.empty()) {
    throw UsageError("val_size and eval_dataset exclude each other: the evaluation rows come from one of them");
  }
  DataSources sources{Dataset(options.dataset, Dataset::Role::kTraining, seed), std::nullopt};
  const auto rows = static_cast<double>(sources.train.size());
  if (rows == 0) throw DataError("dataset: limit and weight leave no row");
  if (!options.eval_dataset.empty()) {
    sources.eval.emplace(options.eval_dataset, Dataset::Role::kEvaluation, seed);
    if (sources.eval->empty()) throw DataError("eval_dataset: limit and weight leave no row");
  } else if (options.val_size > 0) {
    const double count = options.val_size < 1 ? std::max(1.0, std::round(options.val_size * rows)) : options.val_size;
    if (count >= rows) {
      throw UsageError(fmt::format("val_size: {} of {} rows would leave none to train on", count, rows));
    }
    sources.eval = sources.train.split_off(static_cast<std::size_t>(count), seed);
  }
  return sources;
}

std::vector<const Dataset*> DataSources::datasets() const {
  std::vector<const Dataset*> all = {&train};
  if (eval) all.push_back(&*eval);
  return all;
}

std::optional<std::string> end_token_problem(const RowCounts& counts, const RowEncoder& encoder) {
  const auto answers = std::accumulate(counts.end_tokens.begin(), counts.end_tokens.end(), std::int64_t{0},
                                       [](std::int64_t sum, const auto& entry) { return sum + entry.second; });
  if (answers == 0 || counts.without_end < answers) return std::nullopt;
  const auto most = std::max_element(counts.end_tokens.begin(), counts.end_tokens.end(),
                                     [](const auto& a, const auto& b) { return a.second < b.second; });
  const auto name = [&](std::int32_t id) { return encoder.tokenizer().token_of(id).value_or(fmt::format("{}", id)); };
  if (const auto& eos = encoder.special_tokens().eos; eos && !encoder.tokenizer().id_of(*eos)) {
    return fmt::format(
        "the end token {} is no token of the tokenizer: a model would never learn to stop. Name one that is in "
        "tokenizer_config.json (eos_token)",
        *eos);
  }
  std::string stops;
  for (const auto id : encoder.stop_ids()) stops += (stops.empty() ? "" : ", ") + name(id);
  return fmt::format(
      "the chat template (chat_template: {}) ends answers with {}, but the model stops at {}: it would never learn to "
      "stop. Choose another chat_template (the end token of one that is named becomes a stop token), or name the "
      "template's end token in tokenizer_config.json (eos_token) or generation_config.json (eos_token_id)",
      encoder.options().chat_template, most->first == EncodedRow::kNoEndToken ? "no special token" : name(most->first),
      stops.empty() ? "no token" : stops);
}

namespace {

std::vector<std::string> warnings_of(const RowCounts& counts, const char* set) {
  std::vector<std::string> warnings;
  const auto warn = [&](std::int64_t count, const std::string& what) {
    if (count > 0) warnings.push_back(fmt::format("{}: {} of {} rows {}", set, count, counts.rows_in, what));
  };
  for (const auto& [reason, count] : counts.dropped) {
    const std::string why = reason == "too_long" ? "are longer than max_length and were dropped"
                                                 : "have no token to learn and were dropped";
    warn(count, fmt::format("{} (the first: {})", why, counts.first_dropped.at(reason)));
  }
  warn(counts.truncated, "are longer than max_length and were truncated");
  warn(counts.only_last, "train their last answer alone: the template renders earlier turns differently later on");
  warn(counts.without_end, "have a last answer that ends in no token at which generation stops");
  warn(counts.duplicates, "repeat an earlier row");
  return warnings;
}

void refuse_empty(const RowCounts& counts, const char* set, std::optional<std::int64_t> max_length) {
  if (counts.rows_kept > 0) return;
  std::string reasons;
  for (const auto& [reason, count] : counts.dropped) {
    reasons += fmt::format("{}{} {} (the first: {})", reasons.empty() ? "" : ", ", count, reason,
                           counts.first_dropped.at(reason));
  }
  const bool too_long = counts.dropped.contains("too_long") && max_length;
  throw DataError(fmt::format("{}: all {} rows were dropped: {}{}. --preview shows rows with their mask", set,
                              counts.rows_in, reasons, too_long ? fmt::format("; max_length is {}", *max_length) : ""));
}

Json counts_to_json(const RowCounts& counts) {
  Json dropped = Json::object();
  for (const auto& [reason, count] : counts.dropped) dropped[reason] = count;
  return {{"rows_in", counts.rows_in},
          {"rows_kept", counts.rows_kept},
          {"dropped", dropped},
          {"truncated", counts.truncated},
          {"tokens", counts.tokens},
          {"label_tokens", counts.label_tokens},
          {"length",
           {{"p50", counts.percentile(0.50)},
            {"p95", counts.percentile(0.95)},
            {"max", counts.lengths.empty() ? 0 : counts.lengths.back()}}},
          {"duplicates", counts.duplicates}};
}

}  // namespace

Json PreparedData::manifest() const {
  Json manifest = counts_to_json(train.counts);
  manifest["leaked"] = leaked;
  manifest["fingerprint"] = fingerprint();
  if (eval) manifest["eval"] = counts_to_json(eval->counts);
  return manifest;
}

PreparedData prepare_data(const fs::path& model_folder, const DataOptions& options, std::uint64_t seed) {
  const DataSources sources = open_data(options, seed);
  const RowEncoder encoder(model_folder, options, sources.datasets());
  return prepare_data(sources, encoder, read_model_limits(model_folder), seed);
}

PreparedData prepare_data(const DataSources& sources, const RowEncoder& encoder, const ModelLimits& model_limits,
                          std::uint64_t seed) {
  const ModelLimits limits = resolve_limits(encoder.options(), model_limits);
  PreparedData data;
  data.fingerprint_parts = fingerprint_parts(sources, encoder, limits, seed);
  const auto encode = [&](const Dataset& dataset, const char* name) {
    EncodedSet set = encode_rows(dataset, encoder, limits, data.fingerprint_parts);
    refuse_empty(set.counts, name, limits.positions);
    if (const auto problem = end_token_problem(set.counts, encoder)) throw DataError(*problem);
    for (auto& warning : warnings_of(set.counts, name)) data.warnings.push_back(std::move(warning));
    return set;
  };
  data.train = encode(sources.train, "dataset");
  if (!sources.eval) return data;
  data.eval = encode(*sources.eval, "eval_dataset");
  data.leaked = count_leaked(data.train.rows, data.eval->rows);
  if (data.leaked > 0) {
    data.warnings.push_back(
        fmt::format("{} of {} evaluation rows are also training rows", data.leaked, data.eval->counts.rows_kept));
  }
  return data;
}

void write_prepared(const PreparedData& data, const fs::path& folder) {
  data.train.rows.save(folder / "train.bin");
  if (data.eval) data.eval->rows.save(folder / "eval.bin");
  write_file(folder / "manifest.json", data.manifest().dump(2) + "\n");
}

OpenedData open_prepared(const fs::path& folder) {
  if (!fs::is_directory(folder)) throw DataError(fmt::format("{}: prepared_dir is no folder", folder.string()));
  OpenedData data{PreparedSet::open(folder / "train.bin"), std::nullopt};
  if (fs::exists(folder / "eval.bin")) data.eval = PreparedSet::open(folder / "eval.bin");
  const Json manifest = read_json(folder / "manifest.json");
  const bool fits =
      manifest.is_object() && manifest.value("fingerprint", Json()) == sha256(data.train.metadata().dump());
  if (!fits || (data.eval && data.eval->metadata() != data.train.metadata())) {
    throw DataError(fmt::format("{}: its files are of different runs of prepare; run prepare again", folder.string()));
  }
  return data;
}

}  // namespace qlora
