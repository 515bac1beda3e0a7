#include "qlora/nn/embedding.h"

#include <ATen/ops/index_select.h>

namespace qlora {

Embedding::Embedding(Weight table, std::int64_t columns, Dtype dtype)
    : table_(table), columns_(columns), dtype_(dtype) {}

void Embedding::forward(const Batch& batch, const OperationViews& views) {
  at::Tensor out = views.out;
  at::index_select_out(out, table_.get(), 0, batch.ids);
}

void Embedding::backward(const Batch& batch, const OperationViews& views) {
  at::Tensor grad = table_.grad();
  grad.index_add_(0, batch.ids, views.d_out.to(grad.scalar_type()));
}

}  // namespace qlora
