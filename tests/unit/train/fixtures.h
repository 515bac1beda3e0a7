// A tiny Llama over random weights, and prepared rows.
#pragma once

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include <ATen/ops/ones.h>

#include "qlora/data/prepared_set.h"
#include "qlora/models/decoder.h"

#include "support/temporary_folder.h"
#include "support/tiny_model.h"

namespace qlora::testing {

// With adapters of rank 2 on all linears, A random and B zero. Weights are `scale` times normal. `all`: with DoRA, with
// adapters on embedding and head, a norm that is trained, and noise on the embeddings.
inline std::unique_ptr<Decoder> tiny_decoder(double dropout = 0.0, double scale = 0.3, bool all = false) {
  TrainingPlan plan;
  plan.lora = [dropout, all](const std::string& module) -> std::optional<LoraSettings> {
    const bool linear = module.ends_with("_proj");
    return linear || all ? std::optional(LoraSettings{2, 2.0, dropout, linear && all}) : std::nullopt;
  };
  plan.whole = [all](const std::string& module) { return all && module == "model.norm"; };
  plan.embedding_noise = all ? 5.0 : 0.0;
  plan.seed = 1;
  auto store = std::make_shared<WeightStore>(at::kCPU, at::kFloat, WeightPolicy{});
  ModelConfig config = tiny_config();
  config.tied_embeddings = true;
  auto decoder = std::make_unique<Decoder>(config, store, plan);
  std::int64_t salt = 0;
  for (const std::string& name : decoder->missing()) {
    const Shape& shape = store->has(name) ? store->member(name).shape : Shape{config.hidden};
    at::Tensor values = at::ones(shape);
    for (std::int64_t i = 0; shape.size() > 1 && i < values.numel(); ++i) {
      values.data_ptr<float>()[i] = static_cast<float>(scale * std::sin(static_cast<double>(++salt) * 12.9898));
    }
    decoder->put(name, values);
  }
  decoder->initialize_adapters(3, /*gaussian=*/false);
  return decoder;
}

// Rows of these lengths; all but the first two tokens of each carry loss. Row i has the id "row-i".
inline PreparedSet rows_of(const std::vector<int>& lengths, int salt = 0) {
  std::vector<EncodedRow> rows;
  std::vector<Json> ids;
  for (const int length : lengths) {
    EncodedRow row;
    for (int t = 0; t < length; ++t) {
      row.ids.push_back((7 * t + 3 * static_cast<int>(rows.size()) + salt + 1) % 31);
      row.labelled.push_back(t >= 2 ? 1 : 0);
    }
    ids.push_back("row-" + std::to_string(rows.size()));
    rows.push_back(std::move(row));
  }
  return PreparedSet::from_rows(rows, ids, Json::object());
}

}  // namespace qlora::testing
