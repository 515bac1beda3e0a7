// What an architecture's file writes against: it names weights and connects operations, and never mentions LoRA,
// quantization or training.
#pragma once

#include <string>
#include <vector>

#include "qlora/models/decoder.h"
#include "qlora/nn/attention.h"
#include "qlora/nn/rope.h"
#include "qlora/nn/routing.h"

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
  // Of each query and key head by itself, in what projects queries, keys and values.
  Block::Value head_norm(Block& block, const std::string& query, const std::string& key, Block::Value qkv);
  // Linears that share an input as one product; their biases are all there or all absent.
  Block::Value projection(Block& block, const std::vector<Linear>& linears, std::int64_t in, Block::Value input,
                          std::optional<Block::Value> residual = std::nullopt);

  // RoPE, where the layer has it, and attention over queries, keys and values side by side.
  Block::Value attention(Block& block, std::int64_t layer, Block::Value qkv);
  AttentionShape attention_shape(std::int64_t layer) const;
  // The model's activation of gate, times up, which lie side by side.
  Block::Value gated_activation(Block& block, Block::Value gate_up);
  // The convolution `name` between its gates; input [tokens, 3 * hidden].
  Block::Value short_convolution(Block& block, const std::string& name, std::int64_t layer, Block::Value input);
  Block::Value add(Block& block, Block::Value x, Block::Value residual);

  // --- mixtures of experts ---
  // Which experts a token goes through, by the linear `name`: a Routing's output.
  Block::Value route(Block& block, const std::string& name, Block::Value input);
  // The linears `prefix` + N + "." + name of every expert N, over the tokens that go to it; `linears` without biases.
  Block::Value dispatch(Block& block, const std::string& prefix, const std::vector<Linear>& linears, Block::Value input,
                        Block::Value routing);
  Block::Value expert_activation(Block& block, Block::Value gate_up);
  // residual + what the last linears of each token's experts say, weighted.
  Block::Value combine(Block& block, const std::string& prefix, const std::string& linear, Block::Value input,
                       Block::Value routing, Block::Value residual);

  // The last block. `head`: the output head's weight, or the embedding's where they are tied.
  void head(const std::string& norm, const std::string& head);

 private:
  struct Vector {
    std::string name;
    std::int64_t size;
  };
  Weight vectors(const std::vector<Vector>& members);
  Weight matrix(const std::vector<WeightMember>& members);
  // The weight of module `name`: a parameter where the plan trains it whole, else the one of module `stored`.
  Weight whole_or_frozen(const std::string& name, const Shape& shape, const std::string& stored);
  Weight norm_weight(const std::string& name, std::int64_t columns);
  // The linears, which share an input, as one product over `weight`, or over weights of their own.
  Projection make_projection(const std::vector<Linear>& linears, std::int64_t in, bool residual,
                             std::optional<Weight> weight = std::nullopt);
  std::vector<Projection> expert_projections(const std::string& prefix, const std::vector<Linear>& linears,
                                             std::int64_t in);
  std::vector<LoraSegment> adapters(const std::vector<Linear>& linears, std::int64_t in, bool embedding = false);

  // The table of a layer's RoPE, which layers of its kind share.
  std::shared_ptr<RopeTable> rope_table(std::int64_t layer);

  Decoder& decoder_;
  const TrainingPlan& plan_;
  std::shared_ptr<RopeTable> rope_, windowed_rope_;
  std::shared_ptr<RouterBalance> balance_;
  std::int64_t routers_ = 0;
  std::vector<Block> body_;
};

}  // namespace qlora
