#include "qlora/generate/device_sampler.h"

#include <algorithm>

#include <ATen/TensorOperators.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/cumsum.h>
#include <ATen/ops/gather.h>
#include <ATen/ops/minimum.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/topk.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include "qlora/generate/sampler.h"
#include "qlora/nn/packer.h"

namespace qlora {
namespace {

template <class T>
at::Tensor sent(const std::vector<T>& values, at::Device device) {
  Packer packer(device);
  const auto part = packer.reserve<T>(static_cast<std::int64_t>(values.size()));
  packer.allocate();
  packer.fill<T>(part, values, T{});
  packer.send();
  return packer.view(part);
}

// [rows, candidates] in descending order, of equals the lower id first.
struct Candidates {
  at::Tensor logits, ids;
};

Candidates candidates(const at::Tensor& logits, std::int64_t top_k) {
  if (top_k == 0 || top_k >= logits.size(1)) {
    auto [values, ids] = at::sort(logits, /*stable=*/true, /*dim=*/1, /*descending=*/true);
    return {values, ids};
  }
  const at::Tensor picked = std::get<0>(at::sort(std::get<1>(at::topk(logits, top_k, 1)), /*stable=*/true, 1));
  const auto [values, order] = at::sort(at::gather(logits, 1, picked), /*stable=*/true, 1, /*descending=*/true);
  return {values, at::gather(picked, 1, order)};
}

}  // namespace

DeviceSampler::DeviceSampler(const GenerateOptions& options, std::uint64_t seed, std::int64_t slots,
                             std::int64_t vocabulary, at::Device device)
    : options_(options), seed_(seed), device_(device) {
  if (options.repetition_penalty != 1.0)
    seen_ = at::zeros({slots, vocabulary}, at::TensorOptions().device(device).dtype(at::kBool));
}

void DeviceSampler::begin(std::int64_t slot, std::span<const std::int32_t> ids) {
  if (!seen_.defined()) return;
  at::Tensor row = seen_[slot];
  row.zero_();
  row.index_fill_(0, sent(std::vector<std::int64_t>(ids.begin(), ids.end()), device_), true);
}

at::Tensor DeviceSampler::next(const at::Tensor& given, const std::vector<Draw>& draws) {
  at::Tensor logits = given;
  at::Tensor slots;
  if (seen_.defined()) {
    std::vector<std::int64_t> numbers;
    for (const Draw& draw : draws) numbers.push_back(draw.slot);
    slots = sent(numbers, device_);
    const double penalty = options_.repetition_penalty;
    const at::Tensor penalized = at::where(logits < 0, logits * penalty, logits / penalty);
    logits = at::where(seen_.index_select(0, slots), penalized, logits);
  }
  const at::Tensor tokens = options_.temperature == 0.0 ? at::argmax(logits, 1) : draw(logits, draws);
  if (seen_.defined()) seen_.view({-1}).index_fill_(0, slots * seen_.size(1) + tokens, true);
  return tokens;
}

// Each rule cuts the end of a row's candidates; top-p keeps the token that crosses the threshold.
at::Tensor DeviceSampler::draw(const at::Tensor& logits, const std::vector<Draw>& draws) const {
  std::vector<double> numbers;
  for (const Draw& draw : draws) numbers.push_back(sampling_uniform(seed_, draw.row, draw.position));
  const Candidates best = candidates(logits / options_.temperature, options_.top_k);
  const at::Tensor wide = best.logits.to(at::kDouble);
  const at::Tensor weights = (wide - wide.narrow(1, 0, 1)).exp_();
  const at::Tensor sums = weights.cumsum(1);
  const std::int64_t count = weights.size(1);
  const auto how_many = [](const at::Tensor& which) { return which.sum(1, /*keepdim=*/true); };
  at::Tensor kept = how_many(weights >= options_.min_p);
  if (options_.top_p < 1.0) {
    const at::Tensor threshold = sums.narrow(1, count - 1, 1) * options_.top_p;
    kept = at::minimum(kept, how_many(sums.narrow(1, 0, count - 1) < threshold) + 1);
  }
  kept.clamp_min_(1);
  const at::Tensor mark = sums.gather(1, kept - 1) * sent(numbers, device_).unsqueeze(1);
  const at::Tensor place = at::minimum(how_many(sums <= mark), kept - 1);
  return best.ids.gather(1, place).squeeze(1);
}

}  // namespace qlora
