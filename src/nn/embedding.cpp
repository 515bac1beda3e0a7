#include "qlora/nn/embedding.h"

#include <ATen/ops/index_select.h>
#include <ATen/ops/scalar_tensor.h>

namespace qlora {

Embedding::Embedding(Weight table, std::int64_t columns, Dtype dtype, double scale)
    : table_(table),
      columns_(columns),
      dtype_(dtype),
      scale_(at::scalar_tensor(scale, at::TensorOptions().dtype(dtype)).item<double>()) {}

void Embedding::forward(const Batch& batch, const OperationViews& views) {
  at::Tensor out = views.out;
  at::index_select_out(out, table_.get(), 0, batch.ids);
  if (scale_ != 1.0) out.mul_(scale_);
}

void Embedding::backward(const Batch& batch, const OperationViews& views) {
  at::Tensor grad = table_.grad();
  grad.index_add_(0, batch.ids, views.d_out.to(grad.scalar_type()), scale_);
}

}  // namespace qlora
