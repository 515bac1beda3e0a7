// The config keys of generation.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "qlora/core/schema_fwd.h"

namespace qlora {

struct GenerateOptions {
  int64_t max_new_tokens = 256;
  double temperature = 0.0;  // 0: greedy
  double top_p = 1.0;
  int64_t top_k = 50;  // 0: all tokens
  double min_p = 0.0;
  double repetition_penalty = 1.0;
  std::vector<std::string> stop;      // an answer ends before the first of these texts
  std::optional<int64_t> batch_size;  // unset: what fits
  bool beside_training = false;       // no key: on a GPU fewer rows at a time, since the training's plan counts them
};

void declare(Schema<GenerateOptions>& schema);

}  // namespace qlora
