// Between tensors of libtorch and the typed bytes that files hold.
#pragma once

#include <optional>
#include <string>

#include <ATen/core/Tensor.h>

#include "qlora/core/host_tensor.h"

namespace qlora {

// The floating-point types that both sides have: F64, F32, F16, BF16.
std::optional<at::ScalarType> scalar_type_of(ElementType type);
ElementType element_type_of(at::ScalarType type);  // throws RuntimeFailure for other types

// The type of a weight in a file. Throws DataError naming it for a type that is no float.
at::ScalarType weight_type(const HostTensor& tensor, const std::string& name);

// A copy of a tensor in host memory; its bytes may be unaligned. Throws as weight_type().
at::Tensor to_tensor(const HostTensor& tensor, const std::string& name);

// A view of a contiguous CPU tensor's bytes, valid while the tensor lives.
HostTensor to_host_tensor(const at::Tensor& tensor);

}  // namespace qlora
