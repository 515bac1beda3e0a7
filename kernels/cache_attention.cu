#include "kernels/cache_attention.h"
#include "kernels/common.cuh"

namespace qlora::kernels {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;
constexpr int kV = 8;  // elements of a lane
constexpr int kMostSplits = 64;
constexpr std::int64_t kLeastKeys = 64;  // of a part

template <class T>
__global__ void __launch_bounds__(256) cache_append_kernel(const CacheAttention<T> a) {
  const int columns = a.kv_heads * a.head_dim;
  const std::int64_t packs = 2 * columns / kV;
  const std::int64_t count = a.tokens * packs;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += static_cast<std::int64_t>(gridDim.x) * blockDim.x) {
    const std::int64_t token = i / packs;
    const int column = static_cast<int>(i - token * packs) * kV;
    const T* from = a.qkv + (token * (a.heads + 2 * a.kv_heads) + a.heads) * a.head_dim + column;
    const std::int64_t place = (a.slots[token] * a.capacity + a.positions[token]) * columns;
    T* to = column < columns ? a.keys + place + column : a.values + place + column - columns;
    Pack<T, kV>::load(from).store(to);
  }
}

// The softmax of some keys so far: the largest score, the sum of exp(score - largest), and that sum over the values.
struct Sum {
  float most = -INFINITY;
  float weight = 0.0F;
  float mixed[kV] = {};

  // What was summed before a larger score was seen counts less.
  __device__ __forceinline__ float raise(float score) {
    const float raised = fmaxf(most, score);
    const float factor = raised == -INFINITY ? 1.0F : __expf(most - raised);
    most = raised;
    weight *= factor;
#pragma unroll
    for (float& x : mixed) x *= factor;
    return raised;
  }
  __device__ __forceinline__ void add(float score, const float (&value)[kV]) {
    const float p = score == -INFINITY ? 0.0F : __expf(score - most);
    weight += p;
#pragma unroll
    for (int i = 0; i < kV; ++i) mixed[i] += p * value[i];
  }
};

template <class T>
__device__ __forceinline__ void load(const T* from, bool there, float (&to)[kV]) {
  Pack<T, kV> pack{};
  if (there) pack = Pack<T, kV>::load(from);
#pragma unroll
  for (int i = 0; i < kV; ++i) to[i] = there ? pack[i] : 0.0F;
}

