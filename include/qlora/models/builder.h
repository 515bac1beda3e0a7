// What an architecture's file writes against: it names weights and connects operations, and never mentions LoRA,
// quantization or training.
#pragma once

#include <string>
#include <vector>

#include "qlora/models/decoder.h"
#include "qlora/nn/attention.h"

namespace qlora {

struct Linear {
  std::string name;  // without ".weight"
  std::int64_t out = 0;
  bool bias = false;
};

class DecoderBuilder {
 public:
  DecoderBuilder(Decoder& decoder, const TrainingPlan& plan) : decoder_(decoder), plan_(plan) {}

  const ModelConfig& config() const { return decoder_.config_; }
  Dtype dtype() const { return decoder_.dtype(); }
  at::Device device() const { return decoder_.device(); }

  // The first block.
  void embedding(const std::string& name);
  // Starts the next block, of one layer.
  Block& begin_block();

  Block::Value rms_norm(Block& block, const std::string& name, std::int64_t columns, Block::Value input);
  // Linears that share an input as one product; their biases are all there or all absent.
  Block::Value projection(Block& block, const std::vector<Linear>& linears, std::int64_t in, Block::Value input,
                          std::optional<Block::Value> residual = std::nullopt);

  // The last block. `head`: the output head's weight, or the embedding's where they are tied.
  void head(const std::string& norm, const std::string& head);

 private:
  struct Vector {
    std::string name;
    std::int64_t size;
  };
  Weight vectors(const std::vector<Vector>& members);
  Weight matrix(const std::vector<WeightMember>& members);
  std::vector<LoraSegment> adapters(const std::vector<Linear>& linears, std::int64_t in);

  Decoder& decoder_;
  const TrainingPlan& plan_;
  std::vector<Block> body_;
};

}  // namespace qlora
