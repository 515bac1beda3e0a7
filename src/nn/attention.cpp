#include "qlora/nn/attention.h"

#include <algorithm>
#include <limits>
#include <optional>

#include <ATen/TensorOperators.h>
#include <ATen/ops/_flash_attention_backward.h>
#include <ATen/ops/_flash_attention_forward.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_backward.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tensor.h>
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

// true where a query of a row must not see a key: [length, length].
at::Tensor hidden_keys(const at::Tensor& like, std::int64_t length, const AttentionShape& s) {
  const at::Tensor all = at::ones({length, length}, like.options().dtype(at::kBool));
  return s.window > 0 && s.window < length ? all.triu(1).logical_or_(all.tril(-s.window)) : all.triu(1);
}

bool has_cpu_kernel(const RowViews& row, const AttentionShape& s) {
  return row.q.device().is_cpu() && s.softcap == 0.0;
}

// What the CPU kernel takes besides the causal mask: none where the whole row fits the window.
std::optional<at::Tensor> window_mask(const RowViews& row, const AttentionShape& s) {
  const std::int64_t length = row.q.size(2);
  if (s.window == 0 || s.window >= length) return std::nullopt;
  return at::zeros({length, length}, row.q.options())
      .masked_fill_(hidden_keys(row.q, length, s), -std::numeric_limits<double>::infinity());
}

// Scores are soft-capped in place. Returns the cap's derivative; undefined without one.
at::Tensor soft_cap(const at::Tensor& scores, double cap) {
  if (cap == 0.0) return {};
  scores.div_(cap).tanh_();
  const at::Tensor slope = 1.0 - scores.square();
  scores.mul_(cap);
  return slope;
}

// The plain formula, for devices without a kernel for the type, and for soft caps.
struct Probabilities {
  at::Tensor p, lse, cap_slope;  // [1, heads, length, length], [1, heads, length], like p
};

Probabilities probabilities(const RowViews& row, const AttentionShape& s) {
  const std::int64_t group = s.heads / s.kv_heads;
  const at::Tensor scores = at::matmul(row.q, row.k.repeat_interleave(group, 1).transpose(2, 3))
                                .to(accumulation_dtype(row.q.scalar_type()))
                                .mul_(s.scale);
  const at::Tensor slope = soft_cap(scores, s.softcap);
  scores.masked_fill_(hidden_keys(scores, scores.size(2), s), -std::numeric_limits<double>::infinity());
  return {at::softmax(scores, -1), scores.logsumexp(-1), slope};
}

