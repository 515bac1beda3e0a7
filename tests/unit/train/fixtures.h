// A tiny Llama over random weights, prepared rows, and files that vanish with the test.
#pragma once

#include <unistd.h>

#include <atomic>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include <ATen/ops/ones.h>

#include "qlora/data/prepared_set.h"
#include "qlora/models/decoder.h"

namespace qlora::testing {

class TemporaryFolder {
 public:
  TemporaryFolder() {
    static std::atomic<int> number{0};
    path_ = std::filesystem::temp_directory_path() /
            ("qlora-train-" + std::to_string(getpid()) + "-" + std::to_string(number++));
    std::filesystem::create_directories(path_);
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

inline std::string read_bytes(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline void write_bytes(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

inline ModelConfig tiny_config() {
  ModelConfig c;
  c.model_type = "llama";
  c.vocabulary = 31;
  c.hidden = 12;
  c.intermediate = 20;
  c.layers = 2;
  c.heads = 4;
  c.kv_heads = 2;
  c.head_dim = 6;
  c.max_positions = 64;
  c.tied_embeddings = true;
  return c;
}

// With adapters of rank 2 on all linears, A random and B zero. Weights are `scale` times normal.
inline std::unique_ptr<Decoder> tiny_decoder(double dropout = 0.0, double scale = 0.3) {
  TrainingPlan plan;
  plan.lora = [dropout](const std::string&) { return LoraSettings{2, 2.0, dropout}; };
  plan.seed = 1;
  auto store = std::make_shared<WeightStore>(at::kCPU, at::kFloat, WeightPolicy{});
  auto decoder = std::make_unique<Decoder>(tiny_config(), store, plan);
  std::int64_t salt = 0;
  for (const std::string& name : decoder->missing()) {
    const Shape& shape = store->member(name).shape;
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
