#include "qlora/quant/weight_store.h"

#include <algorithm>

#include <ATen/ops/empty.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>

#include "qlora/core/error.h"
#include "qlora/quant/tensor_bytes.h"

namespace qlora {
namespace {

std::int64_t tensor_bytes(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.numel() * static_cast<std::int64_t>(tensor.element_size()) : 0;
}

std::int64_t code_bytes(const Nf4Tensor& t) {
  return static_cast<std::int64_t>(t.codes.size() + t.absmax_codes.size() +
                                   sizeof(float) * (t.absmax.size() + t.nested_absmax.size() + t.nested_map.size()));
}

// Decodes into `out`, whatever its type and device.
void dequantize(const Nf4Tensor& codes, const at::Tensor& out) {
  const bool direct = out.device().is_cpu() && out.scalar_type() != at::kDouble && out.is_contiguous();
  at::Tensor host =
      direct ? out : at::empty(out.sizes(), out.scalar_type() == at::kDouble ? at::kFloat : out.scalar_type());
  nf4_dequantize(codes.view(), element_type_of(host.scalar_type()), host.mutable_data_ptr());
  if (!direct) out.copy_(host);
}

Nf4Tensor quantize(const at::Tensor& values, bool nested, const std::string& name) {
  at::Tensor host = values.to(at::kCPU).contiguous();
  if (host.scalar_type() == at::kDouble) host = host.to(at::kFloat);
  return nf4_quantize(to_host_tensor(host), nested, name);
}

}  // namespace

WeightStore::WeightStore(at::Device device, at::ScalarType dtype, WeightPolicy policy)
    : device_(device), dtype_(dtype), policy_(policy), cache_left_(policy.dequantize_cache_bytes) {}

WeightStore::Group WeightStore::add(std::vector<WeightMember> members) {
  if (const auto known = places_.find(members.at(0).name); known != places_.end()) return known->second.first;
  GroupState state;
  const auto group = static_cast<Group>(groups_.size());
  for (WeightMember& member : members) {
    state.quantized = state.quantized || (member.quantize && policy_.quantize);
    const std::int64_t rows = member.shape.at(0);
    if (state.shape.empty()) {
      state.shape = member.shape;
      state.shape[0] = 0;
    }
    places_[member.name] = {group, state.slots.size()};
    state.slots.push_back({std::move(member), {}, false, state.shape[0]});
    state.shape[0] += rows;
  }
  groups_.push_back(std::move(state));
  return group;
}

WeightStore::Slot& WeightStore::slot(const std::string& name) {
  const auto place = places_.find(name);
  if (place == places_.end()) throw DataError(fmt::format("tensor '{}': the model has no weight of this name", name));
  return groups_[static_cast<std::size_t>(place->second.first)].slots[place->second.second];
}

const WeightMember& WeightStore::member(const std::string& name) const {
  return const_cast<WeightStore*>(this)->slot(name).member;
}

void WeightStore::put(const std::string& name, const at::Tensor& values) {
  Slot& slot = this->slot(name);
  if (values.sizes().vec() != slot.member.shape) {
    throw DataError(fmt::format("tensor '{}': has shape {}, the model's config wants {}", name,
                                shape_text(values.sizes().vec()), shape_text(slot.member.shape)));
  }
  if (!at::isfinite(values).all().item<bool>()) throw DataError(fmt::format("tensor '{}': holds NaN or Inf", name));
  GroupState& group = groups_[static_cast<std::size_t>(places_.at(name).first)];
  if (group.quantized) {
    slot.codes = quantize(values, policy_.nested, name);
  } else {
    if (!group.dense.defined()) group.dense = at::zeros(group.shape, at::TensorOptions().device(device_).dtype(dtype_));
    group.dense.narrow(0, slot.first_row, slot.member.shape[0]).copy_(values);
  }
  slot.filled = true;
}

void WeightStore::put(const std::string& name, Nf4Tensor codes) {
  Slot& slot = this->slot(name);
  if (codes.shape != slot.member.shape) {
    throw DataError(fmt::format("tensor '{}': is quantized from shape {}, the model's config wants {}", name,
                                shape_text(codes.shape), shape_text(slot.member.shape)));
  }
  GroupState& group = groups_[static_cast<std::size_t>(places_.at(name).first)];
  if (group.quantized) {
    slot.codes = std::move(codes);
    slot.filled = true;
    return;
  }
  at::Tensor values = at::empty(codes.shape, at::kFloat);
  dequantize(codes, values);
  put(name, values);
}

std::vector<std::string> WeightStore::missing() const {
  std::vector<std::string> names;
  for (const GroupState& group : groups_) {
    for (const Slot& slot : group.slots) {
      if (!slot.filled) names.push_back(slot.member.name);
    }
  }
  return names;
}

void WeightStore::dequantize_into(const GroupState& group, const at::Tensor& out) const {
  for (const Slot& slot : group.slots) dequantize(slot.codes, out.narrow(0, slot.first_row, slot.member.shape[0]));
}

at::Tensor WeightStore::materialize(Group id) {
  GroupState& group = groups_[static_cast<std::size_t>(id)];
  if (!group.quantized || group.cached) return group.dense;
  const auto options = at::TensorOptions().device(device_).dtype(dtype_);
  const std::int64_t count = *element_count(group.shape);
  const std::int64_t bytes = count * static_cast<std::int64_t>(c10::elementSize(dtype_));
  if (bytes <= cache_left_) {
    cache_left_ -= bytes;
    group.dense = at::empty(group.shape, options);
    dequantize_into(group, group.dense);
    group.cached = true;
    return group.dense;
  }
  if (!scratch_.defined() || scratch_.numel() < count) {
    std::int64_t largest = count;
    for (const GroupState& other : groups_) {
      if (other.quantized) largest = std::max(largest, *element_count(other.shape));
    }
    scratch_ = at::empty({largest}, options);
    in_scratch_ = -1;
  }
  at::Tensor out = scratch_.narrow(0, 0, count).view(group.shape);
  if (in_scratch_ != id) dequantize_into(group, out);
  in_scratch_ = id;
  return out;
}

at::Tensor WeightStore::dequantized(const std::string& name) const {
  const auto [id, index] = places_.at(name);
  const GroupState& group = groups_[static_cast<std::size_t>(id)];
  const Slot& slot = group.slots[index];
  if (!group.quantized) return group.dense.narrow(0, slot.first_row, slot.member.shape[0]).to(at::kCPU, at::kFloat);
  at::Tensor values = at::empty(slot.member.shape, at::kFloat);
  dequantize(slot.codes, values);
  return values;
}

std::int64_t WeightStore::bytes() const {
  std::int64_t total = 0;
  for (const GroupState& group : groups_) {
    if (!group.cached) total += tensor_bytes(group.dense);
    for (const Slot& slot : group.slots) total += code_bytes(slot.codes);
  }
  return total;
}

std::int64_t WeightStore::scratch_bytes() const {
  std::int64_t total = tensor_bytes(scratch_);
  for (const GroupState& group : groups_) total += group.cached ? tensor_bytes(group.dense) : 0;
  return total;
}

}  // namespace qlora
