#include "qlora/nn/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/_flash_attention_backward.h>
#include <ATen/ops/_flash_attention_forward.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_backward.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros_like.h>

#include "qlora/nn/kernels.h"
#include "qlora/nn/kv_cache.h"
#include "qlora/nn/rms_norm.h"

#include "cudnn_attention.h"

namespace qlora {
namespace {

// Queries, keys and values of the tokens [begin, end), each [1, heads, length, head_dim]: what torch's kernels take.
struct RowViews {
  at::Tensor q, k, v;
};

at::Tensor heads_of(const at::Tensor& tokens, std::int64_t column, std::int64_t heads, std::int64_t head_dim) {
  return tokens.narrow(1, column, heads * head_dim)
      .view({tokens.size(0), heads, head_dim})
      .transpose(0, 1)
      .unsqueeze(0);
}

RowViews row_views(const at::Tensor& qkv, std::int64_t begin, std::int64_t end, const AttentionShape& s) {
  const at::Tensor rows = qkv.narrow(0, begin, end - begin);
  return {heads_of(rows, 0, s.heads, s.head_dim), heads_of(rows, s.query_columns(), s.kv_heads, s.head_dim),
          heads_of(rows, s.query_columns() + s.kv_columns(), s.kv_heads, s.head_dim)};
}

at::Tensor out_view(const at::Tensor& out, std::int64_t begin, std::int64_t end, const AttentionShape& s) {
  return heads_of(out.narrow(0, begin, end - begin), 0, s.heads, s.head_dim);
}

// log-sum-exp of one row's scores: [length, heads] in memory, seen as [1, heads, length].
at::Tensor lse_view(const at::Tensor& lse, std::int64_t begin, std::int64_t end) {
  return lse.narrow(0, begin, end - begin).transpose(0, 1).unsqueeze(0);
}

// The kernels have no soft cap.
bool uses_varlen_kernel(const at::Tensor& qkv, const AttentionShape& s) {
  return s.softcap == 0.0 && gpu::serves(qkv) && qkv.scalar_type() != at::kFloat;
}

// --- one row at a time -----------------------------------------------------------------------------------------------

// true where a query of a row must not see a key: [queries, keys]. The queries are of the row's last tokens.
at::Tensor hidden_keys(const at::Tensor& like, std::int64_t queries, std::int64_t keys, const AttentionShape& s) {
  const at::Tensor all = at::ones({queries, keys}, like.options().dtype(at::kBool));
  const std::int64_t held = keys - queries;
  return s.window > 0 && s.window < keys ? all.triu(held + 1).logical_or_(all.tril(held - s.window))
                                         : all.triu(held + 1);
}

bool has_cpu_kernel(const RowViews& row, const AttentionShape& s) {
  return row.q.device().is_cpu() && s.softcap == 0.0;
}

// What the CPU kernel takes in place of the causal mask: none where a whole row fits the window.
std::optional<at::Tensor> row_mask(const RowViews& row, const AttentionShape& s) {
  const std::int64_t queries = row.q.size(2);
  const std::int64_t keys = row.k.size(2);
  if (queries == keys && (s.window == 0 || s.window >= keys)) return std::nullopt;
  return at::zeros({queries, keys}, row.q.options())
      .masked_fill_(hidden_keys(row.q, queries, keys, s), -std::numeric_limits<double>::infinity());
}

// Scores are soft-capped in place. Returns the cap's derivative; undefined without one.
at::Tensor soft_cap(const at::Tensor& scores, double cap) {
  if (cap == 0.0) return {};
  scores.div_(cap).tanh_();
  at::Tensor slope = 1.0 - scores.square();
  scores.mul_(cap);
  return slope;
}

// The plain formula, for devices without a kernel for the type, and for soft caps.
struct Probabilities {
  at::Tensor p, lse, cap_slope;  // [1, heads, queries, keys], [1, heads, queries], like p
};

Probabilities probabilities(const RowViews& row, const AttentionShape& s) {
  const std::int64_t group = s.heads / s.kv_heads;
  const at::Tensor scores = at::matmul(row.q, row.k.repeat_interleave(group, 1).transpose(2, 3))
                                .to(accumulation_dtype(row.q.scalar_type()))
                                .mul_(s.scale);
  const at::Tensor slope = soft_cap(scores, s.softcap);
  scores.masked_fill_(hidden_keys(scores, scores.size(2), scores.size(3), s), -std::numeric_limits<double>::infinity());
  return {at::softmax(scores, -1), scores.logsumexp(-1), slope};
}

void row_forward(const RowViews& row, const AttentionShape& s, const at::Tensor& out, const at::Tensor& lse) {
  if (has_cpu_kernel(row, s)) {
    const auto mask = row_mask(row, s);
    const auto [o, l] = at::_scaled_dot_product_flash_attention_for_cpu(row.q, row.k, row.v, 0.0, !mask, mask, s.scale);
    out.copy_(o);
    lse.copy_(l);
    return;
  }
  const std::int64_t group = s.heads / s.kv_heads;
  const Probabilities weights = probabilities(row, s);
  lse.copy_(weights.lse);
  out.copy_(at::matmul(weights.p.to(row.v.scalar_type()), row.v.repeat_interleave(group, 1)));
}

struct RowGradients {
  at::Tensor q, k, v;
};

RowGradients row_backward(const RowViews& row, const AttentionShape& s, const at::Tensor& out, const at::Tensor& lse,
                          const at::Tensor& d_out) {
  if (has_cpu_kernel(row, s)) {
    const auto mask = row_mask(row, s);
    auto [dq, dk, dv] = at::_scaled_dot_product_flash_attention_for_cpu_backward(d_out, row.q, row.k, row.v, out, lse,
                                                                                 0.0, !mask, mask, s.scale);
    return {dq, dk, dv};
  }
  const std::int64_t group = s.heads / s.kv_heads;
  const Probabilities weights = probabilities(row, s);
  const at::Tensor k = row.k.repeat_interleave(group, 1);
  const at::Tensor v = row.v.repeat_interleave(group, 1);
  const at::Tensor d_p = at::matmul(d_out, v.transpose(2, 3));
  at::Tensor d_wide = (weights.p * (d_p - (d_out * out).sum(-1, true))).mul_(s.scale);
  if (weights.cap_slope.defined()) d_wide.mul_(weights.cap_slope);
  const at::Tensor d_scores = d_wide.to(row.q.scalar_type());
  const at::Tensor p = weights.p.to(row.q.scalar_type());
  const auto per_kv_head = [&](const at::Tensor& g) {
    return g.view({1, s.kv_heads, group, g.size(2), g.size(3)}).sum(2);
  };
  return {at::matmul(d_scores, k), per_kv_head(at::matmul(d_scores.transpose(2, 3), row.q)),
          per_kv_head(at::matmul(p.transpose(2, 3), d_out))};
}

// --- all rows at once, on the GPU ------------------------------------------------------------------------------------
// The tail goes in with the rest, so that nothing here depends on how many tokens are real; the bounds leave it out.

struct PackedViews {
  at::Tensor q, k, v;  // [tokens, heads, head_dim]
};

// How many keys before its own the kernel lets a query see.
std::optional<std::int64_t> window_left(const AttentionShape& s) {
  return s.window > 0 ? std::optional(s.window - 1) : std::nullopt;
}

PackedViews packed_views(const at::Tensor& qkv, const AttentionShape& s) {
  const auto view = [&](std::int64_t column, std::int64_t heads) {
    return qkv.narrow(1, column, heads * s.head_dim).view({qkv.size(0), heads, s.head_dim});
  };
  return {view(0, s.heads), view(s.query_columns(), s.kv_heads), view(s.query_columns() + s.kv_columns(), s.kv_heads)};
}

void packed_forward(const Batch& batch, const at::Tensor& qkv, const AttentionShape& s, const at::Tensor& out,
                    const at::Tensor& lse) {
  // cuDNN makes a plan a shape, which prompts of all lengths would not share.
  if (batch.cache == nullptr && cudnn_attention(batch, s, qkv, out, lse)) return gpu::zero_tail(out, batch.bounds);
  const PackedViews p = packed_views(qkv, s);
  const auto result =
      at::_flash_attention_forward(p.q, p.k, p.v, batch.bounds, batch.bounds, batch.max_length, batch.max_length, 0.0,
                                   true, false, s.scale, window_left(s), std::nullopt);
  out.copy_(std::get<0>(result).view(out.sizes()));
  lse.copy_(std::get<1>(result).t());
  gpu::zero_tail(out, batch.bounds);
}

void packed_backward(const Batch& batch, const at::Tensor& qkv, const AttentionShape& s, const at::Tensor& out,
                     const at::Tensor& lse, const at::Tensor& d_out, const at::Tensor& d_qkv) {
  if (!batch.lean && cudnn_attention_backward(batch, s, qkv, out, lse, d_out, d_qkv)) {
    return gpu::zero_tail(d_qkv, batch.bounds);
  }
  const PackedViews p = packed_views(qkv, s);
  const PackedViews d = packed_views(d_qkv, s);
  const auto heads = [&](const at::Tensor& t) { return t.view({t.size(0), s.heads, s.head_dim}); };
  const at::Tensor unused_rng = at::empty({2}, qkv.options().dtype(at::kUInt64));
  const auto [dq, dk, dv] = at::_flash_attention_backward(
      heads(d_out), p.q, p.k, p.v, heads(out), lse.t().contiguous(), batch.bounds, batch.bounds, batch.max_length,
      batch.max_length, 0.0, true, unused_rng, unused_rng, s.scale, window_left(s), std::nullopt);
  d.q.copy_(dq);
  d.k.copy_(dk);
  d.v.copy_(dv);
  gpu::zero_tail(d_qkv, batch.bounds);
}

// --- with a cache ----------------------------------------------------------------------------------------------------

// A row's queries, with the keys and values of all that its slot holds and of its own tokens, which lie there already.
RowViews with_cache(const RowViews& row, const KvCache& cache, std::int64_t layer, std::int64_t slot) {
  const std::int64_t tokens = cache.length(slot) + row.q.size(2);
  const auto held = [&](const at::Tensor& all) { return all[slot].narrow(0, 0, tokens).transpose(0, 1).unsqueeze(0); };
  return {row.q, held(cache.keys(layer)), held(cache.values(layer))};
}

void append_rows(const Batch& batch, const at::Tensor& qkv, const AttentionShape& s, std::int64_t layer) {
  for (std::size_t r = 0; r + 1 < batch.row_bounds.size(); ++r) {
    const std::int64_t length = batch.row_bounds[r + 1] - batch.row_bounds[r];
    const std::int64_t slot = batch.cache_slots[r];
    const at::Tensor row = qkv.narrow(0, batch.row_bounds[r], length);
    const auto append = [&](const at::Tensor& cache, std::int64_t column) {
      cache[slot]
          .narrow(0, batch.cache->length(slot), length)
          .copy_(row.narrow(1, column, s.kv_columns()).view({length, s.kv_heads, s.head_dim}));
    };
    append(batch.cache->keys(layer), s.query_columns());
    append(batch.cache->values(layer), s.query_columns() + s.kv_columns());
  }
}

bool continues_rows(const Batch& batch) {
  return std::any_of(batch.cache_slots.begin(), batch.cache_slots.end(),
                     [&](std::int64_t slot) { return batch.cache->length(slot) > 0; });
}

// Rows of several tokens behind what their slots hold: a row's keys are where its slot begins, as many as it holds.
void packed_continue(const Batch& batch, const at::Tensor& qkv, const AttentionShape& s, std::int64_t layer,
                     const at::Tensor& out) {
  const PackedViews p = packed_views(qkv, s);
  const auto all = [&](const at::Tensor& cache) { return cache.view({-1, s.kv_heads, s.head_dim}); };
  const auto result = at::_flash_attention_forward(
      p.q, all(batch.cache->keys(layer)), all(batch.cache->values(layer)), batch.bounds, batch.slot_begins,
      batch.max_length, batch.max_length, 0.0, true, false, s.scale, window_left(s), std::nullopt, batch.slot_lengths);
  out.copy_(std::get<0>(result).view(out.sizes()));
  gpu::zero_tail(out, batch.bounds);
}

// On the CPU token by token, in an order of sums that rests on the token's own row and position alone: what a row gets
// is the same bits in any batch, however its tokens are spread over passes.
template <class T>
class TokenAttention {
 public:
  TokenAttention(const Batch& batch, const at::Tensor& qkv, const AttentionShape& s, std::int64_t layer,
                 const at::Tensor& out)
      : batch_(batch),
        s_(s),
        qkv_(qkv.const_data_ptr<T>()),
        qkv_stride_(qkv.stride(0)),
        keys_(batch.cache->keys(layer).const_data_ptr<T>()),
        values_(batch.cache->values(layer).const_data_ptr<T>()),
        out_(out.mutable_data_ptr<T>()) {}

