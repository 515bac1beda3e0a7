#include "qlora/data/dataset.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <iterator>
#include <numeric>
#include <set>

#include <fmt/format.h>

#include "qlora/core/error.h"
#include "qlora/core/hash.h"
#include "qlora/data/random.h"
#include "qlora/hub/repository.h"

namespace qlora {
namespace fs = std::filesystem;
namespace {

constexpr std::uint64_t kWeightStream = 1, kSplitStream = 2;

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
  return text;
}

bool is_json(const fs::path& file) {
  const std::string extension = lower(file.extension().string());
  return extension == ".json" || extension == ".jsonl" || extension == ".ndjson";
}

void refuse_other_containers(const fs::path& file) {
  static const std::set<std::string> kKnown = {".csv", ".tsv", ".parquet", ".arrow", ".gz", ".zst", ".bz2", ".xz"};
  const std::string extension = lower(file.extension().string());
  if (kKnown.contains(extension)) {
    throw UsageError(fmt::format("{}: reading {} is not built yet; JSON and JSONL are read", file.string(), extension));
  }
}

// Whether a file of a folder belongs to a split: its name, or that of its folder, has the split as a word.
bool belongs_to(const fs::path& relative, const std::string& split) {
  const std::string text = lower(relative.string());
  for (auto at = text.find(split); at != std::string::npos; at = text.find(split, at + 1)) {
    const auto is_letter = [&](std::size_t i) {
      return i < text.size() && std::isalpha(static_cast<unsigned char>(text[i]));
    };
    if ((at == 0 || !is_letter(at - 1)) && !is_letter(at + split.size())) return true;
  }
  return false;
}

// Relative to the folder.
std::vector<fs::path> names_in(const fs::path& folder) {
  std::vector<fs::path> names;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file()) names.push_back(entry.path().lexically_relative(folder));
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<fs::path> files_of_split(const std::vector<fs::path>& files, const std::vector<std::string>& names) {
  std::vector<fs::path> chosen;
  for (const auto& name : names) {
    std::copy_if(files.begin(), files.end(), std::back_inserter(chosen),
                 [&](const fs::path& file) { return belongs_to(file, name); });
    if (!chosen.empty()) break;
  }
  return chosen;
}

std::vector<std::string> names_of_split(const std::string& split, Dataset::Role role) {
  const std::string name = lower(split);
  if (name == "validation" || name == "dev" || name == "valid" || name == "val") {
    return {name, "validation", "dev", "valid", "val"};
  }
  if (!name.empty()) return {name};
  if (role == Dataset::Role::kTraining) return {"train"};
  return {"validation", "dev", "valid", "val", "eval", "test"};
}

// What describes a data set beside its rows.
bool is_description(const fs::path& file) {
  static const std::set<std::string> kKnown = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json",
                                               "state.json"};
  return kKnown.contains(file.filename().string()) || file.filename().string().starts_with(".");
}

// Of the files of a folder or repository those of the entry's split. Where no file is named after any split, all are
// the training rows.
std::vector<fs::path> choose_files(const std::vector<fs::path>& names, const DatasetEntry& entry, Dataset::Role role) {
  std::vector<fs::path> files;
  std::copy_if(names.begin(), names.end(), std::back_inserter(files),
               [](const fs::path& name) { return is_json(name) && !is_description(name); });
  if (files.empty()) {
    for (const auto& name : names) refuse_other_containers(entry.path / name);
    throw DataError(fmt::format("{}: it holds no .json or .jsonl file", entry.path));
  }
  auto chosen = files_of_split(files, names_of_split(entry.split, role));
  if (!chosen.empty()) return chosen;
  const bool named = !files_of_split(files, {"train", "validation", "dev", "valid", "val", "eval", "test"}).empty();
  if (entry.split.empty() || (lower(entry.split) == "train" && !named)) return files;
  throw DataError(
      fmt::format("{}: no .json or .jsonl file in it is named after the split '{}'", entry.path, entry.split));
}

std::vector<fs::path> below(const fs::path& folder, std::vector<fs::path> names) {
  for (fs::path& name : names) name = folder / name;
  return names;
}

std::vector<fs::path> files_of_repository(const DatasetEntry& entry, Dataset::Role role) {
  HubRepository repository({HubKind::kDataset, entry.path}, entry.revision);
  const auto chosen = choose_files({repository.files().begin(), repository.files().end()}, entry, role);
  return below(repository.fetch({chosen.begin(), chosen.end()}), chosen);
}

}  // namespace

