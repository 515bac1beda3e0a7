#include "qlora/eval/score/result_table.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <set>
#include <stdexcept>

#include <spdlog/fmt/fmt.h>

namespace qlora {
namespace {

template <typename Number>
std::string tagged(char tag, Number number) {
  std::string key(1 + sizeof(number), tag);
  std::memcpy(key.data() + 1, &number, sizeof(number));
  return key;
}

template <typename Number>
Number untagged(const std::string& key) {
  Number number;
  std::memcpy(&number, key.data() + 1, sizeof(number));
  return number;
}

// Python's repr of a float.
std::string float_text(double number) {
  std::string text = fmt::format("{}", number);
  return text.find_first_of(".en") == std::string::npos ? text + ".0" : text;
}

std::string bytes_text(std::string_view bytes) {
  std::string text = "b'";
  for (unsigned char c : bytes) {
    text += c >= 0x20 && c < 0x7f && c != '\\' ? std::string(1, static_cast<char>(c)) : fmt::format("\\x{:02x}", c);
  }
  return text + "'";
}

// Length of the well-formed UTF-8 sequence at the start of `s`, or minus the bytes to drop.
int utf8_length(std::string_view s) {
  const auto byte = [&](size_t i) { return i < s.size() ? static_cast<unsigned char>(s[i]) : 0u; };
  const unsigned lead = byte(0);
  if (lead < 0x80) return 1;
  const int length = lead >= 0xc2 && lead <= 0xdf   ? 2
                     : lead >= 0xe0 && lead <= 0xef ? 3
                     : lead >= 0xf0 && lead <= 0xf4 ? 4
                                                    : 0;
  if (length == 0) return -1;
  const unsigned low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
  const unsigned high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
  for (int i = 1; i < length; ++i) {
    const unsigned next = byte(static_cast<size_t>(i));
    if (next < (i == 1 ? low : 0x80) || next > (i == 1 ? high : 0xbf)) return -i;
  }
  return length;
}

using Column = std::vector<uint32_t>;

std::vector<Column> columns_of(const ResultTable& table) {
  std::vector<Column> columns(table.columns);
  for (size_t i = 0; i < table.cells.size(); ++i) columns[i % table.columns].push_back(table.cells[i].value);
  return columns;
}

// Whether equal values come in more than one rendering, so that the quirk of results_equal can show.
bool mixed_renderings(const ResultTable& gold, const ResultTable& predicted) {
  std::map<uint32_t, Rendering> seen;
  for (const auto* table : {&gold, &predicted}) {
    for (const Cell& cell : table->cells) {
      const auto [found, added] = seen.emplace(cell.value, cell.rendering);
      if (!added && found->second != cell.rendering) return true;
    }
  }
  return false;
}

std::vector<Column> rows_sorted_inside(const ResultTable& table, const ValuePool& pool) {
  std::vector<Column> rows;
  for (size_t row = 0; row < table.rows(); ++row) {
    std::vector<std::pair<std::string, uint32_t>> keyed;
    for (size_t c = 0; c < table.columns; ++c) {
      const Cell cell = table.cells[row * table.columns + c];
      keyed.emplace_back(pool.sort_key(cell), cell.value);
    }
    std::sort(keyed.begin(), keyed.end());
    Column& values = rows.emplace_back();
    for (const auto& [key, value] : keyed) values.push_back(value);
  }
  return rows;
}

bool rows_may_be_equal(const ResultTable& gold, const ResultTable& predicted, bool order_matters,
                       const ValuePool& pool) {
  const auto a = rows_sorted_inside(gold, pool);
  const auto b = rows_sorted_inside(predicted, pool);
  return order_matters ? a == b : std::set<Column>(a.begin(), a.end()) == std::set<Column>(b.begin(), b.end());
}

// Finds an order of the predicted columns under which both tables are the same bag of rows, one gold column after the
// other. Rows that agree in the columns so far are one class; a step refines the classes of both tables alike and is
// given up when they no longer have the same sizes.
class BagMatcher {
 public:
  BagMatcher(std::vector<Column> gold, std::vector<Column> predicted)
      : gold_(std::move(gold)), predicted_(std::move(predicted)), used_(predicted_.size(), false) {
    for (const auto& column : gold_) sorted_gold_.push_back(sorted(column));
    for (const auto& column : predicted_) sorted_predicted_.push_back(sorted(column));
  }

  bool match() {
    const Column one_class(gold_.front().size(), 0);
    return match_from(0, one_class, one_class);
  }

 private:
  static Column sorted(Column column) {
    std::sort(column.begin(), column.end());
    return column;
  }

  bool match_from(size_t at, const Column& gold_class, const Column& predicted_class) {
    if (at == gold_.size()) return true;
    for (size_t j = 0; j < predicted_.size(); ++j) {
      if (used_[j] || sorted_predicted_[j] != sorted_gold_[at] || tried_its_equal(j)) continue;
      Column next_gold = gold_class;
      Column next_predicted = predicted_class;
      if (!refine(next_gold, gold_[at], next_predicted, predicted_[j])) continue;
      used_[j] = true;
      if (match_from(at + 1, next_gold, next_predicted)) return true;
      used_[j] = false;
    }
    return false;
  }