  void run() const {
    std::vector<Tile> tiles;
    for (std::size_t r = 0; r + 1 < batch_.row_bounds.size(); ++r) {
      for (std::int64_t t = batch_.row_bounds[r]; t < batch_.row_bounds[r + 1]; t += kTile) {
        const std::int64_t end = std::min(t + kTile, batch_.row_bounds[r + 1]);
        for (std::int64_t head = 0; head < s_.heads; ++head) tiles.push_back({r, t, end, head});
      }
    }
    at::parallel_for(0, static_cast<std::int64_t>(tiles.size()), 1, [&](std::int64_t begin, std::int64_t end) {
      std::vector<T> scores;
      for (std::int64_t i = begin; i < end; ++i) attend(tiles[static_cast<std::size_t>(i)], scores);
    });
  }

 private:
  static constexpr std::int64_t kTile = 16;   // tokens that share what is read of the cache
  static constexpr std::int64_t kBlock = 32;  // keys, likewise

  struct Tile {
    std::size_t row;
    std::int64_t begin, end, head;
  };

  static T dot(const T* a, const T* b, std::int64_t count) {
    constexpr std::int64_t kLanes = 16;
    T sums[kLanes] = {};
    std::int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) {
      for (std::int64_t lane = 0; lane < kLanes; ++lane) sums[lane] += a[i + lane] * b[i + lane];
    }
    for (; i < count; ++i) sums[i % kLanes] += a[i] * b[i];
    for (std::int64_t half = kLanes / 2; half > 0; half /= 2) {
      for (std::int64_t lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
    }
    return sums[0];
  }