// A block: one token, one part of its keys, G query heads of one key head. L lanes share a key; each warp works on
// 32 / L keys at once, U times over, so that loads are in flight together.
template <class T, int L, int G>
__global__ void __launch_bounds__(kThreads)
    cache_attention_kernel(const CacheAttention<T> a, int splits, float* partial, T* out) {
  constexpr int kKeys = 32 / L;            // of a warp at once
  constexpr int kStride = kWarps * kKeys;  // of a block at once
  constexpr int U = G > 2 ? 2 : 4;
  __shared__ float warp_most[kWarps][G], warp_weight[kWarps][G];
  __shared__ float warp_mixed[kWarps][G][L * kV];

  const int group = a.heads / a.kv_heads;
  const int tiles = (group + G - 1) / G;
  const std::int64_t token = blockIdx.x;
  const int kv_head = static_cast<int>(blockIdx.y) / tiles;
  const int first = static_cast<int>(blockIdx.y) % tiles * G;  // within the group
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int column = lane % L * kV;
  const bool has_column = column < a.head_dim;

  float q[G][kV];
#pragma unroll
  for (int g = 0; g < G; ++g) {
    const int head = kv_head * group + first + g;
    load(a.qkv + (token * (a.heads + 2 * a.kv_heads) + head) * a.head_dim + column, has_column && first + g < group,
         q[g]);
#pragma unroll
    for (float& x : q[g]) x *= a.scale;
  }

  const std::int64_t end = a.positions[token] + 1;
  const std::int64_t begin = a.window > 0 && end > a.window ? end - a.window : 0;
  const std::int64_t part = (end - begin + splits - 1) / splits;
  const std::int64_t part_begin = begin + blockIdx.z * part;
  const std::int64_t part_end = part_begin + part < end ? part_begin + part : end;
  const std::int64_t row = static_cast<std::int64_t>(a.kv_heads) * a.head_dim;
  const std::int64_t slot = a.slots[token] * a.capacity * row + kv_head * a.head_dim + column;

  Sum sums[G];
  for (std::int64_t base = part_begin + warp * kKeys; base < part_end; base += kStride * U) {
    float key[U][kV], value[U][kV];
#pragma unroll
    for (int u = 0; u < U; ++u) {
      const std::int64_t k = base + u * kStride + lane / L;
      const bool there = k < part_end && has_column;
      load(a.keys + slot + k * row, there, key[u]);
      load(a.values + slot + k * row, there, value[u]);
    }
#pragma unroll
    for (int g = 0; g < G; ++g) {
      float score[U];
      float most = -INFINITY;
#pragma unroll
      for (int u = 0; u < U; ++u) {
        float s = 0.0F;
#pragma unroll
        for (int i = 0; i < kV; ++i) s += q[g][i] * key[u][i];
#pragma unroll
        for (int offset = L / 2; offset > 0; offset /= 2) s += __shfl_xor_sync(0xffffffffU, s, offset);
        if (a.softcap > 0.0F) s = a.softcap * tanhf(s / a.softcap);
        score[u] = base + u * kStride + lane / L < part_end ? s : -INFINITY;
        most = fmaxf(most, score[u]);
      }
      sums[g].raise(most);
#pragma unroll
      for (int u = 0; u < U; ++u) sums[g].add(score[u], value[u]);
    }
  }

  // The warp's keys together, then the block's.
#pragma unroll
  for (int g = 0; g < G; ++g) {
    Sum& sum = sums[g];
    float most = sum.most;
#pragma unroll
    for (int offset = 16; offset >= L; offset /= 2) most = fmaxf(most, __shfl_xor_sync(0xffffffffU, most, offset));
    sum.raise(most);
#pragma unroll
    for (int offset = 16; offset >= L; offset /= 2) {
      sum.weight += __shfl_xor_sync(0xffffffffU, sum.weight, offset);
#pragma unroll
      for (float& x : sum.mixed) x += __shfl_xor_sync(0xffffffffU, x, offset);
    }
    if (lane == 0) {
      warp_most[warp][g] = sum.most;
      warp_weight[warp][g] = sum.weight;
    }
    if (lane < L) {
#pragma unroll
      for (int i = 0; i < kV; ++i) warp_mixed[warp][g][column + i] = sum.mixed[i];
    }
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < G * a.head_dim; i += kThreads) {
    const int g = i / a.head_dim;
    const int c = i - g * a.head_dim;
    if (first + g >= group) break;
    float most = warp_most[0][g];
    for (int w = 1; w < kWarps; ++w) most = fmaxf(most, warp_most[w][g]);
    float weight = 0.0F;
    float mixed = 0.0F;
    for (int w = 0; w < kWarps; ++w) {
      const float factor = warp_most[w][g] == -INFINITY ? 0.0F : __expf(warp_most[w][g] - most);
      weight += factor * warp_weight[w][g];
      mixed += factor * warp_mixed[w][g][c];
    }
    const std::int64_t head = token * a.heads + kv_head * group + first + g;
    if (splits == 1) {
      out[head * a.head_dim + c] = from_float<T>(mixed / weight);
    } else {
      float* mine = partial + (head * splits + blockIdx.z) * (a.head_dim + 2);
      mine[c] = mixed;
      if (c == 0) {
        mine[a.head_dim] = most;
        mine[a.head_dim + 1] = weight;
      }
    }
  }
}

