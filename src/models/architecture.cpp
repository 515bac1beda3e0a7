#include "qlora/models/architecture.h"

#include <array>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "qlora/core/error.h"

namespace qlora {

const Architecture& find_architecture(const std::string& model_type, const std::string& origin) {
  static const std::array<const Architecture*, 2> kKnown{&kLlama, &kQwen2};
  std::vector<std::string> names;
  for (const Architecture* architecture : kKnown) {
    if (architecture->model_type == model_type) return *architecture;
    names.push_back(architecture->model_type);
  }
  throw UsageError(
      fmt::format("{}: model_type '{}' is not built yet; known are: {}", origin, model_type, fmt::join(names, ", ")));
}

}  // namespace qlora
