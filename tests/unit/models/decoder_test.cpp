// The decoder's losses and gradients against the same formulas in plain ATen operations under torch::autograd, float64.
#include "qlora/models/decoder.h"

#include <map>
#include <set>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/variable.h>

#include "qlora/nn/program_cache.h"

#include "support/tiny_model.h"

namespace qlora {
namespace {

using Weights = std::map<std::string, at::Tensor>;

ModelConfig tiny(const std::string& type, bool tied, RopeScaling::Kind scaling = RopeScaling::Kind::kNone) {
  if (type != "llama" && type != "qwen2" && type != "experts") return tiny_architecture(type);
  ModelConfig c = tiny_config(type);
  if (type == "experts") {
    c.model_type = "mixtral";
    c.experts = 4;
    c.experts_per_token = 2;
    c.expert_intermediate = 9;
    c.normalized_routing = tied;  // so that the cases have both
  }
  c.tied_embeddings = tied;
  c.rope_scaling.kind = scaling;
  c.rope_scaling.factor = 8.0;
  c.rope_scaling.original_max_positions = 4;
  return c;
}

// Rows of the given lengths; labels everywhere but at each row's first `prompt` tokens; a tail up to the bucket.
Batch make_batch(const std::vector<std::int64_t>& lengths, std::int64_t vocabulary, std::int64_t prompt = 2) {
  Batch batch;
  batch.row_bounds = {0};
  std::vector<std::int64_t> ids, positions, labelled, targets;
  for (std::size_t row = 0; row < lengths.size(); ++row) {
    for (std::int64_t p = 0; p < lengths[row]; ++p) {
      if (p + 1 < lengths[row] && p + 1 >= prompt) labelled.push_back(static_cast<std::int64_t>(ids.size()));
      ids.push_back((7 * p + 3 * static_cast<std::int64_t>(row) + 1) % vocabulary);
      positions.push_back(p);
    }
    batch.row_bounds.push_back(static_cast<std::int64_t>(ids.size()));
    batch.row_keys.push_back(static_cast<std::int64_t>(row));
    batch.max_length = std::max(batch.max_length, lengths[row]);
  }
  for (std::int64_t t : labelled) targets.push_back(ids[static_cast<std::size_t>(t) + 1]);
  const auto bucket = static_cast<std::size_t>(token_bucket(static_cast<std::int64_t>(ids.size())));
  ids.resize(bucket, 0);
  positions.resize(bucket, 0);
  batch.ids = at::tensor(ids);
  batch.positions = at::tensor(positions);
  batch.bounds = at::tensor(batch.row_bounds).to(at::kInt);
  batch.labelled = at::tensor(labelled);
  batch.targets = at::tensor(targets);
  batch.loss_scale = 1.0 / static_cast<double>(labelled.size());
  batch.training = true;
  return batch;
}

// --- the same model, written plainly ---------------------------------------------------------------------------------

class Reference {
 public:
  Reference(const ModelConfig& config, Weights weights, const std::vector<AdapterPlace>& adapters)
      : c_(config), w_(std::move(weights)), adapters_(adapters) {}

  at::Tensor row_loss(const at::Tensor& ids, const at::Tensor& labelled) {
    at::Tensor x = w_.at("model.embed_tokens.weight").index_select(0, ids);
    for (const AdapterPlace& a : adapters_) {
      if (!a.embedding) continue;
      x = x + a.settings.scale * at::matmul(w_.at(a.linear + ".lora_embedding_A").index_select(1, ids).t(),
                                            w_.at(a.linear + ".lora_embedding_B").t());
    }
    for (std::int64_t i = 0; i < c_.layers; ++i) {
      const std::string layer = "model.layers." + std::to_string(i) + ".";
      x = x + linear(layer + "self_attn.o_proj", attention(layer, norm(x, layer + "input_layernorm")));
      const at::Tensor n = norm(x, layer + "post_attention_layernorm");
      x = x + (c_.experts > 0 ? mixture(layer + "block_sparse_moe.", n)
                              : gated(n, layer + "mlp.gate_proj", layer + "mlp.up_proj", layer + "mlp.down_proj"));
    }
    x = norm(x, "model.norm");
    if (!w_.contains("lm_head.weight")) w_["lm_head.weight"] = w_.at("model.embed_tokens.weight");
    const at::Tensor log_p = at::log_softmax(linear("lm_head", x.index_select(0, labelled)), -1);
    return -log_p.gather(1, ids.index_select(0, labelled + 1).unsqueeze(1)).sum();
  }