// A block: one head of one token.
template <class T>
__global__ void __launch_bounds__(kThreads) combine_kernel(const float* partial, int head_dim, int splits, T* out) {
  const std::int64_t head = blockIdx.x;
  const float* mine = partial + head * splits * (head_dim + 2);
  const int stride = head_dim + 2;
  float most = -INFINITY;
  for (int s = 0; s < splits; ++s) most = fmaxf(most, mine[s * stride + head_dim]);
  for (int c = static_cast<int>(threadIdx.x); c < head_dim; c += kThreads) {
    float weight = 0.0F;
    float mixed = 0.0F;
    for (int s = 0; s < splits; ++s) {
      const float part_most = mine[s * stride + head_dim];
      if (part_most == -INFINITY) continue;  // a part without a key
      const float factor = __expf(part_most - most);
      weight += factor * mine[s * stride + head_dim + 1];
      mixed += factor * mine[s * stride + c];
    }
    out[head * head_dim + c] = from_float<T>(mixed / weight);
  }
}

int tile_of(int heads, int kv_heads) {
  const int group = heads / kv_heads;
  return group >= 3 ? 4 : group;
}

int tiles_of(int heads, int kv_heads) {
  const int group = heads / kv_heads;
  const int tile = tile_of(heads, kv_heads);
  return (group + tile - 1) / tile;
}

template <class T, int L>
void launch(const CacheAttention<T>& a, int splits, float* partial, T* out, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(a.tokens), static_cast<unsigned>(a.kv_heads * tiles_of(a.heads, a.kv_heads)),
                  static_cast<unsigned>(splits));
  switch (tile_of(a.heads, a.kv_heads)) {
    case 1:
      cache_attention_kernel<T, L, 1><<<grid, kThreads, 0, stream>>>(a, splits, partial, out);
      break;
    case 2:
      cache_attention_kernel<T, L, 2><<<grid, kThreads, 0, stream>>>(a, splits, partial, out);
      break;
    default:
      cache_attention_kernel<T, L, 4><<<grid, kThreads, 0, stream>>>(a, splits, partial, out);
  }
}

}  // namespace

template <class T>
cudaError_t cache_append(const CacheAttention<T>& a, cudaStream_t stream) {
  if (a.tokens == 0) return cudaSuccess;
  const unsigned grid = grid_for(a.tokens * 2 * a.kv_heads * a.head_dim / kV, 256);
  cache_append_kernel<<<grid, 256, 0, stream>>>(a);
  return cudaGetLastError();
}

int cache_attention_splits(std::int64_t tokens, int heads, int kv_heads, std::int64_t longest) {
  constexpr std::int64_t kBlocks = 132 * 8;
  const std::int64_t blocks = tokens * kv_heads * tiles_of(heads, kv_heads);
  std::int64_t splits = kBlocks / (blocks < 1 ? 1 : blocks);
  const std::int64_t most = (longest + kLeastKeys - 1) / kLeastKeys;
  splits = splits < most ? splits : most;
  return static_cast<int>(splits < 1 ? 1 : splits < kMostSplits ? splits : kMostSplits);
}

std::int64_t cache_attention_partials(std::int64_t tokens, int heads, int head_dim, int splits) {
  return splits == 1 ? 0 : tokens * heads * splits * (head_dim + 2);
}

template <class T>
cudaError_t cache_attention(const CacheAttention<T>& a, int splits, float* partial, T* out, cudaStream_t stream) {
  if (a.head_dim % kV != 0 || a.head_dim > 32 * kV || splits < 1 || splits > kMostSplits) return cudaErrorInvalidValue;
  if (a.tokens == 0) return cudaSuccess;
  if (a.head_dim <= 8 * kV) {
    launch<T, 8>(a, splits, partial, out, stream);
  } else if (a.head_dim <= 16 * kV) {
    launch<T, 16>(a, splits, partial, out, stream);
  } else {
    launch<T, 32>(a, splits, partial, out, stream);
  }
  if (splits > 1) {
    combine_kernel<<<static_cast<unsigned>(a.tokens * a.heads), kThreads, 0, stream>>>(partial, a.head_dim, splits,
                                                                                       out);
  }
  return cudaGetLastError();
}

#define INSTANTIATE(T)                                                       \
  template cudaError_t cache_append(const CacheAttention<T>&, cudaStream_t); \
  template cudaError_t cache_attention(const CacheAttention<T>&, int, float*, T*, cudaStream_t);
QLORA_FOR_COMPUTE_TYPES(INSTANTIATE)

}  // namespace qlora::kernels
