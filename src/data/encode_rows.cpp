// All rows of a data set encoded on all cores, and what became of each.
#include <algorithm>
#include <cmath>
#include <set>
#include <unordered_set>

#include <fmt/format.h>

#include "qlora/core/error.h"
#include "qlora/core/parallel.h"
#include "qlora/core/signal.h"
#include "qlora/data/prepare.h"

namespace qlora {
namespace {

struct EncodedExample {
  EncodedRow row;
  Json id;
  bool answers = false;  // ends in an answer, which must end in a token
  bool only_last = false;
};

void check_vocabulary(const EncodedRow& row, const Dataset& dataset, std::size_t i, const Tokenizer& tokenizer,
                      std::optional<std::int64_t> vocabulary) {
  if (!vocabulary) return;
  for (const auto id : row.ids) {
    if (id < *vocabulary) continue;
    throw DataError(
        fmt::format("{}: token {} ({}) is outside the model's vocabulary of {}: the tokenizer belongs to "
                    "another model",
                    dataset.place(i), id, tokenizer.token_of(id).value_or("?"), *vocabulary));
  }
}

EncodedExample encode_example(const Dataset& dataset, std::size_t i, const RowEncoder& encoder,
                              const ModelLimits& limits) {
  const Example example = encoder.example(dataset, i);
  const Rendered rendered = encoder.render(example);
  EncodedExample encoded{encoder.encode(rendered), example.id, example.kind != Example::Kind::kText,
                         rendered.only_last};
  check_vocabulary(encoded.row, dataset, i, encoder.tokenizer(), limits.vocabulary);
  encoded.row.spans = {};
  return encoded;
}

// Decides about one row: counts it, and cuts it where that is asked for. False: it is dropped.
bool keep_row(EncodedExample& example, const std::string& place, const RowEncoder& encoder, const ModelLimits& limits,
              RowCounts& counts) {
  ++counts.rows_in;
  EncodedRow& row = example.row;
  const auto drop = [&](const char* reason) {
    ++counts.dropped[reason];
    counts.first_dropped.emplace(reason, place);
    return false;
  };
  const bool too_long = limits.positions && static_cast<std::int64_t>(row.ids.size()) > *limits.positions;
  if (row.targets() == 0) return drop("no_label");
  if (too_long && encoder.options().overflow == Overflow::kDrop) return drop("too_long");
  if (example.answers) {
    ++counts.end_tokens[row.end_token];
    const auto stops = encoder.stop_ids();
    counts.without_end += std::find(stops.begin(), stops.end(), row.end_token) == stops.end();
    counts.only_last += example.only_last;
  }
  if (too_long) {
    row.truncate(*limits.positions);
    if (row.targets() == 0) return drop("too_long");  // what is left of it says nothing to learn
    ++counts.truncated;
  }
  ++counts.rows_kept;
  counts.tokens += static_cast<std::int64_t>(row.ids.size());
  counts.label_tokens += row.label_tokens();
  counts.lengths.push_back(static_cast<std::int64_t>(row.ids.size()));
  return true;
}

std::string_view bytes_of(std::span<const std::int32_t> ids) {
  return {reinterpret_cast<const char*>(ids.data()), ids.size_bytes()};
}

std::unordered_set<std::string_view> distinct_rows(const PreparedSet& set) {
  std::unordered_set<std::string_view> rows;
  for (std::size_t row = 0; row < set.size(); ++row) rows.insert(bytes_of(set.ids(row)));
  return rows;
}

}  // namespace

std::int64_t RowCounts::percentile(double share) const {
  if (lengths.empty()) return 0;
  const auto rank = static_cast<std::size_t>(std::ceil(share * static_cast<double>(lengths.size())));
  return lengths[std::max<std::size_t>(rank, 1) - 1];
}

EncodedSet encode_rows(const Dataset& dataset, const RowEncoder& encoder, const ModelLimits& limits,
                       const Json& metadata, RowRange range) {
  constexpr std::int64_t kRowsAtOnce = 16;
  std::vector<EncodedExample> examples(std::min(range.end, dataset.size()) - range.begin);
  parallel_for(static_cast<std::int64_t>(examples.size()), kRowsAtOnce, [&](std::int64_t begin, std::int64_t end) {
    throw_if_stopped();
    for (auto i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end); ++i) {
      examples[i] = encode_example(dataset, range.begin + i, encoder, limits);
    }
  });
  EncodedSet set;
  std::vector<EncodedRow> rows;
  std::vector<Json> ids;
  std::set<std::uint64_t> numbers;
  for (std::size_t i = 0; i < examples.size(); ++i) {
    if (!keep_row(examples[i], dataset.place(range.begin + i), encoder, limits, set.counts)) continue;
    numbers.insert(dataset.number(range.begin + i));
    rows.push_back(std::move(examples[i].row));
    ids.push_back(std::move(examples[i].id));
  }
  std::sort(set.counts.lengths.begin(), set.counts.lengths.end());
  set.rows = PreparedSet::from_rows(rows, ids, metadata);
  set.counts.duplicates = static_cast<std::int64_t>(numbers.size() - distinct_rows(set.rows).size());
  return set;
}

std::int64_t count_leaked(const PreparedSet& train, const PreparedSet& eval) {
  const auto known = distinct_rows(train);
  std::int64_t leaked = 0;
  for (std::size_t row = 0; row < eval.size(); ++row) leaked += known.contains(bytes_of(eval.ids(row)));
  return leaked;
}

}  // namespace qlora