  bool tried_its_equal(size_t j) const {
    for (size_t i = 0; i < j; ++i) {
      if (!used_[i] && predicted_[i] == predicted_[j]) return true;
    }
    return false;
  }

  static bool refine(Column& gold, const Column& gold_values, Column& predicted, const Column& predicted_values) {
    std::unordered_map<uint64_t, std::pair<uint32_t, int64_t>> classes;  // (class, value) -> new class, balance
    const auto assign = [&](Column& rows, const Column& values, int64_t weight) {
      for (size_t i = 0; i < rows.size(); ++i) {
        const uint64_t key = (static_cast<uint64_t>(rows[i]) << 32) | values[i];
        auto& entry = classes.emplace(key, std::pair{static_cast<uint32_t>(classes.size()), int64_t{0}}).first->second;
        rows[i] = entry.first;
        entry.second += weight;
      }
    };
    assign(gold, gold_values, 1);
    assign(predicted, predicted_values, -1);
    return std::all_of(classes.begin(), classes.end(), [](const auto& entry) { return entry.second.second == 0; });
  }

  std::vector<Column> gold_, predicted_, sorted_gold_, sorted_predicted_;
  std::vector<bool> used_;
};

}  // namespace

ValuePool::Value ValuePool::null() {
  return {"N", Rendering::kPlain};
}
ValuePool::Value ValuePool::integer(int64_t number) {
  return {tagged('I', number), Rendering::kPlain};
}
ValuePool::Value ValuePool::text(std::string_view bytes) {
  return {"T" + valid_utf8(bytes), Rendering::kPlain};
}
ValuePool::Value ValuePool::blob(std::string_view bytes) {
  return {"B" + std::string(bytes), Rendering::kPlain};
}

ValuePool::Value ValuePool::real(double number) {
  const bool whole = number >= -0x1p63 && number < 0x1p63 && std::trunc(number) == number;
  if (!whole) return {tagged('F', number), Rendering::kFloat};
  const bool negative_zero = number == 0.0 && std::signbit(number);
  return {tagged('I', static_cast<int64_t>(number)), negative_zero ? Rendering::kNegativeZero : Rendering::kFloat};
}

Cell ValuePool::add(Value value) {
  const auto [found, added] = ids_.try_emplace(std::move(value.key), static_cast<uint32_t>(keys_.size()));
  if (added) {
    keys_.push_back(&found->first);
    bytes_ += found->first.size() + 80;  // and what the map's node takes
  }
  reserve_cells(1);
  return {found->second, value.rendering};
}

std::optional<Cell> ValuePool::find(const Value& value) const {
  const auto found = ids_.find(value.key);
  if (found == ids_.end()) return std::nullopt;
  return Cell{found->second, value.rendering};
}

void ValuePool::reserve_cells(size_t count) {
  bytes_ += 2 * count * sizeof(Cell);  // the gold's and, later, the prediction's
  if (bytes_ > limit_) throw std::length_error("the result is too large to compare");
}

std::string ValuePool::sort_key(Cell cell) const {
  const std::string& key = *keys_.at(cell.value);
  const std::string_view payload = std::string_view(key).substr(1);
  switch (key[0]) {
    case 'N':
      return "None<class 'NoneType'>";
    case 'F':
      return float_text(untagged<double>(key)) + "<class 'float'>";
    case 'T':
      return std::string(payload) + "<class 'str'>";
    case 'B':
      return bytes_text(payload) + "<class 'bytes'>";
    default:
      break;
  }
  const auto number = untagged<int64_t>(key);
  if (cell.rendering == Rendering::kPlain) return fmt::format("{}<class 'int'>", number);
  const double real = cell.rendering == Rendering::kNegativeZero ? -0.0 : static_cast<double>(number);
  return float_text(real) + "<class 'float'>";
}

bool results_equal(const ResultTable& gold, const ResultTable& predicted, bool order_matters, const ValuePool& pool) {
  if (gold.rows() == 0 && predicted.rows() == 0) return true;
  if (gold.rows() != predicted.rows() || gold.columns != predicted.columns) return false;
  if (mixed_renderings(gold, predicted) && !rows_may_be_equal(gold, predicted, order_matters, pool)) return false;
  auto gold_columns = columns_of(gold);
  auto predicted_columns = columns_of(predicted);
  if (!order_matters) return BagMatcher(std::move(gold_columns), std::move(predicted_columns)).match();
  std::sort(gold_columns.begin(), gold_columns.end());
  std::sort(predicted_columns.begin(), predicted_columns.end());
  return gold_columns == predicted_columns;
}

std::string valid_utf8(std::string_view bytes) {
  std::string out;
  while (!bytes.empty()) {
    const int length = utf8_length(bytes);
    if (length > 0) out += bytes.substr(0, static_cast<size_t>(length));
    bytes.remove_prefix(static_cast<size_t>(std::abs(length)));
  }
  return out;
}

}  // namespace qlora