  // Scores become the weights of the keys [first, end) of one token; the others stay 0.
  void softmax(T* scores, std::int64_t first, std::int64_t end) const {
    T most = -std::numeric_limits<T>::infinity();
    for (std::int64_t k = first; k < end; ++k) most = std::max(most, scores[k]);
    T sum = 0;
    for (std::int64_t k = first; k < end; ++k) sum += scores[k] = std::exp(scores[k] - most);
    for (std::int64_t k = first; k < end; ++k) scores[k] /= sum;
  }

  void attend(const Tile& tile, std::vector<T>& scores) const {
    const std::int64_t slot = batch_.cache_slots[tile.row];
    const std::int64_t first_position = batch_.cache->length(slot) + tile.begin - batch_.row_bounds[tile.row];
    const std::int64_t tokens = tile.end - tile.begin;
    const std::int64_t keys = first_position + tokens;
    const std::int64_t stride = s_.kv_columns();
    const std::int64_t place =
        slot * batch_.cache->capacity() * stride + tile.head / (s_.heads / s_.kv_heads) * s_.head_dim;
    const auto first_key = [&](std::int64_t t) {
      return s_.window > 0 ? std::max<std::int64_t>(0, first_position + t + 1 - s_.window) : 0;
    };
    const auto for_each_pair = [&](const auto& body) {
      for (std::int64_t block = first_key(0) / kBlock * kBlock; block < keys; block += kBlock) {
        for (std::int64_t t = 0; t < tokens; ++t) {
          const std::int64_t end = std::min(block + kBlock, first_position + t + 1);
          for (std::int64_t k = std::max(block, first_key(t)); k < end; ++k) body(t, k);
        }
      }
    };
    scores.assign(static_cast<std::size_t>(tokens * keys), 0);
    const auto scale = static_cast<T>(s_.scale);
    const auto cap = static_cast<T>(s_.softcap);
    const T* queries = qkv_ + tile.begin * qkv_stride_ + tile.head * s_.head_dim;
    for_each_pair([&](std::int64_t t, std::int64_t k) {
      const T score = scale * dot(queries + t * qkv_stride_, keys_ + place + k * stride, s_.head_dim);
      scores[static_cast<std::size_t>(t * keys + k)] = cap > 0 ? cap * std::tanh(score / cap) : score;
    });
    T* out = out_ + tile.begin * s_.query_columns() + tile.head * s_.head_dim;
    for (std::int64_t t = 0; t < tokens; ++t) {
      softmax(scores.data() + t * keys, first_key(t), first_position + t + 1);
      std::fill_n(out + t * s_.query_columns(), s_.head_dim, T{0});
    }
    for_each_pair([&](std::int64_t t, std::int64_t k) {
      const T weight = scores[static_cast<std::size_t>(t * keys + k)];
      const T* value = values_ + place + k * stride;
      T* mixed = out + t * s_.query_columns();
      for (std::int64_t c = 0; c < s_.head_dim; ++c) mixed[c] += weight * value[c];
    });
  }

