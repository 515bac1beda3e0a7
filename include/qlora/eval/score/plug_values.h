// A prediction with the gold's values in place of its own, as the test-suite evaluator scores models that predict none.
//
// Its quirks are kept: the rest of the prediction is in lower case with one space between tokens, a one-letter name
// with a number (c2, but not t1) counts as a value, tabs and semicolons are dropped.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace qlora {

class ValuePlugging {
 public:
  ValuePlugging(std::string_view gold, std::string_view prediction);

  // SQL to run, with another choice of values each time: all choices of one of the gold's distinct values for each
  // value of the prediction (the prediction itself, rewritten, where it has none; nothing where the gold has none).
  // nullopt after the last.
  std::optional<std::string> next();

 private:
  std::vector<std::string> words_;  // of the prediction
  std::vector<size_t> places_;      // of values among them
  std::vector<std::string> values_;
  std::vector<size_t> chosen_;  // a value for each place
  bool done_ = false;
};

}  // namespace qlora
