// The table of architectures. A new one is a file beside llama.cpp, a line here, and a line in architecture.cpp.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "qlora/models/builder.h"
#include "qlora/models/config_fields.h"

namespace qlora {

struct Architecture {
  std::string model_type;
  // Reads what is this architecture's own in config.json: after the common fields, before those of RoPE.
  void (*configure)(const ConfigFields& fields, ModelConfig& config);
  void (*build)(DecoderBuilder& builder);
  // Parts of modules' names that are others in PEFT's adapters: those, and the checkpoint's.
  std::vector<std::pair<std::string, std::string>> renamed = {};
};

// Throws UsageError with one line that lists what is known.
const Architecture& find_architecture(const std::string& model_type, const std::string& origin);

extern const Architecture kGemma2;
extern const Architecture kGemma3;
extern const Architecture kGranite;
extern const Architecture kLfm2;
extern const Architecture kLlama;
extern const Architecture kMistral;
extern const Architecture kMixtral;
extern const Architecture kPhi3;
extern const Architecture kQwen2;
extern const Architecture kQwen3;
extern const Architecture kQwen3Moe;
extern const Architecture kSmolLm3;

// --- parts that several share ----------------------------------------------------------------------------------------

// Pre-norm attention and gated MLP with residuals, as Llama introduced it: what most architectures share.
void build_llama_like(DecoderBuilder& builder);
// The same with another MLP; `layer` ends in a dot.
using FeedForward = Block::Value (*)(DecoderBuilder& builder, Block& block, const std::string& layer,
                                     std::int64_t index, Block::Value input, Block::Value residual);
void build_llama_like(DecoderBuilder& builder, FeedForward feed_forward);

// Queries, keys and values, normed heads where the model has them, attention: all but the output's projection.
// `name` ends in "self_attn."; `norms`: what follows q and k in the names of the heads' norms.
Block::Value self_attention(DecoderBuilder& builder, Block& block, const std::string& name, std::int64_t layer,
                            Block::Value input, const std::string& norms = "_norm");

struct MlpNames {
  std::string gate = "gate_proj", up = "up_proj", down = "down_proj";
};
// `name` ends in "mlp.".
Block::Value gated_mlp(DecoderBuilder& builder, Block& block, const std::string& name, Block::Value input,
                       std::optional<Block::Value> residual, const MlpNames& names = {});

// A mixture of experts as Mixtral has it: the router `name` + "gate", its experts' linears under `name` + "experts.N.".
Block::Value expert_mlp(DecoderBuilder& builder, Block& block, const std::string& name, Block::Value input,
                        Block::Value residual, const MlpNames& names = {});

// How many experts there are and how many of them a token goes through, and the load-balancing loss.
struct ExpertCounts {
  std::int64_t experts, per_token;
};
void read_experts(const ConfigFields& fields, const ExpertCounts& otherwise, ModelConfig& config);

// `layer_types`, where config.json has it: "full_attention", "sliding_attention", "conv". Else those layers are
// windowed that `windowed` says so of.
std::vector<LayerKind> read_layer_kinds(const ConfigFields& fields, std::int64_t layers,
                                        const std::function<bool(std::int64_t layer)>& windowed);

// Qwen's fields: `use_sliding_window`, from layer `max_window_layers` on.
void read_upper_windows(const ConfigFields& fields, ModelConfig& config);

}  // namespace qlora
