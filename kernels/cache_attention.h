// Attention of single tokens over a cache of keys and values, and what fills it. Pointers are the device's; work is
// queued on `stream`; what comes back is the launch's error. Instantiated for float, __half and __nv_bfloat16.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace qlora::kernels {

// Token t is its row's number positions[t] and belongs to slot slots[t]; tokens of one row may come together. head_dim
// is a multiple of 8, at most 256, and all pointers are aligned to 32 bytes.
template <class T>
struct CacheAttention {
  const T* qkv = nullptr;                   // [tokens, (heads + 2 kv_heads) * head_dim]
  const std::int64_t* slots = nullptr;      // [tokens]
  const std::int64_t* positions = nullptr;  // [tokens]
  T* keys = nullptr;                        // [slots, capacity, kv_heads, head_dim]
  T* values = nullptr;                      // likewise
  std::int64_t tokens = 0, capacity = 0;
  int heads = 0, kv_heads = 0, head_dim = 0;
  float scale = 1.0F;
  int window = 0;        // how many keys a token sees, its own among them; 0: all
  float softcap = 0.0F;  // of the scores: c * tanh(score / c); 0: none
};

// keys[slot, position] and values[slot, position] = those of each token.
template <class T>
cudaError_t cache_append(const CacheAttention<T>& a, cudaStream_t stream);

// Into how many parts the keys of a token are split, so that few tokens fill the GPU, too. `longest`: the most keys.
int cache_attention_splits(std::int64_t tokens, int heads, int kv_heads, std::int64_t longest);

// Floats of `partial` for so many parts.
std::int64_t cache_attention_partials(std::int64_t tokens, int heads, int head_dim, int splits);

// out [tokens, heads * head_dim] = softmax(scale * q k^T) v over the keys up to each token's own, sums in float32.
template <class T>
cudaError_t cache_attention(const CacheAttention<T>& a, int splits, float* partial, T* out, cudaStream_t stream);

}  // namespace qlora::kernels
