#include "qlora/adapters/merge.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/isfinite.h>
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
      if (b.size(0) != sum.size(0) || a.size(1) != sum.size(1)) {
        throw DataError(fmt::format(
            "adapter module '{}': makes a change of {}, the base's weight is {}: it was made for another base", module,
            shape_text({b.size(0), a.size(1)}), shape_text(sum.sizes().vec())));
      }
      sum.add_(at::mm(b, a), input.weight * lora_scale(input.adapter->config, module));
    }
  }
  if (!at::isfinite(sum).all().item<bool>()) throw DataError(fmt::format("'{}': merging makes NaN or Inf", module));
  const at::Tensor rounded = sum.to(dtype);
  const double norm = sum.norm().item<double>();
  return {rounded, norm == 0.0 ? 0.0 : (rounded.to(at::kFloat) - sum).norm().item<double>() / norm};
}

}  // namespace qlora
