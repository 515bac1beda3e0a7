// A decoder-only language model: blocks of operations over a WeightStore and a ParameterSet.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "qlora/models/config.h"
#include "qlora/nn/block.h"
#include "qlora/nn/head.h"
#include "qlora/nn/kv_cache.h"
#include "qlora/nn/parameters.h"
#include "qlora/nn/projection.h"
#include "qlora/quant/weight_store.h"

namespace qlora {

// How one linear is adapted.
struct LoraSettings {
  std::int64_t rank = 16;
  double scale = 2.0;
  double dropout = 0.0;
  bool dora = false;  // weights as magnitude and direction
};

// What is trained. Modules are named as in the checkpoint without ".weight": "model.layers.0.self_attn.q_proj".
struct TrainingPlan {
  bool full = false;                                                           // every weight
  std::function<std::optional<LoraSettings>(const std::string& module)> lora;  // else these, over frozen weights
  std::function<bool(const std::string& module)> whole;  // and these instead of their frozen weights; may be empty
  double embedding_noise = 0.0;                          // NEFTune's alpha
  std::uint64_t seed = 0;                                // of dropout masks and noise
};

struct AdapterPlace {
  std::string linear;  // or the embedding
  std::int64_t in = 0, out = 0;
  LoraSettings settings;
  bool embedding = false;
  ParameterSet::Id a = -1, b = -1, magnitude = -1;
};

// The modules of an architecture, in the model's order.
struct ModuleNames {
  std::vector<std::string> linears;  // of its blocks
  std::vector<std::string> routers;  // those of them that choose experts: never in 4 bits
  std::vector<std::string> experts;  // those of them that are parts of experts
  std::vector<std::string> norms;
  std::string embedding, head;  // the head's own name, tied or not
};

enum class HeadKind { kLoss, kNll, kLogits };

class Decoder {
 public:
  // Builds the architecture that config.model_type names. Weights of an earlier decoder in `store` are shared: several
  // adapters over one base. Throws UsageError listing what is known for an unknown model_type.
  Decoder(ModelConfig config, std::shared_ptr<WeightStore> store, const TrainingPlan& plan);

  const ModelConfig& config() const { return config_; }
  ParameterSet& parameters() { return parameters_; }
  const ParameterSet& parameters() const { return parameters_; }
  WeightStore& store() { return *store_; }
  const WeightStore& store() const { return *store_; }
  const std::vector<AdapterPlace>& adapters() const { return adapters_; }
  const ModuleNames& modules() const { return modules_; }
  // The parameters that TrainingPlan::whole chose.
  const std::vector<ParameterSet::Id>& whole() const { return whole_; }
  at::ScalarType dtype() const { return store_->dtype(); }
  at::Device device() const { return store_->device(); }

  // The blocks of a pass that ends in this head. They share operations, so weights, with each other.
  const std::vector<Block>& blocks(HeadKind head) const;

  // What a cache keeps of each layer.
  std::vector<CacheLayer> cache_layers() const;

  // Bytes of the embedding's table that move_embedding_to_host() takes off the device: of its few rows that a batch
  // names, the rest need not be there. 0 where it is trained, or is the output head, too.
  std::int64_t movable_embedding_bytes() const;
  void move_embedding_to_host();

  // Where a checkpoint's tensor goes: a parameter (method full) or the store. False: the model has no such weight.
  bool wants(const std::string& name) const;
  void put(const std::string& name, const at::Tensor& values);
  void put(const std::string& name, const Nf4Tensor& codes);  // dequantized where the weight is not held in NF4
  void put_parameter(const std::string& name, const at::Tensor& values);  // and nowhere else
  std::vector<std::string> missing() const;

  // A uniform in +-1/sqrt(in) (kaiming_uniform with a = sqrt(5), as PEFT), or normal with deviation 1/rank; B zero. Of
  // an embedding A zero, B normal. Magnitudes are the norms of the weights' rows: those must be there.
  void initialize_adapters(std::uint64_t seed, bool gaussian);
  // Normal with deviation initializer_range for matrices, norms that multiply by one, zeros for biases: as transformers
  // does.
  void initialize_weights(std::uint64_t seed);

 private:
  friend class DecoderBuilder;
  bool starts_tied_head() const;
  ModelConfig config_;
  std::shared_ptr<WeightStore> store_;
  ParameterSet parameters_;
  std::vector<AdapterPlace> adapters_;
  std::vector<ParameterSet::Id> whole_;
  ModuleNames modules_;
  std::vector<Block> loss_, nll_, logits_;
  std::vector<std::string> filled_;  // parameters that put() has filled
};

// What a decoder of this config is made of, without its weights.
ModuleNames module_names(const ModelConfig& config);
// Its linears that all-linear means: all but the output head.
std::vector<std::string> linear_names(const ModelConfig& config);

}  // namespace qlora
