#include "qlora/quant/tensor_bytes.h"

#include <cstring>

#include <ATen/ops/empty.h>
#include <fmt/format.h>

#include "qlora/core/error.h"

namespace qlora {

std::optional<at::ScalarType> scalar_type_of(ElementType type) {
  switch (type) {
    case ElementType::kF64:
      return at::kDouble;
    case ElementType::kF32:
      return at::kFloat;
    case ElementType::kF16:
      return at::kHalf;
    case ElementType::kBF16:
      return at::kBFloat16;
    default:
      return std::nullopt;
  }
}

ElementType element_type_of(at::ScalarType type) {
  for (const ElementType known : {ElementType::kF64, ElementType::kF32, ElementType::kF16, ElementType::kBF16}) {
    if (scalar_type_of(known) == type) return known;
  }
  throw RuntimeFailure("a tensor of a type that no weight file holds");
}

at::ScalarType weight_type(const HostTensor& tensor, const std::string& name) {
  const auto type = scalar_type_of(tensor.type);
  if (!type) {
    throw DataError(fmt::format("tensor '{}': has type {}, a weight must be F64, F32, F16 or BF16", name,
                                element_name(tensor.type)));
  }
  return *type;
}

at::Tensor to_tensor(const HostTensor& tensor, const std::string& name) {
  at::Tensor copy = at::empty(tensor.shape, weight_type(tensor, name));
  if (!tensor.bytes.empty()) std::memcpy(copy.mutable_data_ptr(), tensor.bytes.data(), tensor.bytes.size());
  return copy;
}

HostTensor to_host_tensor(const at::Tensor& tensor) {
  TORCH_CHECK(tensor.device().is_cpu() && tensor.is_contiguous(), "only a contiguous CPU tensor has bytes to view");
  return {element_type_of(tensor.scalar_type()),
          tensor.sizes().vec(),
          {static_cast<const std::byte*>(tensor.const_data_ptr()), tensor.nbytes()}};
}

}  // namespace qlora
