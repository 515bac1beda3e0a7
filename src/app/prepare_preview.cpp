// `--preview`: rows as they would be learnt, with the mask in view.
#include <unistd.h>

#include <algorithm>

#include <spdlog/fmt/fmt.h>

#include "qlora/app/output.h"
#include "qlora/app/prepare_pages.h"
#include "qlora/core/log.h"

namespace qlora {
namespace {

constexpr int kIgnored = -100;  // the label of a token without loss, as in transformers

void warn_about(const Example& example, const EncodedRow& row, const RowEncoder& encoder, const ModelLimits& limits) {
  if (row.targets() == 0) log_warning("{}: no token of this row carries loss: training drops it", example.place);
  if (limits.positions && static_cast<std::int64_t>(row.ids.size()) > *limits.positions) {
    EncodedRow rest = row;
    rest.truncate(*limits.positions);
    const bool stays = encoder.options().overflow == Overflow::kTruncate && rest.targets() > 0;
    log_warning("{}: {} tokens are more than max_length {}: the row would be {}", example.place, row.ids.size(),
                *limits.positions, stays ? "truncated" : "dropped");
  }
  for (const auto id : row.ids) {
    if (!limits.vocabulary || id < *limits.vocabulary) continue;
    log_warning("{}: token {} is outside the model's vocabulary of {}", example.place, id, *limits.vocabulary);
    break;
  }
}

}  // namespace

Json preview_json(const Example& example, const Rendered& rendered, const EncodedRow& row) {
  Json labels = Json::array();
  for (std::size_t i = 0; i < row.ids.size(); ++i) labels.push_back(row.labelled[i] != 0 ? row.ids[i] : kIgnored);
  return {{"id", example.id},
          {"text", rendered.text},
          {"prompt", rendered.prompt ? Json(*rendered.prompt) : Json(nullptr)},
          {"input_ids", row.ids},
          {"labels", std::move(labels)}};
}

std::string preview_text(const Example& example, const Rendered& rendered, const EncodedRow& row) {
  constexpr const char* kGreen = "\033[32m";
  constexpr const char* kPlain = "\033[0m";
  std::string text = fmt::format("--- {} ({}): {} tokens, {} with loss\n", example.id.dump(), example.place,
                                 row.ids.size(), row.label_tokens());
  std::size_t at = 0;
  for (std::size_t i = 0; i < row.ids.size(); ++i) {
    const std::size_t end = std::max(row.spans[i].end, at);  // a character of several tokens is shown once
    const std::string piece = rendered.text.substr(at, end - at);
    if (!piece.empty()) text += row.labelled[i] != 0 ? kGreen + piece + kPlain : piece;
    at = end;
  }
  text += rendered.text.substr(at);
  return text.ends_with('\n') ? text : text + '\n';
}

void show_preview(const DataSources& sources, const RowEncoder& encoder, const ModelLimits& limits, std::int64_t count,
                  bool json) {
  const bool as_text = !json && isatty(STDOUT_FILENO) != 0 && stdout_takes_colour();
  RowCounts counts;
  const auto rows =
      std::min<std::size_t>(sources.train.size(), static_cast<std::size_t>(std::max<std::int64_t>(count, 0)));
  const auto stops = encoder.stop_ids();
  for (std::size_t i = 0; i < rows; ++i) {
    const Example example = encoder.example(sources.train, i);
    const Rendered rendered = encoder.render(example);
    const EncodedRow row = encoder.encode(rendered);
    if (example.kind != Example::Kind::kText && row.targets() > 0) {
      ++counts.end_tokens[row.end_token];
      counts.without_end += std::find(stops.begin(), stops.end(), row.end_token) == stops.end();
    }
    warn_about(example, row, encoder, limits);
    const std::string line =
        as_text ? preview_text(example, rendered, row) : json_line(preview_json(example, rendered, row));
    print_text(line);
  }
  if (const auto problem = end_token_problem(counts, encoder)) log_warning("{}", *problem);
}

}  // namespace qlora