std::vector<fs::path> files_of(const DatasetEntry& entry, Dataset::Role role) {
  const fs::path path = entry.path;
  if (path.empty()) throw UsageError("dataset: an entry names no path");
  if (fs::is_directory(path)) return below(path, choose_files(names_in(path), entry, role));
  if (!fs::exists(path)) {
    if (names_hub_repository(entry.path) && !is_json(path)) return files_of_repository(entry, role);
    throw DataError(fmt::format("{}: no such file or folder", entry.path));
  }
  refuse_other_containers(path);
  if (!entry.split.empty() && lower(entry.split) != "train") {
    throw UsageError(
        fmt::format("{}: a single file has no split '{}'; name the file of that split", entry.path, entry.split));
  }
  return {path};
}

Dataset::Dataset(const std::vector<DatasetEntry>& entries, Role role, std::uint64_t seed) {
  std::uint64_t number = 0;
  for (const auto& entry : entries) add_entry(entry, role, seed, number);
}

void Dataset::add_entry(const DatasetEntry& entry, Role role, std::uint64_t seed, std::uint64_t& number) {
  std::vector<Ref> refs;
  const auto limit = static_cast<std::size_t>(entry.limit.value_or(INT64_MAX));
  for (const auto& file : files_of(entry, role)) {
    auto rows = std::make_shared<const JsonRows>(file);
    if (rows->size() == 0) throw DataError(fmt::format("{}: the file holds no row", file.string()));
    const auto* format = entry.format == DataFormat::kAuto ? nullptr : &row_format(entry.format);
    try {
      if (format == nullptr) format = &guess_row_format(rows->parse(0));
    } catch (const DataError& error) {
      const std::string what = error.what();
      throw DataError(what.starts_with(file.string()) ? what : fmt::format("{}: {}", rows->place(0), what));
    }
    const auto source = static_cast<std::uint32_t>(sources_.size());
    for (std::uint32_t row = 0; row < rows->size() && refs.size() < limit; ++row)
      refs.push_back({source, row, number++});
    sources_.push_back({std::move(rows), format});
  }
  const double whole = std::floor(entry.weight);
  for (double copy = 0; copy < whole; ++copy) refs_.insert(refs_.end(), refs.begin(), refs.end());
  const auto part = static_cast<std::size_t>(std::llround((entry.weight - whole) * static_cast<double>(refs.size())));
  auto generator = seeded_generator(seed, kWeightStream);
  shuffle_in_place(refs, generator);
  refs.resize(part);
  std::sort(refs.begin(), refs.end(), [](const Ref& a, const Ref& b) { return a.number < b.number; });
  refs_.insert(refs_.end(), refs.begin(), refs.end());
}

Example Dataset::example(std::size_t i, const FormatContext& context,
                         const std::optional<std::string>& system_prompt) const {
  const Ref& ref = refs_[i];
  const Source& source = sources_[ref.source];
  Json row = source.rows->parse(ref.row);
  try {
    Example example = read_example(*source.format, std::move(row), context, system_prompt);
    example.place = place(i);
    if (example.id.is_null()) example.id = ref.number;
    return example;
  } catch (const DataError& error) {
    throw DataError(fmt::format("{}: {}", place(i), error.what()));
  }
}

std::string Dataset::place(std::size_t i) const {
  return sources_[refs_[i].source].rows->place(refs_[i].row);
}

std::vector<const RowFormat*> Dataset::formats() const {
  std::vector<const RowFormat*> formats;
  for (const Source& source : sources_) {
    if (std::find(formats.begin(), formats.end(), source.format) == formats.end()) formats.push_back(source.format);
  }
  return formats;
}

Dataset Dataset::split_off(std::size_t count, std::uint64_t seed) {
  std::vector<std::size_t> order(refs_.size());
  std::iota(order.begin(), order.end(), 0);
  auto generator = seeded_generator(seed, kSplitStream);
  shuffle_in_place(order, generator);
  std::vector<bool> chosen(refs_.size());
  for (std::size_t i = 0; i < std::min(count, order.size()); ++i) chosen[order[i]] = true;
  Dataset other;
  other.sources_ = sources_;
  std::vector<Ref> kept;
  for (std::size_t i = 0; i < refs_.size(); ++i) (chosen[i] ? other.refs_ : kept).push_back(refs_[i]);
  refs_ = std::move(kept);
  return other;
}

std::string Dataset::fingerprint() const {
  Sha256 hash;
  for (const Ref& ref : refs_) {
    const Source& source = sources_[ref.source];
    const auto bytes = source.rows->source(ref.row);
    hash.update(fmt::format("{} {} {}\n", source.format->name, ref.number, bytes.size()));
    hash.update(bytes);
  }
  return hash.hex();
}

}  // namespace qlora
