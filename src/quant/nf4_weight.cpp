#include "qlora/quant/nf4_weight.h"

#include <algorithm>
#include <cstring>

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>

#include "qlora/quant/dynamic_map.h"
#include "qlora/quant/nf4_arithmetic.h"
#include "qlora/quant/nf4_cuda.h"
#include "qlora/quant/tensor_bytes.h"

namespace qlora {
namespace {

template <typename T>
const T* data(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.const_data_ptr<T>() : nullptr;
}

template <typename Range>
at::Tensor copied(const Range& values, at::ScalarType type, at::Device device) {
  at::Tensor tensor = at::empty({static_cast<std::int64_t>(values.size())}, type);
  if (tensor.nbytes() > 0) std::memcpy(tensor.mutable_data_ptr(), values.data(), tensor.nbytes());
  return tensor.to(device);
}

template <typename T>
std::vector<T> copied(const at::Tensor& tensor) {
  if (!tensor.defined()) return {};
  const at::Tensor host = tensor.cpu();
  return {host.const_data_ptr<T>(), host.const_data_ptr<T>() + host.numel()};
}

void quantize_values(const at::Tensor& values, const Nf4Weight& weight, const std::string& name) {
  if (values.is_cuda()) return cuda::nf4_quantize(values, weight.codes, weight.absmax, name);
  nf4_quantize(values.const_data_ptr(), weight.dtype, values.numel(), weight.codes.mutable_data_ptr<std::uint8_t>(),
               weight.absmax.mutable_data_ptr<float>(), name);
}

float nest(const at::Tensor& absmax, const Nf4Weight& weight, const std::string& name) {
  if (absmax.is_cuda()) {
    return cuda::nf4_nest_absmax(absmax, weight.nested_map, weight.absmax_codes, weight.nested_absmax, name);
  }
  return nf4_nest_absmax(absmax.const_data_ptr<float>(), absmax.numel(),
                         weight.absmax_codes.mutable_data_ptr<std::uint8_t>(),
                         weight.nested_absmax.mutable_data_ptr<float>(), name);
}

// Rows lie one after the other, perhaps with gaps; what is in a row has none.
bool has_rows(const at::Tensor& out) {
  return out.is_contiguous() || (out.dim() == 2 && out.stride(1) == 1 && out.stride(0) >= out.size(1));
}

bool decodes_into(const Nf4Weight& weight, const at::Tensor& out) {
  if (out.device() != weight.codes.device() || out.scalar_type() == at::kDouble) return false;
  return out.is_cuda() ? has_rows(out) : out.is_contiguous();
}

}  // namespace

std::int64_t Nf4Weight::bytes() const {
  std::size_t total = 0;
  for (const at::Tensor* part : {&codes, &absmax, &absmax_codes, &nested_absmax, &nested_map}) {
    if (part->defined()) total += part->nbytes();
  }
  return static_cast<std::int64_t>(total);
}

Nf4View Nf4Weight::view() const {
  Nf4View view;
  view.count = count();
  view.codes = data<std::uint8_t>(codes);
  view.absmax = data<float>(absmax);
  view.absmax_codes = data<std::uint8_t>(absmax_codes);
  view.nested_absmax = data<float>(nested_absmax);
  view.nested_map = data<float>(nested_map);
  view.nested_offset = nested_offset;
  return view;
}

Nf4Weight nf4_quantize(const at::Tensor& values, at::Device device, bool nested, const std::string& name) {
  at::Tensor own = values.scalar_type() == at::kDouble ? values.to(at::kFloat) : values;
  own = own.to(device).contiguous();
  const std::int64_t blocks = nf4_blocks(own.numel());
  const auto bytes = at::TensorOptions().device(device).dtype(at::kByte);
  const auto floats = bytes.dtype(at::kFloat);
  Nf4Weight weight;
  weight.shape = values.sizes().vec();
  weight.dtype = element_type_of(own.scalar_type());
  weight.codes = at::empty({nf4_code_bytes(own.numel())}, bytes);
  weight.absmax = at::empty({blocks}, floats);
  quantize_values(own, weight, name);
  if (!nested) return weight;
  weight.absmax_codes = at::empty({blocks}, bytes);
  weight.nested_absmax = at::empty({nf4_nested_blocks(blocks)}, floats);
  weight.nested_map = copied(signed_dynamic_map(), at::kFloat, device);
  weight.nested_offset = nest(weight.absmax, weight, name);
  weight.absmax.reset();
  return weight;
}

std::int64_t nf4_weight_bytes(std::int64_t count, bool nested) {
  const std::int64_t blocks = nf4_blocks(count);
  constexpr std::int64_t kFloat = sizeof(float);
  const std::int64_t scales =
      nested ? blocks + kFloat * (nf4_nested_blocks(blocks) + static_cast<std::int64_t>(signed_dynamic_map().size()))
             : kFloat * blocks;
  return nf4_code_bytes(count) + scales;
}

Nf4Weight to_device(const Nf4Tensor& tensor, at::Device device) {
  Nf4Weight weight;
  weight.shape = tensor.shape;
  weight.dtype = tensor.dtype;
  weight.codes = copied(tensor.codes, at::kByte, device);
  if (tensor.nested()) {
    weight.absmax_codes = copied(tensor.absmax_codes, at::kByte, device);
    weight.nested_absmax = copied(tensor.nested_absmax, at::kFloat, device);
    weight.nested_map = copied(tensor.nested_map, at::kFloat, device);
    weight.nested_offset = tensor.nested_offset;
  } else {
    weight.absmax = copied(tensor.absmax, at::kFloat, device);
  }
  return weight;
}

Nf4Tensor to_host(const Nf4Weight& weight) {
  Nf4Tensor tensor;
  tensor.shape = weight.shape;
  tensor.dtype = weight.dtype;
  tensor.codes = copied<std::uint8_t>(weight.codes);
  tensor.absmax = copied<float>(weight.absmax);
  tensor.absmax_codes = copied<std::uint8_t>(weight.absmax_codes);
  tensor.nested_absmax = copied<float>(weight.nested_absmax);
  tensor.nested_map = copied<float>(weight.nested_map);
  tensor.nested_offset = weight.nested_offset;
  return tensor;
}

void nf4_dequantize(const Nf4Weight& weight, const at::Tensor& out) {
  if (!decodes_into(weight, out)) {
    const auto type = out.scalar_type() == at::kDouble ? at::kFloat : out.scalar_type();
    const at::Tensor own = at::empty(out.sizes(), weight.codes.options().dtype(type));
    nf4_dequantize(weight, own);
    out.copy_(own);
  } else if (out.is_cuda()) {
    cuda::nf4_dequantize(weight, out);
  } else {
    nf4_dequantize(weight.view(), element_type_of(out.scalar_type()), out.mutable_data_ptr());
  }
}

at::Tensor nf4_largest(const Nf4Weight& weight) {
  if (!weight.nested()) return weight.absmax.amax();
  const at::Tensor centred = weight.nested_map.index_select(0, weight.absmax_codes.to(at::kInt));
  const at::Tensor scales = weight.nested_absmax.repeat_interleave(kNf4NestedBlock).narrow(0, 0, centred.size(0));
  return (centred * scales + weight.nested_offset).abs().amax();
}

void nf4_to_fp8(const Nf4Weight& weight, const at::Tensor& scale, bool transposed, const at::Tensor& out) {
  if (out.is_cuda()) return cuda::nf4_to_fp8(weight, scale, transposed, out);
  at::Tensor values = at::empty(weight.shape, at::kFloat);
  nf4_dequantize(weight, values);
  values.mul_(scale[1]);
  out.copy_(transposed ? values.t() : values);
}

}  // namespace qlora
