#include "qlora/nn/parameters.h"

#include <functional>
#include <numeric>

#include <ATen/ops/zeros.h>

namespace qlora {

std::int64_t ParameterInfo::size() const {
  return std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
}

ParameterSet::Id ParameterSet::add(std::string name, std::vector<std::int64_t> shape, bool decays) {
  TORCH_CHECK(!values_.defined(), "parameter ", name, " added after allocate()");
  ids_[name] = static_cast<Id>(infos_.size());
  infos_.push_back({std::move(name), std::move(shape), decays, size_});
  size_ += infos_.back().size();
  return static_cast<Id>(infos_.size()) - 1;
}

std::optional<ParameterSet::Id> ParameterSet::find(const std::string& name) const {
  const auto id = ids_.find(name);
  return id == ids_.end() ? std::nullopt : std::optional<Id>(id->second);
}

void ParameterSet::allocate(at::Device device, at::ScalarType compute_dtype) {
  const auto master = compute_dtype == at::kDouble ? at::kDouble : at::kFloat;
  const auto options = at::TensorOptions().device(device).dtype(master);
  values_ = at::zeros({size_}, options);
  grads_ = at::zeros({size_}, options);
  compute_ = compute_dtype == master ? values_ : at::zeros({size_}, options.dtype(compute_dtype));
}

at::Tensor ParameterSet::view(const at::Tensor& flat, Id first, Id last) const {
  const ParameterInfo& begin = infos_.at(static_cast<std::size_t>(first));
  std::vector<std::int64_t> shape = begin.shape;
  std::int64_t size = begin.size();
  for (Id id = first + 1; id <= last; ++id) {
    const ParameterInfo& next = infos_[static_cast<std::size_t>(id)];
    shape[0] += next.shape[0];
    size += next.size();
  }
  return flat.narrow(0, begin.offset, size).view(shape);
}

void ParameterSet::refresh_compute() {
  if (!compute_.is_same(values_)) compute_.copy_(values_);
}

std::int64_t ParameterSet::bytes() const {
  const auto copy = compute_.is_same(values_) ? 0 : compute_.nbytes();
  return static_cast<std::int64_t>(values_.nbytes() + grads_.nbytes() + copy);
}

void ParameterSet::zero_grad() {
  grads_.zero_();
}

}  // namespace qlora
