// Problems as text, and the spelling that was probably meant.
#include "qlora/core/problem.h"

#include <algorithm>
#include <tuple>

#include "qlora/core/error.h"

namespace qlora {
namespace {

// Edits (insert, delete, replace, swap of neighbours) from a to b: optimal string alignment.
size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<std::vector<size_t>> cost(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) {
    for (size_t j = 0; j <= b.size(); ++j) {
      if (i == 0 || j == 0) {
        cost[i][j] = i + j;
        continue;
      }
      const size_t replaced = cost[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      cost[i][j] = std::min({cost[i - 1][j] + 1, cost[i][j - 1] + 1, replaced});
      const bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (swapped) cost[i][j] = std::min(cost[i][j], cost[i - 2][j - 2] + 1);
    }
  }
  return cost[a.size()][b.size()];
}

}  // namespace

std::string Problem::line() const {
  std::string line = place.text();
  if (!line.empty()) line += ": ";
  if (!key.empty() && place.source != "--" + key) line += key + ": ";
  return line + message;
}

void Problems::wrong(const Place& place, const std::string& key, const std::string& message) {
  problems_.push_back({place, key, message, Problem::Kind::kWrong});
}

void Problems::not_built(const Place& place, const std::string& key, const std::string& feature) {
  problems_.push_back({place, key, feature + " is not built yet", Problem::Kind::kNotBuilt});
}

void Problems::add(const Problems& others, const std::string& prefix) {
  for (const Problem& problem : others.problems_) {
    problems_.push_back(problem);
    problems_.back().key.insert(0, prefix);
  }
}

bool Problems::any_wrong() const {
  return std::any_of(problems_.begin(), problems_.end(),
                     [](const Problem& problem) { return problem.kind == Problem::Kind::kWrong; });
}

void Problems::drop_not_built() {
  std::erase_if(problems_, [](const Problem& problem) { return problem.kind == Problem::Kind::kNotBuilt; });
}

std::string Problems::text() const {
  std::vector<Problem> sorted = problems_;
  // A file's problems by line; what has no line (flags, missing keys) after them, in the order it was found.
  std::stable_sort(sorted.begin(), sorted.end(), [](const Problem& a, const Problem& b) {
    const auto order = [](const Problem& p) { return std::tuple(p.place.line == 0, p.place.line, p.place.column); };
    return order(a) < order(b);
  });
  std::vector<std::string> lines;
  for (const Problem& problem : sorted) lines.push_back(problem.line());
  return joined(lines, "\n");
}

void Problems::raise() const {
  if (!problems_.empty()) throw UsageError(text());
}

std::string nearest(const std::string& word, const std::vector<std::string>& candidates) {
  constexpr size_t kLongest = 64;  // no key is longer, and the distance of long texts takes long
  if (word.size() > kLongest) return "";
  const size_t reach = std::max<size_t>(1, word.size() / 3);
  std::string best;
  size_t best_distance = reach + 1;
  for (const std::string& candidate : candidates) {
    const size_t distance = edit_distance(word, candidate);
    if (distance >= best_distance) continue;
    best = candidate;
    best_distance = distance;
  }
  return best;
}

std::string joined(const std::vector<std::string>& words, const std::string& separator) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : separator) + word;
  return text;
}

}  // namespace qlora
