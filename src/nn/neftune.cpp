#include "qlora/nn/neftune.h"

#include <algorithm>
#include <array>

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/bitwise_and.h>
#include <ATen/ops/bitwise_right_shift.h>
#include <ATen/ops/bucketize.h>
#include <ATen/ops/full.h>
#include <ATen/ops/stack.h>

#include "qlora/nn/dropout.h"

namespace qlora {
namespace {

constexpr std::int64_t kWord = 0xffffffff;
constexpr std::int64_t kLinear = 0xffffffff;  // no adapter's number

at::Tensor low(const at::Tensor& value) {
  return at::bitwise_and(value, kWord);
}

at::Tensor high(const at::Tensor& value) {
  return low(at::bitwise_right_shift(value, 32));
}

// philox() of nn/dropout.h over tensors of 32-bit words in int64, whose products wrap as unsigned ones do.
std::array<at::Tensor, 4> philox_words(std::array<at::Tensor, 4> counter, std::array<at::Tensor, 2> key) {
  constexpr std::int64_t kMultiplierA = 0xD2511F53, kMultiplierB = 0xCD9E8D57, kWeylA = 0x9E3779B9, kWeylB = 0xBB67AE85;
  for (int round = 0; round < 7; ++round) {
    const at::Tensor a = counter[0] * kMultiplierA;
    const at::Tensor b = counter[2] * kMultiplierB;
    counter = {high(b).bitwise_xor(counter[1]).bitwise_xor(key[0]), low(b),
               high(a).bitwise_xor(counter[3]).bitwise_xor(key[1]), low(a)};
    key = {low(key[0] + kWeylA), low(key[1] + kWeylB)};
  }
  return counter;
}

// The key of each token's row, -1 in the tail: int64 [tokens].
at::Tensor rows_of(const Batch& batch, const at::Tensor& x) {
  if (batch.token_rows.defined()) return batch.token_rows.to(at::kLong);
  at::Tensor rows = at::full({x.size(0)}, -1, at::kLong);
  for (std::size_t s = 0; s + 1 < batch.row_bounds.size(); ++s) {
    rows.slice(0, batch.row_bounds[s], batch.row_bounds[s + 1]).fill_(batch.row_keys[s]);
  }
  return rows.to(x.device());
}

// Numbers of [tokens, columns], uniform in (-1, 1), for the tokens of these keys and positions (int64 [tokens]).
at::Tensor uniform_numbers(const at::Tensor& rows, const at::Tensor& positions, std::int64_t columns,
                           const std::array<at::Tensor, 2>& key) {
  const auto words = rows.options();
  const std::array<at::Tensor, 4> drawn =
      philox_words({at::arange((columns + 7) / 8, words).unsqueeze(0), positions.unsqueeze(1), low(rows).unsqueeze(1),
                    at::full({1, 1}, kLinear, words)},
                   key);
  // 16 bits a feature: of the first word the low ones, the high ones, of the second ...
  std::array<at::Tensor, 8> parts;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const auto shift = static_cast<std::int64_t>(16 * (i % 2));
    parts[i] = at::bitwise_and(at::bitwise_right_shift(drawn[i / 2], shift), 0xffff).to(at::kFloat);
  }
  return at::stack(parts, -1).view({rows.size(0), -1}).narrow(1, 0, columns).add_(0.5).mul_(1.0 / 32768).sub_(1.0);
}

// How far the noise of each token reaches, 0 in the tail: float32 [tokens].
at::Tensor reach_of(const Batch& batch, const at::Tensor& rows, std::int64_t columns, double alpha) {
  // The index of the bound behind each token: the tail lies behind the last.
  const at::Tensor bounds = batch.bounds.to(at::kLong);
  const at::Tensor places = at::arange(rows.size(0), rows.options());
  const at::Tensor next =
      at::bucketize(places, bounds, /*out_int32=*/false, /*right=*/true).clamp_max(bounds.size(0) - 1);
  const at::Tensor begin = bounds.index_select(0, (next - 1).clamp_min(0));
  const at::Tensor lengths = (bounds.index_select(0, next) - begin).clamp_min(1);
  return (lengths * columns).to(at::kFloat).rsqrt_().mul_(alpha).masked_fill_(rows < 0, 0.0);
}

// Tokens at a time, for what exists in between.
constexpr std::int64_t kChunk = 512;

}  // namespace

void add_neftune_noise(const at::Tensor& x, const Batch& batch, double alpha, std::uint64_t seed) {
  const auto words = x.options().dtype(at::kLong);
  const at::Tensor rows = rows_of(batch, x);
  const at::Tensor reach = reach_of(batch, rows, x.size(1), alpha);
  const auto folded =
      static_cast<std::int64_t>(static_cast<std::uint32_t>(seed) ^ static_cast<std::uint32_t>(seed >> 32U));
  const at::Tensor step = batch.step_number.defined() ? batch.step_number.to(at::kLong)
                                                      : at::full({1}, static_cast<std::int64_t>(batch.step), words);
  const std::array<at::Tensor, 2> key{at::full({1}, folded, words), low(step)};
  for (std::int64_t begin = 0; begin < x.size(0); begin += kChunk) {
    const auto part = [&](const at::Tensor& whole) { return whole.slice(0, begin, begin + kChunk); };
    const at::Tensor noise = uniform_numbers(part(rows), part(batch.positions), x.size(1), key);
    part(x).add_(noise.mul_(part(reach).unsqueeze(1)).to(x.scalar_type()));
  }
}

// Of a chunk: about sixteen words for eight features, then three float32 and one of x's type a feature.
std::int64_t neftune_workspace(std::int64_t tokens, std::int64_t columns) {
  return std::min(tokens, kChunk) * columns * (16 + 3 * 4 + 8) + tokens * 8 * 8;
}

}  // namespace qlora
