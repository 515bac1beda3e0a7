// Results of queries as tables of interned values, and their comparison as the test-suite evaluator does it in Python.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace qlora {

// Python finds 1 == 1.0, but sorts them as different texts: how a number was given is kept beside its identity.
enum class Rendering : uint8_t { kPlain, kFloat, kNegativeZero };

// One value: which distinct value it is, and how it was given.
struct Cell {
  uint32_t value = 0;
  Rendering rendering = Rendering::kPlain;
  bool operator==(const Cell& other) const { return value == other.value; }
};

// The distinct values of a gold result. NULL, whole numbers (an integral float among them), other floats, texts and
// blobs are told apart; texts have bytes that are no UTF-8 dropped first.
class ValuePool {
 public:
  // A value as SQLite hands it out, by the kind of the call.
  struct Value {
    std::string key;
    Rendering rendering = Rendering::kPlain;
  };
  static Value null();
  static Value integer(int64_t number);
  static Value real(double number);
  static Value text(std::string_view bytes);
  static Value blob(std::string_view bytes);

  // Throws std::length_error where the values would take more than `limit` bytes.
  explicit ValuePool(size_t limit_bytes) : limit_(limit_bytes) {}
  Cell add(Value value);
  // nullopt: the gold has no such value, so no row with it can be in the gold.
  std::optional<Cell> find(const Value& value) const;

  // What Python sorts a value of a row by: str(x) + str(type(x)).
  std::string sort_key(Cell cell) const;
  void reserve_cells(size_t count);
  size_t bytes() const { return bytes_; }

 private:
  std::unordered_map<std::string, uint32_t> ids_;
  std::vector<const std::string*> keys_;
  size_t limit_;
  size_t bytes_ = 0;
};

// Rows of equal width, row after row.
struct ResultTable {
  size_t columns = 0;
  std::vector<Cell> cells;
  size_t rows() const { return columns == 0 ? 0 : cells.size() / columns; }
};

// Whether some order of the columns makes the rows equal: as lists where the order matters, else as bags. Two empty
// results are equal, whatever their columns. Quirk of Python's kept: a row that has both 1.5 and a 1 that the other
// side gives as 1.0 may be sorted differently before the comparison, and is then unequal.
bool results_equal(const ResultTable& gold, const ResultTable& predicted, bool order_matters, const ValuePool& pool);

// `bytes` without what is no UTF-8, as Python's decode(errors="ignore") has it.
std::string valid_utf8(std::string_view bytes);

}  // namespace qlora