 private:
  at::Tensor gated(const at::Tensor& x, const std::string& gate, const std::string& up, const std::string& down) {
    return linear(down, at::silu(linear(gate, x)) * linear(up, x));
  }
  at::Tensor mixture(const std::string& name, const at::Tensor& x) {
    const at::Tensor p = at::softmax(linear(name + "gate", x), -1);
    const auto [largest, places] = at::topk(p, c_.experts_per_token, -1);
    const at::Tensor weights = c_.normalized_routing ? largest / largest.sum(-1, true) : largest;
    at::Tensor sum = at::zeros_like(x);
    for (std::int64_t e = 0; e < c_.experts; ++e) {
      const std::string expert = name + "experts." + std::to_string(e) + ".";
      const at::Tensor weight = (weights * (places == e)).sum(-1, true);
      sum = sum + weight * gated(x, expert + "w1", expert + "w3", expert + "w2");
    }
    return sum;
  }
  at::Tensor norm(const at::Tensor& x, const std::string& name) {
    return x * (x.square().mean(-1, true) + c_.norm_epsilon).rsqrt() * w_.at(name + ".weight");
  }
  at::Tensor linear(const std::string& name, const at::Tensor& x) {
    at::Tensor w = w_.at(name + ".weight");
    for (const AdapterPlace& a : adapters_) {
      if (a.linear != name) continue;
      w = w + a.settings.scale * at::matmul(w_.at(name + ".lora_B.weight"), w_.at(name + ".lora_A.weight"));
      if (a.settings.dora) w = w * (w_.at(name + ".lora_magnitude_vector") / w.norm(2, {1}).detach()).unsqueeze(1);
    }
    const at::Tensor y = at::matmul(x, w.t());
    return w_.contains(name + ".bias") ? y + w_.at(name + ".bias") : y;
  }
  at::Tensor frequencies() {
    at::Tensor f =
        at::pow(at::scalar_tensor(c_.rope_base), -at::arange(0, c_.head_dim, 2, at::kFloat) / double(c_.head_dim));
    if (c_.rope_scaling.kind == RopeScaling::Kind::kLinear) f = f / c_.rope_scaling.factor;
    return f.to(at::kDouble);
  }
  at::Tensor rotate(const at::Tensor& x) {  // [length, heads, head_dim]
    const at::Tensor angle = at::outer(at::arange(x.size(0), at::kDouble), frequencies()).unsqueeze(1);
    const auto half = x.chunk(2, -1);
    return at::cat({half[0] * angle.cos() - half[1] * angle.sin(), half[1] * angle.cos() + half[0] * angle.sin()}, -1);
  }
  at::Tensor attention(const std::string& layer, const at::Tensor& n) {
    const std::int64_t length = n.size(0);
    const auto heads = [&](const char* name, std::int64_t count) {
      return linear(layer + "self_attn." + name, n).view({length, count, c_.head_dim});
    };
    const std::int64_t group = c_.heads / c_.kv_heads;
    const at::Tensor q = rotate(heads("q_proj", c_.heads)).transpose(0, 1);
    const at::Tensor k = rotate(heads("k_proj", c_.kv_heads)).repeat_interleave(group, 1).transpose(0, 1);
    const at::Tensor v = heads("v_proj", c_.kv_heads).repeat_interleave(group, 1).transpose(0, 1);
    at::Tensor scores = at::matmul(q, k.transpose(1, 2)) / std::sqrt(double(c_.head_dim));
    scores = scores + at::full({length, length}, -1e30, at::kDouble).triu(1);
    return at::matmul(at::softmax(scores, -1), v).transpose(0, 1).reshape({length, -1});
  }

