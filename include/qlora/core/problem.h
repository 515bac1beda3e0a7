// What is wrong with a config: collected, sorted by place, and reported together.
#pragma once

#include <string>
#include <vector>

#include "qlora/core/value.h"

namespace qlora {

struct Problem {
  enum class Kind { kWrong, kNotBuilt };

  Place place;
  std::string key;
  std::string message;
  Kind kind = Kind::kWrong;

  // "config.yaml:3:7: lora_r: expected a whole number, got "abc""
  std::string line() const;
};

class Problems {
 public:
  void wrong(const Place& place, const std::string& key, const std::string& message);
  // The one way to refuse what is declared and not built yet.
  void not_built(const Place& place, const std::string& key, const std::string& feature);
  // `prefix` comes before the keys of the others: "dataset.".
  void add(const Problems& others, const std::string& prefix = "");

  const std::vector<Problem>& all() const { return problems_; }
  bool empty() const { return problems_.empty(); }
  bool any_wrong() const;
  void drop_not_built();

  // One line a problem, in the order of their places. Empty where there is none.
  std::string text() const;
  // Throws UsageError with text() unless empty.
  void raise() const;

 private:
  std::vector<Problem> problems_;
};

// The nearest of `candidates` to `word` by edit distance (a swap of neighbours counts 1); empty where none is near.
std::string nearest(const std::string& word, const std::vector<std::string>& candidates);

// "a, b, c"
std::string joined(const std::vector<std::string>& words, const std::string& separator = ", ");

}  // namespace qlora
