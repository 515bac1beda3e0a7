#include "qlora/adapters/merge.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/mm.h>
#include <fmt/format.h>

#include "qlora/core/error.h"
#include "qlora/weights/load.h"

namespace qlora {

MergedTensor merge_linear(const at::Tensor& base, const std::string& module, const std::vector<MergeInput>& adapters,
                          at::ScalarType dtype) {
  at::Tensor sum = base.to(at::kFloat, /*non_blocking=*/false, /*copy=*/true);
  for (const MergeInput& input : adapters) {
    for (const LoraMatrices& matrices : input.adapter->matrices) {
      if (matrices.module != module) continue;
      const at::Tensor a = to_tensor(matrices.a, module).to(at::kFloat);
      const at::Tensor b = to_tensor(matrices.b, module).to(at::kFloat);
      at::Tensor target = matrices.embedding ? sum.t() : sum;
      if (b.size(0) != target.size(0) || a.size(1) != target.size(1)) {
        throw DataError(fmt::format(
            "adapter module '{}': makes a change of {}, the base's weight is {}: it was made for another base", module,
            shape_text({b.size(0), a.size(1)}), shape_text(target.sizes().vec())));
      }
      target.add_(at::mm(b, a), input.weight * lora_scale(input.adapter->config, module));
      if (!matrices.magnitude) continue;
      if (adapters.size() > 1 || input.weight != 1.0) {
        throw UsageError(fmt::format("'{}': an adapter with DoRA is merged alone, with weight 1", module));
      }
      const at::Tensor magnitude = to_tensor(*matrices.magnitude, module).to(at::kFloat);
      sum.mul_((magnitude / at::linalg_vector_norm(sum, 2, at::IntArrayRef{1})).unsqueeze(1));
    }
  }
  if (!at::isfinite(sum).all().item<bool>()) throw DataError(fmt::format("'{}': merging makes NaN or Inf", module));
  const at::Tensor rounded = sum.to(dtype);
  const double norm = sum.norm().item<double>();
  return {rounded, norm == 0.0 ? 0.0 : (rounded.to(at::kFloat) - sum).norm().item<double>() / norm};
}

}  // namespace qlora
