#include "qlora/quant/weight_store.h"

#include <algorithm>

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>

#include "qlora/core/error.h"
#include "qlora/quant/e4m3.h"
#include "qlora/quant/nf4_arithmetic.h"
#include "qlora/quant/nf4_cuda.h"
#include "qlora/quant/pinned.h"

namespace qlora {
namespace {

std::int64_t tensor_bytes(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.numel() * static_cast<std::int64_t>(tensor.element_size()) : 0;
}

// In parts: what is looked at takes three bytes an element more.
bool all_finite(const at::Tensor& values) {
  constexpr std::int64_t kPart = std::int64_t{1} << 24;
  const at::Tensor flat = values.reshape(-1);
  at::Tensor finite = at::ones({}, values.options().dtype(at::kBool));
  for (std::int64_t begin = 0; begin < flat.numel(); begin += kPart) {
    finite.logical_and_(at::isfinite(flat.narrow(0, begin, std::min(kPart, flat.numel() - begin))).all());
  }
  return finite.item<bool>();
}

bool owns_its_storage(const at::Tensor& values) {
  return values.is_contiguous() && values.storage().nbytes() == values.nbytes();
}

}  // namespace

WeightStore::WeightStore(at::Device device, at::ScalarType dtype, WeightPolicy policy)
    : device_(device), dtype_(dtype), policy_(std::move(policy)), cache_left_(policy_.dequantize_cache_bytes) {}

WeightStore::Group WeightStore::add(std::vector<WeightMember> members) {
  if (const auto known = places_.find(members.at(0).name); known != places_.end()) return known->second.first;
  GroupState state;
  const auto group = static_cast<Group>(groups_.size());
  for (WeightMember& member : members) {
    member.quantize = quantizes(member);
    state.quantized = state.quantized || member.quantize;
    const std::int64_t rows = member.shape.at(0);
    if (state.shape.empty()) {
      state.shape = member.shape;
      state.shape[0] = 0;
    }
    places_[member.name] = {group, state.slots.size()};
    state.slots.push_back({std::move(member), {}, {}, false, state.shape[0]});
    state.shape[0] += rows;
  }
  groups_.push_back(std::move(state));
  return group;
}

// A beginning counts up to a dot, an end as it is: what transformers does with llm_int8_skip_modules.
bool WeightStore::quantizes(const WeightMember& member) const {
  const std::string module = member.name.substr(0, member.name.rfind('.'));
  const auto names = [&](const std::string& dense) {
    return module.ends_with(dense) || module.starts_with(dense + ".");
  };
  return policy_.quantize && member.quantize && std::none_of(policy_.dense.begin(), policy_.dense.end(), names);
}

WeightStore::Slot& WeightStore::slot(const std::string& name) {
  const auto place = places_.find(name);
  if (place == places_.end()) throw DataError(fmt::format("tensor '{}': the model has no weight of this name", name));
  return groups_[static_cast<std::size_t>(place->second.first)].slots[place->second.second];
}

const WeightStore::Slot& WeightStore::slot(const std::string& name) const {
  return const_cast<WeightStore*>(this)->slot(name);
}

const WeightMember& WeightStore::member(const std::string& name) const {
  return slot(name).member;
}

Nf4Tensor WeightStore::codes(const std::string& name) const {
  return to_host(slot(name).codes);
}

void WeightStore::put(const std::string& name, const at::Tensor& values) {
  Slot& slot = this->slot(name);
  if (values.sizes().vec() != slot.member.shape) {
    throw DataError(fmt::format("tensor '{}': has shape {}, the model's config wants {}", name,
                                shape_text(values.sizes().vec()), shape_text(slot.member.shape)));
  }
  GroupState& group = groups_[static_cast<std::size_t>(places_.at(name).first)];
  if (slot.member.quantize) {
    slot.codes = nf4_quantize(values, device_, policy_.nested, name);
  } else {
    const at::Tensor own = values.to(device_);
    if (!all_finite(own)) throw DataError(fmt::format("tensor '{}': holds NaN or Inf", name));
    if (group.quantized) {
      slot.dense = own.to(dtype_);
    } else if (group.slots.size() == 1 && own.scalar_type() == dtype_ && owns_its_storage(own)) {
      group.dense = own;
    } else {
      if (!group.dense.defined()) {
        group.dense = at::zeros(group.shape, at::TensorOptions().device(device_).dtype(dtype_));
      }
      group.dense.narrow(0, slot.first_row, slot.member.shape[0]).copy_(own);
    }
  }
  slot.filled = true;
}

void WeightStore::check_shape(const Slot& slot, const Shape& shape) {
  if (shape == slot.member.shape) return;
  throw DataError(fmt::format("tensor '{}': is quantized from shape {}, the model's config wants {}", slot.member.name,
                              shape_text(shape), shape_text(slot.member.shape)));
}

void WeightStore::put(const std::string& name, Nf4Weight codes) {
  Slot& slot = this->slot(name);
  check_shape(slot, codes.shape);
  TORCH_CHECK(slot.member.quantize && codes.codes.device() == device_, "codes of ", name, " for a dense weight, or on ",
              codes.codes.device());
  slot.codes = std::move(codes);
  slot.filled = true;
}

void WeightStore::put(const std::string& name, const Nf4Tensor& codes) {
  const Slot& slot = this->slot(name);
  check_shape(slot, codes.shape);
  if (slot.member.quantize) return put(name, to_device(codes, device_));
  at::Tensor values = at::empty(codes.shape, at::kFloat);
  nf4_dequantize(codes.view(), ElementType::kF32, values.mutable_data_ptr());
  put(name, values);
}

void WeightStore::move_to_host(const std::string& name) {
  GroupState& group = groups_[static_cast<std::size_t>(places_.at(name).first)];
  TORCH_CHECK(!group.quantized && group.dense.defined(), name, " is not there, or quantized");
  group.dense = in_host_memory(group.dense);
  group.on_host = !device_.is_cpu();
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

bool WeightStore::in_fp8(const GroupState& group) const {
  const auto fits = [](const Slot& slot) {
    const Shape& shape = slot.member.shape;
    return slot.member.quantize && shape.size() == 2 && shape[0] % 16 == 0 && shape[1] % 16 == 0;
  };
  return policy_.fp8 && std::all_of(group.slots.begin(), group.slots.end(), fits);
}

bool WeightStore::in_fp8(Group group) const {
  return in_fp8(groups_[static_cast<std::size_t>(group)]);
}

at::Tensor WeightStore::materialize(Group id) {
  const GroupState& group = groups_[static_cast<std::size_t>(id)];
  return group.quantized ? decoded(id, kDense) : group.dense;
}

Fp8Weight WeightStore::materialize_fp8(Group id, bool transposed) {
  GroupState& group = groups_[static_cast<std::size_t>(id)];
  if (!group.fp8_scale.defined()) {
    at::Tensor largest = nf4_largest(group.slots.front().codes);
    for (const Slot& slot : group.slots) largest = at::maximum(largest, nf4_largest(slot.codes));
    const at::Tensor scale = largest.clamp_min(kSmallestNormal) / kLargestE4m3;
    group.fp8_scale = at::stack({scale, scale.reciprocal()});
  }
  return {decoded(id, transposed ? kFp8Transposed : kFp8), group.fp8_scale};
}

at::Tensor WeightStore::decoded(Group id, Form form) {
  GroupState& group = groups_[static_cast<std::size_t>(id)];
  at::Tensor& kept = group.forms[form];
  if (kept.defined()) return kept;
  const at::ScalarType type = form == kDense ? dtype_ : at::kFloat8_e4m3fn;
  Shape shape = group.shape;
  if (form == kFp8Transposed) std::swap(shape[0], shape[1]);
  if (!group.cached && cached_bytes(group) <= cache_left_) {
    cache_left_ -= cached_bytes(group);
    group.cached = true;
  }
  if (group.cached) {
    kept = at::empty(shape, at::TensorOptions().device(device_).dtype(type));
    decode_into(group, form, kept);
    return kept;
  }
  const std::int64_t bytes = *element_count(shape) * static_cast<std::int64_t>(c10::elementSize(type));
  if (!scratch_.defined() || scratch_.numel() < bytes) {
    std::int64_t largest = bytes;
    for (const GroupState& other : groups_) largest = std::max(largest, scratch_bytes(other));
    scratch_ = at::empty({largest}, at::TensorOptions().device(device_).dtype(at::kByte));
    in_scratch_ = {};
  }
  at::Tensor out = scratch_.narrow(0, 0, bytes).view(type).view(shape);
  if (in_scratch_ != Scratch{id, form}) decode_into(group, form, out);
  in_scratch_ = {id, form};
  return out;
}

void WeightStore::decode_into(const GroupState& group, Form form, const at::Tensor& out) const {
  for (const Slot& slot : group.slots) {
    const at::Tensor part = out.narrow(form == kFp8Transposed ? 1 : 0, slot.first_row, slot.member.shape[0]);
    if (form != kDense) {
      nf4_to_fp8(slot.codes, group.fp8_scale, form == kFp8Transposed, part);
    } else if (slot.member.quantize) {
      nf4_dequantize(slot.codes, part);
    } else {
      part.copy_(slot.dense);
    }
  }
}

bool WeightStore::multiply(Group id, const at::Tensor& x, const at::Tensor& addend, const at::Tensor& bias,
                           const at::Tensor& out) const {
  constexpr std::int64_t kMostRows = 8;
  const GroupState& group = groups_[static_cast<std::size_t>(id)];
  // Dense ones are four times as many bytes to read, whether they are there or not.
  if (!group.quantized || !x.is_cuda() || x.size(0) > kMostRows) return false;
  std::vector<const Nf4Weight*> weights;
  for (const Slot& slot : group.slots) weights.push_back(&slot.codes);
  return cuda::nf4_matvec(weights, x, addend, bias, out);
}

at::Tensor WeightStore::dequantized(const std::string& name) const {
  const auto [id, index] = places_.at(name);
  const GroupState& group = groups_[static_cast<std::size_t>(id)];
  const Slot& slot = group.slots[index];
  if (!group.quantized) return group.dense.narrow(0, slot.first_row, slot.member.shape[0]).to(at::kCPU, at::kFloat);
  if (!slot.member.quantize) return slot.dense.to(at::kCPU, at::kFloat);
  at::Tensor values = at::empty(slot.member.shape, at::kFloat);
  nf4_dequantize(slot.codes, values);
  return values;
}

std::int64_t WeightStore::bytes() const {
  std::int64_t total = 0;
  for (const GroupState& group : groups_) {
    if (!group.on_host) total += tensor_bytes(group.dense);
    for (const Slot& slot : group.slots) total += slot.codes.bytes() + tensor_bytes(slot.dense);
  }
  return total;
}

std::int64_t WeightStore::scratch_bytes() const {
  std::int64_t total = tensor_bytes(scratch_);
  for (const GroupState& group : groups_) {
    for (const at::Tensor& form : group.forms) total += tensor_bytes(form);
  }
  return total;
}

std::int64_t WeightStore::dense_bytes(const Shape& shape) const {
  return *element_count(shape) * static_cast<std::int64_t>(c10::elementSize(dtype_));
}

std::int64_t WeightStore::cached_bytes(const GroupState& group) const {
  return in_fp8(group) ? 2 * *element_count(group.shape) : dense_bytes(group.shape);
}

std::int64_t WeightStore::scratch_bytes(const GroupState& group) const {
  if (!group.quantized) return 0;
  return in_fp8(group) ? *element_count(group.shape) : dense_bytes(group.shape);
}

std::int64_t WeightStore::planned_bytes() const {
  std::int64_t total = 0;
  for (const GroupState& group : groups_) {
    if (!group.quantized && !group.on_host) total += dense_bytes(group.shape);
    for (const Slot& slot : group.slots) {
      if (!group.quantized) continue;
      const Shape& shape = slot.member.shape;
      total += slot.member.quantize ? nf4_weight_bytes(*element_count(shape), policy_.nested) : dense_bytes(shape);
    }
  }
  return total;
}

std::int64_t WeightStore::planned_scratch_bytes() const {
  std::int64_t cached = 0, largest = 0;
  bool passes = false;
  for (const GroupState& group : groups_) {
    if (!group.quantized) continue;
    const std::int64_t bytes = cached_bytes(group);
    largest = std::max(largest, scratch_bytes(group));
    const bool stays = bytes <= policy_.dequantize_cache_bytes - cached;
    cached += stays ? bytes : 0;
    passes = passes || !stays;
  }
  return cached + (passes ? largest : 0);
}

}  // namespace qlora