  ModelConfig c_;
  Weights w_;
  const std::vector<AdapterPlace>& adapters_;
};

struct Case {
  std::string name, type;
  bool full, tied;
  RopeScaling::Kind scaling = RopeScaling::Kind::kNone;
  std::set<std::string> whole = {};  // modules_to_save
  bool apart = false;                // adapters on embedding and head, too
  bool dora = false;
};

class DecoderGradients : public testing::TestWithParam<Case> {
 protected:
  DecoderGradients() : config_(tiny(GetParam().type, GetParam().tied, GetParam().scaling)) {
    store_ = std::make_shared<WeightStore>(at::kCPU, at::kDouble, WeightPolicy{});
    TrainingPlan plan;
    plan.full = GetParam().full;
    plan.lora = [](const std::string& linear) -> std::optional<LoraSettings> {
      if (linear.ends_with("k_proj")) return std::nullopt;  // a gap between the adapters of one projection
      const bool in_mixture = linear.find("block_sparse_moe") != std::string::npos;
      if (!linear.ends_with("_proj") && !in_mixture && !GetParam().apart) return std::nullopt;
      return LoraSettings{linear.ends_with("v_proj") ? 2 : 3, 1.5, 0.0, GetParam().dora};
    };
    plan.whole = [](const std::string& module) { return GetParam().whole.contains(module); };
    decoder_ = std::make_unique<Decoder>(config_, store_, plan);
    at::manual_seed(7);
    for (const std::string& name : decoder_->missing()) fill(name);
    for (const ParameterInfo& info : decoder_->parameters().infos()) {
      const at::Tensor value = decoder_->parameters().value(*decoder_->parameters().find(info.name));
      if (!GetParam().full) value.copy_(at::randn(info.shape, at::kDouble) * 0.3);
      weights_[info.name] = value.clone().set_requires_grad(true);
      trained_.push_back(info.name);
    }
  }

  void fill(const std::string& name) {
    const auto id = decoder_->parameters().find(name);
    const Shape shape = id ? decoder_->parameters().infos()[std::size_t(*id)].shape : store_->member(name).shape;
    at::Tensor value = at::randn(shape, at::kDouble) * 0.4;
    if (name.find("norm") != std::string::npos) value = value + 1.0;
    decoder_->put(name, value);
    weights_[name] = value;
  }

  double run(const Batch& batch, Keep keep) {
    decoder_->parameters().zero_grad();
    const auto& blocks = decoder_->blocks(HeadKind::kLoss);
    ProgramCache cache(blocks, Pass::kTraining, uniform_keep(blocks, keep), at::kCPU);
    Program& program = cache.program_for(batch);
    program.run(batch);
    recomputed_ = program.recomputed_count();
    arena_ = program.arena_bytes();
    return program.output().item<double>();
  }

