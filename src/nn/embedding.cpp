#include "qlora/nn/embedding.h"

#include <ATen/ops/index_select.h>
#include <ATen/ops/scalar_tensor.h>

#include "qlora/nn/gemm.h"
#include "qlora/nn/neftune.h"

namespace qlora {
namespace {

enum Buffer { kLowRank, kDLowRank };

// On a GPU the same bytes in larger numbers: a thread copies one number, and a table in host memory is read over the
// bus in what a warp asks for at once.
at::Tensor in_large_numbers(const at::Tensor& rows) {
  const auto numbers = static_cast<std::int64_t>(sizeof(std::int64_t) / rows.element_size());
  const bool divides = rows.size(1) % numbers == 0 && rows.storage_offset() % numbers == 0;
  return rows.is_cuda() && divides ? rows.view(at::kLong) : rows;
}

}  // namespace

Embedding::Embedding(Spec spec, ParameterSet& parameters, Dtype dtype)
    : spec_(std::move(spec)), parameters_(parameters), dtype_(dtype) {
  spec_.scale = at::scalar_tensor(spec_.scale, at::TensorOptions().dtype(dtype)).item<double>();
}

OperationPlan Embedding::plan(const BatchShape& shape) const {
  const std::int64_t rank = spec_.adapter ? spec_.adapter->rank : 0;
  OperationPlan plan{{shape.tokens, spec_.columns}, dtype_, {}};
  plan.buffers = {{"low_rank", {rank, shape.tokens}, dtype_, Life::kSaved},
                  {"d_low_rank", {rank, shape.tokens}, dtype_, Life::kBackwardScratch}};
  if (shape.device.is_cpu()) return plan;
  // The gradient of A's columns in float32, and the noise.
  plan.workspace = rank * shape.tokens * 4;
  if (spec_.noise > 0.0) plan.workspace = std::max(plan.workspace, neftune_workspace(shape.tokens, spec_.columns));
  return plan;
}

void Embedding::forward(const Batch& batch, const OperationViews& v) {
  at::Tensor out = v.out, numbers = in_large_numbers(v.out);
  at::index_select_out(numbers, in_large_numbers(spec_.table.get()), 0, batch.ids);
  if (spec_.adapter) {
    at::Tensor low_rank = v.buffers[kLowRank];
    at::index_select_out(low_rank, parameters_.compute(spec_.adapter->a), 1, batch.ids);
    gemm(out, low_rank.t(), parameters_.compute(spec_.adapter->b).t(), {spec_.adapter->scale, out, {}});
  }
  if (spec_.scale != 1.0) out.mul_(spec_.scale);
  if (spec_.noise > 0.0 && batch.training) add_neftune_noise(out, batch, spec_.noise, spec_.seed);
}

// d_A[:, ids] += s B^T d_y^T, d_B += s d_y^T u^T with s = scale of the adapter times that of the table.
void Embedding::backward(const Batch& batch, const OperationViews& v) {
  if (spec_.table.trainable()) {
    at::Tensor grad = spec_.table.grad();
    grad.index_add_(0, batch.ids, v.d_out.to(grad.scalar_type()), spec_.scale);
  }
  if (!spec_.adapter) return;
  const double scale = spec_.scale * spec_.adapter->scale;
  const at::Tensor d_b = parameters_.grad(spec_.adapter->b);
  at::Tensor d_a = parameters_.grad(spec_.adapter->a);
  const at::Tensor& d_low_rank = v.buffers[kDLowRank];
  gemm(d_b, v.d_out.t(), v.buffers[kLowRank].t(), {scale, d_b, {}});
  gemm(d_low_rank, parameters_.compute(spec_.adapter->b).t(), v.d_out.t(), {scale, {}, {}});
  d_a.index_add_(1, batch.ids, d_low_rank.to(d_a.scalar_type()));
}

}  // namespace qlora
