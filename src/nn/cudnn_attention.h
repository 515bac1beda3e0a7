// Packed causal attention through cuDNN: rows of any lengths by ragged offsets, no padding in memory.
#pragma once

#include "qlora/nn/attention.h"

namespace qlora {

// Whether they ran: false where cuDNN has no kernel for the shape, type or card, for short rows, where other kernels
// are as fast, and in builds without CUDA. Tensors as in Attention; lse float32 [tokens, heads]. What lies behind the
// last row is not written.
bool cudnn_attention(const Batch& batch, const AttentionShape& shape, const at::Tensor& qkv, const at::Tensor& out,
                     const at::Tensor& lse);
bool cudnn_attention_backward(const Batch& batch, const AttentionShape& shape, const at::Tensor& qkv,
                              const at::Tensor& out, const at::Tensor& lse, const at::Tensor& d_out,
                              const at::Tensor& d_qkv);

// Bytes of workspace for batches of this shape; 0 where other kernels run. A card is not asked.
std::int64_t cudnn_attention_workspace(const BatchShape& batch, const AttentionShape& shape, Dtype dtype);

}  // namespace qlora