  ModelConfig config_;
  std::shared_ptr<WeightStore> store_;
  std::unique_ptr<Decoder> decoder_;
  Weights weights_;
  std::vector<std::string> trained_;
  int recomputed_ = 0;
  std::int64_t arena_ = 0;
};

TEST_P(DecoderGradients, EqualAutograd) {
  const Batch batch = make_batch({5, 9, 3, 11}, config_.vocabulary);
  Reference reference(config_, weights_, decoder_->adapters());
  at::Tensor expected = at::zeros({}, at::kDouble);
  for (std::size_t s = 0; s + 1 < batch.row_bounds.size(); ++s) {
    const std::int64_t begin = batch.row_bounds[s];
    const std::int64_t end = batch.row_bounds[s + 1];
    const at::Tensor inside = batch.labelled.masked_select((batch.labelled >= begin) & (batch.labelled < end)) - begin;
    if (inside.numel() > 0) expected = expected + reference.row_loss(batch.ids.slice(0, begin, end), inside);
  }
  expected = expected * batch.loss_scale;
  std::vector<at::Tensor> inputs;
  for (const std::string& name : trained_) inputs.push_back(weights_.at(name));
  const auto gradients = torch::autograd::grad({expected}, inputs);

  EXPECT_NEAR(run(batch, Keep::kAll), expected.item<double>(), 1e-12);
  for (std::size_t i = 0; i < trained_.size(); ++i) {
    const at::Tensor ours = decoder_->parameters().grad(*decoder_->parameters().find(trained_[i]));
    const double error = (ours - gradients[i]).norm().item<double>() / (gradients[i].norm().item<double>() + 1e-30);
    EXPECT_LT(error, 1e-10) << trained_[i];
    EXPECT_GT(gradients[i].norm().item<double>(), 0.0) << trained_[i];
  }
}

class EveryDecoder : public DecoderGradients {};

TEST_P(EveryDecoder, GivesGradientsThatDoNotDependOnWhatIsKept) {
  const Batch batch = make_batch({5, 9, 3, 11}, config_.vocabulary);
  const double loss = run(batch, Keep::kAll);
  const at::Tensor gradients = decoder_->parameters().grads().clone();
  EXPECT_EQ(recomputed_, 0);
  int recomputed = 0;
  for (const Keep keep : {Keep::kExpensive, Keep::kInputOnly}) {
    EXPECT_EQ(run(batch, keep), loss);
    EXPECT_TRUE(decoder_->parameters().grads().equal(gradients));
    EXPECT_GT(recomputed_, recomputed);
    recomputed = recomputed_;
  }
  EXPECT_EQ(run(batch, Keep::kInputOnHost), loss);
  EXPECT_TRUE(decoder_->parameters().grads().equal(gradients));
  EXPECT_EQ(recomputed_, recomputed);
}

TEST_P(EveryDecoder, KeepsRowsApart) {
  const auto nll = [&](const Batch& batch) {
    const auto& blocks = decoder_->blocks(HeadKind::kNll);
    ProgramCache cache(blocks, Pass::kForward, uniform_keep(blocks, Keep::kAll), at::kCPU);
    Program& program = cache.program_for(batch);
    program.run(batch);
    return program.output().clone();
  };
  const Batch batch = make_batch({6, 8, 7}, config_.vocabulary);
  const at::Tensor before = nll(batch);
  Batch changed = batch;
  changed.ids = batch.ids.clone();
  changed.ids[6] = (batch.ids[6].item<std::int64_t>() + 5) % config_.vocabulary;  // the first token of the second row
  const at::Tensor after = nll(changed);
  const at::Tensor second = (batch.labelled >= 6) & (batch.labelled < 14);
  const double rounding = config_.experts > 0 ? 1e-12 : 0.0;  // an expert's product may have another number of rows
  for (std::int64_t i = 0; i < second.size(0); ++i) {
    if (second[i].item<bool>()) {
      EXPECT_NE(before[i].item<double>(), after[i].item<double>());
    } else {
      EXPECT_NEAR(before[i].item<double>(), after[i].item<double>(), rounding);
    }
  }
}

const auto kPlain =
    testing::Values(Case{"qwen2_lora", "qwen2", false, true}, Case{"qwen2_full_tied", "qwen2", true, true},
                    Case{"llama_lora", "llama", false, false}, Case{"llama_full", "llama", true, false},
                    Case{"llama_linear_rope", "llama", false, true, RopeScaling::Kind::kLinear},
                    Case{"llama_apart", "llama", false, false, RopeScaling::Kind::kNone, {"model.norm"}, true},
                    Case{"qwen2_tied_apart", "qwen2", false, true, RopeScaling::Kind::kNone, {}, true},
                    Case{"llama_whole",
                         "llama",
                         false,
                         false,
                         RopeScaling::Kind::kNone,
                         {"model.embed_tokens", "lm_head", "model.layers.1.input_layernorm"}},
                    Case{"qwen2_tied_head_whole", "qwen2", false, true, RopeScaling::Kind::kNone, {"lm_head"}},
                    Case{"qwen2_dora", "qwen2", false, true, RopeScaling::Kind::kNone, {}, false, true},
                    Case{"experts_lora", "experts", false, false}, Case{"experts_full", "experts", true, false},
                    Case{"experts_normalized_lora", "experts", false, true},
                    Case{"experts_router_whole",
                         "experts",
                         false,
                         true,
                         RopeScaling::Kind::kNone,
                         {"model.layers.0.block_sparse_moe.gate"}});

std::vector<Case> other_architectures() {
  std::vector<Case> cases;
  for (const char* type :
       {"gemma2", "gemma3_text", "granite", "lfm2", "mistral", "mixtral", "phi3", "qwen3", "qwen3_moe", "smollm3"}) {
    cases.push_back({std::string(type) + "_lora", type, false, true});
    cases.push_back({std::string(type) + "_full", type, true, true});
  }
  return cases;
}

std::string name_of(const testing::TestParamInfo<Case>& test) {
  return test.param.name;
}

INSTANTIATE_TEST_SUITE_P(All, DecoderGradients, kPlain, name_of);
INSTANTIATE_TEST_SUITE_P(All, EveryDecoder, kPlain, name_of);
INSTANTIATE_TEST_SUITE_P(Others, EveryDecoder, testing::ValuesIn(other_architectures()), name_of);

}  // namespace
}  // namespace qlora