  const Batch& batch_;
  const AttentionShape& s_;
  const T* qkv_;
  std::int64_t qkv_stride_;
  const T* keys_;
  const T* values_;
  T* out_;
};

}  // namespace

// Backward takes more than forward. FlashAttention sums dq in float32, for 128 tokens a row more than there are, and
// makes dq, and dk and dv for each query head; it takes the sums of d_out * out and a copy of lse.
std::int64_t Attention::workspace(const BatchShape& shape) const {
  if (!gpu::serves(shape.device, dtype_) || dtype_ == at::kFloat || shape_.softcap != 0.0) return 0;
  constexpr std::int64_t kFloat = sizeof(float), kTile = 128;
  const auto element = static_cast<std::int64_t>(c10::elementSize(dtype_));
  const std::int64_t padded = shape.tokens + kTile * shape.rows;
  const std::int64_t wide_keys = shape_.heads > shape_.kv_heads ? 2 * shape_.query_columns() : 0;
  const std::int64_t flash = kFloat * padded * (shape_.query_columns() + shape_.heads) +
                             element * shape.tokens * (shape_.query_columns() + 2 * shape_.kv_columns() + wide_keys) +
                             kFloat * shape.tokens * shape_.heads;
  return shape.lean ? flash : std::max(flash, cudnn_attention_workspace(shape, shape_, dtype_));
}

OperationPlan Attention::plan(const BatchShape& shape) const {
  return {{shape.tokens, shape_.query_columns()},
          dtype_,
          {{"lse", {shape.tokens, shape_.heads}, accumulation_dtype(dtype_), Life::kSaved}},
          workspace(shape)};
}

OperationTraits Attention::traits() const {
  OperationTraits traits;
  traits.backward_reads_input = {true};
  traits.backward_reads_output = true;
  traits.reads_host_rows = shape_.softcap != 0.0;  // row by row
  return traits;
}

// Row by row, behind what a cache holds or without one.
void Attention::forward_rows(const Batch& batch, const OperationViews& v) {
  for (std::size_t s = 0; s + 1 < batch.row_bounds.size(); ++s) {
    const std::int64_t begin = batch.row_bounds[s];
    const std::int64_t end = batch.row_bounds[s + 1];
    RowViews row = row_views(v.in[0], begin, end, shape_);
    if (batch.cache != nullptr) row = with_cache(row, *batch.cache, layer_, batch.cache_slots[s]);
    row_forward(row, shape_, out_view(v.out, begin, end, shape_), lse_view(v.buffers[0], begin, end));
  }
}

void Attention::forward(const Batch& batch, const OperationViews& v) {
  const at::Tensor& qkv = v.in[0];
  const bool cached = batch.cache != nullptr;
  const bool kernels = cached && gpu::serves_cache(qkv.device(), dtype_, shape_);
  if (kernels) {
    gpu::cache_append(qkv, batch, shape_, layer_);
    if (batch.decodes()) return gpu::cache_attention(qkv, batch, shape_, layer_, v.out);
  } else if (cached) {
    append_rows(batch, qkv, shape_, layer_);
  }
  const bool continues = cached && continues_rows(batch);
  if (!continues && uses_varlen_kernel(qkv, shape_)) return packed_forward(batch, qkv, shape_, v.out, v.buffers[0]);
  if (kernels && uses_varlen_kernel(qkv, shape_)) return packed_continue(batch, qkv, shape_, layer_, v.out);
  if (kernels) return gpu::cache_attention(qkv, batch, shape_, layer_, v.out);
  const std::int64_t tokens = batch.real_tokens();
  if (tokens < v.out.size(0)) v.out.narrow(0, tokens, v.out.size(0) - tokens).zero_();
  if (cached && qkv.device().is_cpu() && dtype_ == at::kFloat) {
    TokenAttention<float>(batch, qkv, shape_, layer_, v.out).run();
  } else if (cached && qkv.device().is_cpu() && dtype_ == at::kDouble) {
    TokenAttention<double>(batch, qkv, shape_, layer_, v.out).run();
  } else {
    forward_rows(batch, v);
  }
}

void Attention::backward(const Batch& batch, const OperationViews& v) {
  if (!v.d_in[0].defined()) return;
  TORCH_CHECK(!v.accumulate[0], "attention is the only reader of its input");
  const at::Tensor& d_qkv = v.d_in[0];
  if (uses_varlen_kernel(v.in[0], shape_)) {
    return packed_backward(batch, v.in[0], shape_, v.out, v.buffers[0], v.d_out, d_qkv);
  }
  const std::int64_t tokens = batch.real_tokens();
  if (tokens < d_qkv.size(0)) d_qkv.narrow(0, tokens, d_qkv.size(0) - tokens).zero_();
  for (std::size_t s = 0; s + 1 < batch.row_bounds.size(); ++s) {
    const std::int64_t begin = batch.row_bounds[s];
    const std::int64_t end = batch.row_bounds[s + 1];
    const RowGradients d =
        row_backward(row_views(v.in[0], begin, end, shape_), shape_, out_view(v.out, begin, end, shape_),
                     lse_view(v.buffers[0], begin, end), out_view(v.d_out, begin, end, shape_));
    const RowViews target = row_views(d_qkv, begin, end, shape_);
    target.q.copy_(d.q);
    target.k.copy_(d.k);
    target.v.copy_(d.v);
  }
}

}  // namespace qlora
