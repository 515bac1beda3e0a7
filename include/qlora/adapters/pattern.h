// Regular expressions over module names, as Python's re understands them; bounded, so that no pattern can hang.
#pragma once

#include <memory>
#include <string>
#include <string_view>

namespace qlora {

// Safe from several threads.
class NamePattern {
 public:
  // Throws DataError with the place where the expression is malformed.
  explicit NamePattern(const std::string& expression);
  ~NamePattern();
  NamePattern(NamePattern&&) noexcept;
  NamePattern& operator=(NamePattern&&) noexcept;

  // re.fullmatch. Throws DataError where matching takes too many steps.
  bool matches_whole(std::string_view name) const;

 private:
  struct Compiled;
  std::unique_ptr<Compiled> compiled_;
};

}  // namespace qlora