void row_forward(const RowViews& row, const AttentionShape& s, at::Tensor out, at::Tensor lse) {
  if (has_cpu_kernel(row, s)) {
    const auto mask = window_mask(row, s);
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
    const auto mask = window_mask(row, s);
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
  if (cudnn_attention(batch, s, qkv, out, lse)) return gpu::zero_tail(out, batch.bounds);
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
  if (cudnn_attention_backward(batch, s, qkv, out, lse, d_out, d_qkv)) return gpu::zero_tail(d_qkv, batch.bounds);
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

// Every row is one new token: all of them in two batched products over the cache.
void decode(const Batch& batch, const at::Tensor& qkv, const AttentionShape& s, const at::Tensor& keys,
            const at::Tensor& values, const at::Tensor& out) {
  const std::int64_t rows = batch.sequences();
  std::vector<std::int64_t> lengths;
  for (std::int64_t slot : batch.cache_slots) lengths.push_back(batch.cache->length(slot) + 1);
  const std::int64_t longest = *std::max_element(lengths.begin(), lengths.end());
  const std::int64_t first = batch.cache_slots.front();
  TORCH_CHECK(batch.cache_slots.back() - first + 1 == rows, "decoding takes slots that are neighbours, in order");
  const auto select = [&](const at::Tensor& cache) {
    const at::Tensor mine = cache.narrow(0, first, rows);
    return mine.view({rows * s.kv_heads, mine.size(2), s.head_dim}).narrow(1, 0, longest);
  };
  const std::int64_t group = s.heads / s.kv_heads;
  const at::Tensor q =
      qkv.narrow(0, 0, rows).narrow(1, 0, s.query_columns()).reshape({rows * s.kv_heads, group, s.head_dim});
  at::Tensor scores = at::bmm(q, select(keys).transpose(1, 2)).to(accumulation_dtype(qkv.scalar_type())).mul_(s.scale);
  soft_cap(scores, s.softcap);
  const at::Tensor ends = at::tensor(lengths, at::kLong).to(qkv.device()).view({rows, 1, 1, 1});
  const at::Tensor places = at::ones({longest}, ends.options()).cumsum(0);
  const at::Tensor hidden = s.window > 0 ? (places > ends).logical_or_(places <= ends - s.window) : places > ends;
  scores.view({rows, s.kv_heads, group, longest}).masked_fill_(hidden, -std::numeric_limits<double>::infinity());
  const at::Tensor mixed = at::bmm(at::softmax(scores, -1).to(qkv.scalar_type()), select(values));
  out.narrow(0, 0, rows).copy_(mixed.view({rows, s.query_columns()}));
}

}  // namespace

// Backward takes more than forward. FlashAttention sums dq in float32, for 128 tokens a row more than there are, and
// makes dq, and dk and dv for each query head; it takes the sums of d_out * out and a copy of lse. cuDNN (9.19, as
// measured) takes three float32 copies of q, in deterministic mode one for each 128 keys of the longest row.
std::int64_t Attention::workspace(const BatchShape& shape) const {
  if (!gpu::serves(shape.device, dtype_) || dtype_ == at::kFloat || shape_.softcap != 0.0) return 0;
  constexpr std::int64_t kFloat = sizeof(float), kTile = 128;
  const auto element = static_cast<std::int64_t>(c10::elementSize(dtype_));
  const std::int64_t padded = shape.tokens + kTile * shape.rows;
  const std::int64_t wide_keys = shape_.heads > shape_.kv_heads ? 2 * shape_.query_columns() : 0;
  const std::int64_t flash = kFloat * padded * (shape_.query_columns() + shape_.heads) +
                             element * shape.tokens * (shape_.query_columns() + 2 * shape_.kv_columns() + wide_keys) +
                             kFloat * shape.tokens * shape_.heads;
  return std::max(flash, cudnn_attention_workspace(shape, shape_, dtype_));
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

void Attention::forward(const Batch& batch, const OperationViews& v) {
  const at::Tensor& qkv = v.in[0];
  bool decoding = batch.cache != nullptr;
  if (batch.cache != nullptr) {
    for (std::size_t s = 0; s + 1 < batch.row_bounds.size(); ++s) {
      const std::int64_t begin = batch.row_bounds[s];
      const std::int64_t length = batch.row_bounds[s + 1] - begin;
      const std::int64_t slot = batch.cache_slots[s];
      const std::int64_t held = batch.cache->length(slot);
      const RowViews row = row_views(qkv, begin, begin + length, shape_);
      batch.cache->keys(layer_)[slot].narrow(1, held, length).copy_(row.k[0]);
      batch.cache->values(layer_)[slot].narrow(1, held, length).copy_(row.v[0]);
      TORCH_CHECK(length == 1 || held == 0, "a row of several tokens can only begin a cache slot");
      decoding = decoding && length == 1;
    }
  }
  if (!decoding && uses_varlen_kernel(qkv, shape_)) return packed_forward(batch, qkv, shape_, v.out, v.buffers[0]);
  const std::int64_t tokens = batch.real_tokens();
  if (tokens < v.out.size(0)) v.out.narrow(0, tokens, v.out.size(0) - tokens).zero_();
  if (decoding) {
    decode(batch, qkv, shape_, batch.cache->keys(layer_), batch.cache->values(layer_), v.out);
  } else {
    for (std::size_t s = 0; s + 1 < batch.row_bounds.size(); ++s) {
      const std::int64_t begin = batch.row_bounds[s];
      const std::int64_t end = batch.row_bounds[s + 1];
      row_forward(row_views(qkv, begin, end, shape_), shape_, out_view(v.out, begin, end, shape_),
                  lse_view(v.buffers[0], begin, end));
    }
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
