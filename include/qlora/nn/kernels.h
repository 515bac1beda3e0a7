// The bridge from operations to kernels/: tensors in, one launch on the current stream. An operation asks serves() and
// otherwise takes its ATen form, which runs on every device and is what the kernels are tested against.
#pragma once

#include <vector>

#include "qlora/nn/dropout.h"
#include "qlora/nn/operation.h"

namespace qlora {
struct AttentionShape;
}

namespace qlora::gpu {

// Whether there are kernels for tensors on this device of this type: on CUDA, where it is built in, for float32,
// float16 and bfloat16 of any shape.
bool serves(at::Device device, Dtype dtype);
inline bool serves(const at::Tensor& x) {
  return serves(x.device(), x.scalar_type());
}

// What is left of a GPU's memory, torch's unused share counted; 0 for other devices.
std::int64_t free_bytes(at::Device device);

// While it lives nothing is served: the ATen forms run on the GPU, too. For tests.
class AtenForms {
 public:
  AtenForms();
  ~AtenForms();
  AtenForms(const AtenForms&) = delete;
  AtenForms& operator=(const AtenForms&) = delete;
};

// All tensors are contiguous and of one type, but for what is named; see the headers in kernels/ for formulas.
// inverse: float32 [rows, 1].
void rms_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& y, const at::Tensor& inverse,
              double epsilon, double offset);
void rms_norm_backward(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& inverse, const at::Tensor& d_y,
                       const at::Tensor& d_x, double offset, bool accumulate);
struct HeadNorms {
  std::int64_t heads, kv_heads, head_dim;
  at::Tensor query_weight, key_weight;  // [head_dim]
  double epsilon, offset;
};
// inverse: float32 [rows, heads + kv_heads, 1].
void head_norm(const at::Tensor& x, const HeadNorms& norms, const at::Tensor& y, const at::Tensor& inverse);
void head_norm_backward(const at::Tensor& x, const HeadNorms& norms, const at::Tensor& inverse, const at::Tensor& d_y,
                        const at::Tensor& d_x, bool accumulate);
// cos, sin: float32 [positions, head_dim / 2].
void rope(const at::Tensor& x, const at::Tensor& positions, const at::Tensor& cos, const at::Tensor& sin,
          std::int64_t rotated_heads, std::int64_t heads, double sign);
void swiglu(const at::Tensor& x, const at::Tensor& y);
void swiglu_backward(const at::Tensor& x, const at::Tensor& d_y, const at::Tensor& d_x, bool accumulate);
// Needs the batch's token_rows and step_number.
void dropout(const at::Tensor& x, const at::Tensor& out, const Batch& batch, const DropoutKey& key, double p,
             bool accumulate);

// Whether the device multiplies e4m3 matrices with a scale for each row: compute capability 9.0.
bool multiplies_fp8(at::Device device);
// See kernels/fp8.h. x [rows, columns], factor float32 [], codes e4m3 [rows, columns], scales float32 [rows].
void fp8_quantize_rows(const at::Tensor& x, const at::Tensor& factor, const at::Tensor& codes,
                       const at::Tensor& scales);

// One of the adapters that share a projection's input; see kernels/lora.h.
struct LoraDown {
  at::Tensor a;             // [rank, in]
  at::Tensor d_a;           // float32 [rank, in]
  std::int64_t column = 0;  // the first of its columns in u and d_u
  double dropout = 0.0;
  DropoutKey key;
};
// Whether the kernels below serve adapters of these ranks: for 16-bit types on tensor cores, whole packs of features.
bool serves_lora(at::Device device, Dtype dtype, std::int64_t in, const std::vector<std::int64_t>& ranks);
// u [tokens, ranks]: each adapter's columns are dropout(x) a^T. x [tokens, in], its rows perhaps apart.
void lora_down(const at::Tensor& x, const std::vector<LoraDown>& adapters, const Batch& batch, const at::Tensor& u);
// How many floats the workspace of the next one holds.
std::int64_t lora_workspace(std::int64_t tokens, std::int64_t in, std::int64_t ranks);
// d_a += d_u^T dropout(x); d_x = (+= where `accumulate`) the adapters' dropout(d_u a). d_x may be x where it does not
// accumulate, or undefined.
void lora_down_backward(const at::Tensor& x, const at::Tensor& d_u, const std::vector<LoraDown>& adapters,
                        const Batch& batch, const at::Tensor& d_x, bool accumulate, const at::Tensor& workspace);

struct LoraUp {
  at::Tensor b;             // [out, rank], rank at most 64
  std::int64_t column = 0;  // of u
  std::int64_t begin = 0;   // of y; both and `out` are multiples of 8
  double scale = 1.0;
};
// y[:, begin .. begin + out) = scale * u b^T, for each adapter, plus `residual` where it is defined.
void lora_up(const at::Tensor& u, const std::vector<LoraUp>& adapters, const at::Tensor& residual, const at::Tensor& y);

// Attention over a cache; see kernels/cache_attention.h. Whether the kernels below serve such heads.
bool serves_cache(at::Device device, Dtype dtype, const AttentionShape& shape);
// Puts the keys and values of each token of qkv [T, (heads + 2 kv_heads) * head_dim] into its place of the cache, by
// the batch's slots and positions.
void cache_append(const at::Tensor& qkv, const Batch& batch, const AttentionShape& shape, std::int64_t layer);
// out [T, heads * head_dim]: each token attends to the keys up to its own, which are in the cache already.
void cache_attention(const at::Tensor& qkv, const Batch& batch, const AttentionShape& shape, std::int64_t layer,
                     const at::Tensor& out);

// nll: float32 [rows]. With a `scale` (float32 [1]) the logits become their gradient.
void cross_entropy(const at::Tensor& logits, const at::Tensor& targets, const at::Tensor& nll, const at::Tensor& scale);
// out (float32 [1]) = scale * the sum of values (float32 [n]).
void scaled_sum(const at::Tensor& values, const at::Tensor& scale, const at::Tensor& out);
// Zeroes the rows of x behind the last of `bounds` (int32).
void zero_tail(const at::Tensor& x, const at::Tensor& bounds);

}  // namespace qlora::gpu
