#include "qlora/nn/dropout.h"

#include <cmath>

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/ones.h>

#include "qlora/nn/kernels.h"

namespace qlora {
namespace {

constexpr std::uint32_t kMultiplierA = 0xD2511F53U;
constexpr std::uint32_t kMultiplierB = 0xCD9E8D57U;
constexpr std::uint32_t kWeylA = 0x9E3779B9U;
constexpr std::uint32_t kWeylB = 0xBB67AE85U;
constexpr int kRounds = 7;

struct Token {
  std::uint32_t row = 0;
  std::uint32_t position = 0;
};

std::vector<Token> tokens_of(const Batch& batch) {
  std::vector<Token> tokens;
  tokens.reserve(static_cast<std::size_t>(batch.real_tokens()));
  for (std::size_t s = 0; s + 1 < batch.row_bounds.size(); ++s) {
    const auto length = static_cast<std::uint32_t>(batch.row_bounds[s + 1] - batch.row_bounds[s]);
    for (std::uint32_t p = 0; p < length; ++p) tokens.push_back({static_cast<std::uint32_t>(batch.row_keys[s]), p});
  }
  return tokens;
}

// One token's factors: 0 or 1 / (1 - p), features in eights.
void fill_mask(float* mask, std::int64_t features, Token token, const DropoutKey& key, std::uint64_t step, double p) {
  const std::uint32_t threshold = dropout_threshold(p);
  const auto scale = static_cast<float>(1.0 / (1.0 - p));
  const std::array<std::uint32_t, 2> philox_key{
      static_cast<std::uint32_t>(key.seed) ^ static_cast<std::uint32_t>(key.seed >> 32U),
      static_cast<std::uint32_t>(step)};
  for (std::int64_t f = 0; f < features; f += 8) {
    const auto bits =
        philox({static_cast<std::uint32_t>(f / 8), token.position, token.row, key.linear}, philox_key, kRounds);
    for (std::int64_t i = 0; i < 8 && f + i < features; ++i) {
      const std::uint32_t number = bits[static_cast<std::size_t>(i / 2)] >> (16 * (i % 2)) & 0xffffU;
      mask[f + i] = number >= threshold ? scale : 0.0F;
    }
  }
}

// Masks made on the host, one for each of `tokens`; what x has more rows stays.
void mask_on_host(const std::vector<Token>& tokens, const at::Tensor& x, const at::Tensor& out, const DropoutKey& key,
                  std::uint64_t step, double p, bool accumulate) {
  const std::int64_t features = x.size(1);
  at::Tensor mask = at::ones({x.size(0), features}, at::kFloat);
  auto* data = mask.mutable_data_ptr<float>();
  at::parallel_for(0, static_cast<std::int64_t>(tokens.size()), 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      fill_mask(data + t * features, features, tokens[static_cast<std::size_t>(t)], key, step, p);
    }
  });
  at::Tensor result = out;
  mask = mask.to(x.device(), x.scalar_type());
  if (accumulate) {
    result.add_(mask.mul_(x));
  } else {
    at::mul_out(result, x, mask);
  }
}

}  // namespace

std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter, std::array<std::uint32_t, 2> key,
                                    int rounds) {
  for (int round = 0; round < rounds; ++round) {
    const std::uint64_t a = static_cast<std::uint64_t>(kMultiplierA) * counter[0];
    const std::uint64_t b = static_cast<std::uint64_t>(kMultiplierB) * counter[2];
    counter = {static_cast<std::uint32_t>(b >> 32U) ^ counter[1] ^ key[0], static_cast<std::uint32_t>(b),
               static_cast<std::uint32_t>(a >> 32U) ^ counter[3] ^ key[1], static_cast<std::uint32_t>(a)};
    key = {key[0] + kWeylA, key[1] + kWeylB};
  }
  return counter;
}

std::uint32_t dropout_threshold(double p) {
  return static_cast<std::uint32_t>(std::lround(p * 65536.0));
}

void apply_dropout(const at::Tensor& x, const at::Tensor& out, const Batch& batch, const DropoutKey& key, double p,
                   bool accumulate) {
  if (gpu::serves(x) && batch.token_rows.defined()) return gpu::dropout(x, out, batch, key, p, accumulate);
  mask_on_host(tokens_of(batch), x, out, key, batch.step, p, accumulate);
}

void apply_dropout_at(const at::Tensor& tokens, const at::Tensor& x, const at::Tensor& out, const Batch& batch,
                      const DropoutKey& key, double p, bool accumulate) {
  if (gpu::serves(x) && batch.token_rows.defined()) {
    Batch picked;  // what the kernel reads
    picked.positions = batch.positions.index_select(0, tokens);
    picked.token_rows = batch.token_rows.index_select(0, tokens);
    picked.step_number = batch.step_number;
    return gpu::dropout(x, out, picked, key, p, accumulate);
  }
  const std::vector<Token> all = tokens_of(batch);
  const at::Tensor host = tokens.to(at::kCPU);
  std::vector<Token> picked;
  for (std::int64_t i = 0; i < host.size(0); ++i) {
    const auto token = static_cast<std::size_t>(host.const_data_ptr<std::int64_t>()[i]);
    picked.push_back(token < all.size() ? all[token] : Token{});
  }
  mask_on_host(picked, x, out, key, batch.step, p, accumulate);
}

}  // namespace qlora
