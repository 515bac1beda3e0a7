#include <algorithm>
#include <array>

#include "kernels/dropout_mask.cuh"
#include "kernels/lora.h"
#include "kernels/mma.cuh"

namespace qlora::kernels {
namespace {

// A block takes kFeatures features and walks over tokens, 16 a warp at once, so that it holds the whole sums of d_a.
constexpr int kWarps = 8;
constexpr int kTokens = 16;
constexpr int kFeatures = 64;
constexpr int kRowPitch = kFeatures + 2;  // of sums in shared memory: fewer lanes meet in a bank

// Of a tile [16 tokens, 64 features], lane 4 g + q has features 8 g .. 8 g + 7 of four tokens: 16 bytes a load, and one
// draw of a mask. They are the tokens that the tensor cores' layouts want of it as a factor's k and as a result's
// column.
__device__ constexpr int token_of(int q, int j) {
  return 2 * q + j % 2 + 8 * (j / 2);
}

// What one warp has under way, each lane for itself. d_u: a word is two ranks of token g (or g + 8).
template <int kAdapters, int kTiles>
struct Stage {
  uint4 x[4][32];
  std::uint32_t d_u[kAdapters * kTiles][2][32];
};

template <int kAdapters, int kTiles>
struct Shared {
  static constexpr int kStages = kTiles > 4 ? 2 : 3;
  static constexpr int kRanks = kAdapters * kTiles * 8;
  uint4 a[kAdapters * kTiles / 2][4][32];  // the factors of d_x, as the tensor cores want them
  union {
    Stage<kAdapters, kTiles> stages[kWarps][kStages];
    float sums[kWarps / 2][kRanks][kRowPitch];  // at the end
  };
};

template <class T>
struct Arguments {
  const T* x;
  std::int64_t x_pitch;
  const T* d_u;
  LoraAdapters<T> adapters;
  int first_adapter, first_rank;  // what this launch is about: kAdapters from the first, 8 * kTiles ranks from there
  bool wants_d_a;
  T* d_x;  // null: not wanted
  std::int64_t d_x_pitch;
  bool accumulate;
  float* partial;  // [splits, ranks, in], or null: d_a is added to at once
  std::int64_t tokens;
  int in, ranks;
};

__device__ __forceinline__ uint4 operator&(uint4 a, uint4 b) {
  return {a.x & b.x, a.y & b.y, a.z & b.z, a.w & b.w};
}

__device__ __forceinline__ std::uint32_t word(uint4 x, int i) {
  return i == 0 ? x.x : i == 1 ? x.y : i == 2 ? x.z : x.w;
}

// The low, or high, halves of two words.
__device__ __forceinline__ std::uint32_t low_halves(std::uint32_t a, std::uint32_t b) {
  return __byte_perm(a, b, 0x5410);
}
__device__ __forceinline__ std::uint32_t high_halves(std::uint32_t a, std::uint32_t b) {
  return __byte_perm(a, b, 0x7632);
}

template <class T>
__device__ __forceinline__ std::uint32_t pair(const T* low, const T* high) {
  return low_halves(*reinterpret_cast<const std::uint16_t*>(low), *reinterpret_cast<const std::uint16_t*>(high));
}

// Lays out a's [ranks, 64 features] as factors [16 features, 16 ranks]: of the four tiles of features, tile i's row g
// is feature 8 g + 2 i, its row g + 8 the next, so that a lane's results are neighbours.
template <class T, int kAdapters, int kTiles>
__device__ __forceinline__ void load_a(const Arguments<T>& p, Shared<kAdapters, kTiles>& shared, int first_feature) {
  for (int place = static_cast<int>(threadIdx.x); place < kAdapters * kTiles / 2 * 4 * 32; place += kWarps * 32) {
    const int lane = place % 32;
    const int i = place / 32 % 4;
    const int tile = place / 128;
    const auto& adapter = p.adapters.of[p.first_adapter + tile / (kTiles / 2)];
    const int feature = first_feature + lane / 4 * 8 + 2 * i;
    const int rank = p.first_rank + tile % (kTiles / 2) * 16 + lane % 4 * 2;
    uint4 words{0, 0, 0, 0};
    const std::int64_t in = p.in;
    const T* at = adapter.a + rank * in + feature;
    if (feature < p.in && rank < adapter.rank) words.x = pair(at, at + in), words.y = pair(at + 1, at + in + 1);
    at += 8 * in;
    if (feature < p.in && rank + 8 < adapter.rank) words.z = pair(at, at + in), words.w = pair(at + 1, at + in + 1);
    shared.a[tile][i][lane] = words;
  }
}

// Where a lane reads and writes of the tile that it is at: pointers that walk, so that little is left to compute.
template <class T>
struct Cursor {
  const T* x;         // token 2 q, feature 8 g
  const T* d_u;       // token g, rank 2 q of the first adapter's column 0
  std::int64_t left;  // tokens from the tile's first on

  __device__ __forceinline__ void advance(const Arguments<T>& p) {
    x += kWarps * kTokens * p.x_pitch;
    d_u += static_cast<std::int64_t>(kWarps * kTokens) * p.ranks;
    left -= kWarps * kTokens;
  }
};

// Begins the copies of one tile of tokens.
template <class T, int kAdapters, int kTiles>
__device__ __forceinline__ void fetch(const Arguments<T>& p, Stage<kAdapters, kTiles>& stage, const Cursor<T>& at,
                                      bool inside, int lane) {
  const int g = lane / 4;
  const int q = lane % 4;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    copy_async<16>(&stage.x[j][lane], at.x + token_of(0, j) * p.x_pitch, inside && token_of(q, j) < at.left);
  }
#pragma unroll
  for (int tile = 0; tile < kAdapters * kTiles; ++tile) {
    const auto& adapter = p.adapters.of[p.first_adapter + tile / kTiles];
    const int rank = p.first_rank + tile % kTiles * 8;
    const T* words = at.d_u + adapter.column + rank;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      copy_async<4>(&stage.d_u[tile][half][lane], words + 8 * half * p.ranks,
                    rank < adapter.rank && 8 * half + g < at.left);
    }
  }
}

// d_a's transpose [64 features, ranks] += dropout(x)^T d_u over 16 tokens. sums[i][tile]: features 8 g + 2 i and the
// next, ranks 2 q and 2 q + 1.
template <class T, int kTiles>
__device__ __forceinline__ void add_d_a(float (*sums)[4][4], const uint4 (&dropped)[4], const std::uint32_t (*d_u)[2]) {
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    const uint2 by_token{transposed(d_u[tile][0]), transposed(d_u[tile][1])};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const std::uint32_t words[4] = {word(dropped[0], i), word(dropped[1], i), word(dropped[2], i),
                                      word(dropped[3], i)};
      mma<T>(sums[tile][i],
             {low_halves(words[0], words[1]), high_halves(words[0], words[1]), low_halves(words[2], words[3]),
              high_halves(words[2], words[3])},
             by_token);
    }
  }
}

// d_x += dropout(d_u a) of one adapter: d_x[j][f] is feature 8 g + f of the lane's token j.
template <class T, int kTiles>
__device__ __forceinline__ void add_d_x(float (&d_x)[4][8], const uint4 (*a)[4][32], const uint4 (&kept)[4],
                                        const float (&scale)[4], const std::uint32_t (*d_u)[2], int lane) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float products[4] = {};
#pragma unroll
      for (int k = 0; k < kTiles / 2; ++k) mma<T>(products, a[k][i][lane], {d_u[2 * k][half], d_u[2 * k + 1][half]});
#pragma unroll
      for (int e = 0; e < 4; ++e) {  // features 8 g + 2 i + e / 2, tokens 2 q + e % 2
        const int j = 2 * half + e % 2;
        const std::uint32_t keeps = word(kept[j], i) >> (16 * (e / 2)) & 1U;
        if (keeps != 0) d_x[j][2 * i + e / 2] += products[e] * scale[j];
      }
    }
  }
}

// at: token 2 q, feature 8 g of d_x; left: tokens from the tile's first on.
template <class T>
__device__ __forceinline__ void store_d_x(const Arguments<T>& p, const float (&d_x)[4][8], T* at, std::int64_t left,
                                          int q) {
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    if (token_of(q, j) >= left) continue;
    T* row = at + token_of(0, j) * p.d_x_pitch;
    Pack<T, 8> result;
    if (p.accumulate) result = Pack<T, 8>::load(row);
#pragma unroll
    for (int f = 0; f < 8; ++f) result.set(f, p.accumulate ? result[f] + d_x[j][f] : d_x[j][f]);
    result.store(row);
  }
}

// Adds up the warps' sums of d_a, always in the same order, and gives them away.
template <class T, int kAdapters, int kTiles>
__device__ __forceinline__ void finish_d_a(const Arguments<T>& p, Shared<kAdapters, kTiles>& shared,
                                           const float (*sums)[4][4], int first_feature, int warp, int lane) {
  constexpr int kRanks = Shared<kAdapters, kTiles>::kRanks;
  __syncthreads();  // the stages are done with
  const auto put = [&](bool adds) {
#pragma unroll
    for (int n = 0; n < kAdapters * kTiles * 16; ++n) {
      const int tile = n / 16, i = n / 4 % 4, e = n % 4;
      float& at = shared.sums[warp % (kWarps / 2)][tile * 8 + lane % 4 * 2 + e % 2][lane / 4 * 8 + 2 * i + e / 2];
      at = adds ? at + sums[tile][i][e] : sums[tile][i][e];
    }
  };
  if (warp >= kWarps / 2) put(false);
  __syncthreads();
  if (warp < kWarps / 2) put(true);
  __syncthreads();
  for (int place = static_cast<int>(threadIdx.x); place < kRanks * kFeatures; place += kWarps * 32) {
    const int row = place / kFeatures;
    const int feature = first_feature + place % kFeatures;
    const auto& adapter = p.adapters.of[p.first_adapter + row / (kTiles * 8)];
    const int rank = p.first_rank + row % (kTiles * 8);
    if (rank >= adapter.rank || feature >= p.in) continue;
    float sum = 0.0F;
#pragma unroll
    for (int w = 0; w < kWarps / 2; ++w) sum += shared.sums[w][row][place % kFeatures];
    if (adapter.mask.threshold != 0) sum *= adapter.mask.scale;
    if (p.partial != nullptr) {
      const std::int64_t split_row = static_cast<std::int64_t>(blockIdx.y) * p.ranks + adapter.column + rank;
      p.partial[split_row * p.in + feature] = sum;
    } else {
      adapter.d_a[static_cast<std::int64_t>(rank) * p.in + feature] += sum;
    }
  }
}

// Blocks of a multiprocessor, by what registers they take.
template <int kAdapters, int kTiles>
constexpr int kBlocks = kAdapters* kTiles <= 2 ? 2 : 1;

// Block (features, split of the tokens).
template <class T, int kAdapters, int kTiles>
__global__ void __launch_bounds__(kWarps * 32, kBlocks<kAdapters, kTiles>)
    lora_down_backward_kernel(const Arguments<T> p) {
  extern __shared__ uint4 memory[];
  using SharedMemory = Shared<kAdapters, kTiles>;
  constexpr int kStages = SharedMemory::kStages;
  auto& shared = *reinterpret_cast<SharedMemory*>(memory);
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int q = lane % 4;
  const int first_feature = static_cast<int>(blockIdx.x) * kFeatures;
  const int feature = first_feature + lane / 4 * 8;
  const auto eight = static_cast<std::uint32_t>(feature) / 8;

  const std::int64_t tiles = (p.tokens + kTokens - 1) / kTokens;
  const std::int64_t tiles_of_split = (tiles + gridDim.y - 1) / gridDim.y;
  const std::int64_t end = min(tiles, (blockIdx.y + 1) * tiles_of_split);
  const std::int64_t begin = blockIdx.y * tiles_of_split + warp;

  bool drops = false;
#pragma unroll
  for (int a = 0; a < kAdapters; ++a) drops = drops || p.adapters.of[p.first_adapter + a].mask.threshold != 0;
  const DropoutMask& any_mask = p.adapters.of[p.first_adapter].mask;  // what places tokens is the same for all
  const std::uint32_t step = drops ? *any_mask.step : 0U;

  const bool inside = feature < p.in;
  const std::int64_t first_token = begin * kTokens;
  Cursor<T> ahead{p.x + (first_token + 2 * q) * p.x_pitch + feature, p.d_u + (first_token + lane / 4) * p.ranks + 2 * q,
                  p.tokens - first_token};
  auto& stages = shared.stages[warp];
#pragma unroll
  for (int s = 0; s < kStages - 1; ++s) {
    if (begin + s * kWarps < end) fetch(p, stages[s], ahead, inside, lane);
    ahead.advance(p);
    close_copies();
  }
  if (p.d_x != nullptr) load_a(p, shared, first_feature);
  __syncthreads();

  float sums[kAdapters * kTiles][4][4] = {};
  T* d_x_at = p.d_x + (first_token + 2 * q) * p.d_x_pitch + feature;
  const std::int32_t* rows = any_mask.rows + first_token + 2 * q;
  const std::int64_t* positions = any_mask.positions + first_token + 2 * q;
  std::int64_t left = p.tokens - first_token;
  int slot = 0;
  for (std::int64_t tile = begin; tile < end; tile += kWarps) {
    TokenPlace places[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      places[j] = {-1, 0};
      if (drops && token_of(q, j) < left) {
        places[j] = {rows[token_of(0, j)], static_cast<std::uint32_t>(positions[token_of(0, j)])};
      }
    }
    if (tile + (kStages - 1) * kWarps < end) {
      fetch(p, stages[(slot + kStages - 1) % kStages], ahead, inside, lane);
    }
    ahead.advance(p);
    close_copies();
    wait_for_copies<kStages - 1>();
    const Stage<kAdapters, kTiles>& stage = stages[slot];
    slot = (slot + 1) % kStages;

    float d_x[4][8] = {};
#pragma unroll
    for (int a = 0; a < kAdapters; ++a) {
      const DropoutMask& mask = p.adapters.of[p.first_adapter + a].mask;
      uint4 kept[4];
      float scale[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const bool mine = mask.threshold != 0 && places[j].row >= 0;
        kept[j] = {0xffffffffU, 0xffffffffU, 0xffffffffU, 0xffffffffU};
        if (mask.threshold != 0) kept[j] = kept_of_eight(mask, step, places[j], eight);
        scale[j] = mine ? mask.scale : 1.0F;
      }
      std::uint32_t d_u[kTiles][2];
#pragma unroll
      for (int t = 0; t < 2 * kTiles; ++t) d_u[t / 2][t % 2] = stage.d_u[a * kTiles + t / 2][t % 2][lane];
      if (p.wants_d_a) {
        uint4 dropped[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) dropped[j] = stage.x[j][lane] & kept[j];
        add_d_a<T, kTiles>(sums + a * kTiles, dropped, d_u);
      }
      if (p.d_x != nullptr) add_d_x<T, kTiles>(d_x, shared.a + a * (kTiles / 2), kept, scale, d_u, lane);
    }
    if (p.d_x != nullptr && inside) store_d_x(p, d_x, d_x_at, left, q);
    d_x_at += kWarps * kTokens * p.d_x_pitch;
    rows += kWarps * kTokens;
    positions += kWarps * kTokens;
    left -= kWarps * kTokens;
  }
  if (p.wants_d_a) finish_d_a(p, shared, sums, first_feature, warp, lane);
}

// d_a += the splits' sums, in their order.
template <class T>
__global__ void add_splits_kernel(const LoraAdapters<T> adapters, const float* partial, int splits, std::int64_t ranks,
                                  std::int64_t in) {
  const std::int64_t count = ranks * in;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += static_cast<std::int64_t>(gridDim.x) * blockDim.x) {
    float sum = 0.0F;
    for (int s = 0; s < splits; ++s) sum += partial[s * count + i];
    for (int a = 0; a < adapters.count; ++a) {
      const std::int64_t at = i - adapters.of[a].column * in;
      if (at >= 0 && at < adapters.of[a].rank * in) adapters.of[a].d_a[at] += sum;
    }
  }
}

constexpr std::int64_t kMultiprocessors = 132;

// Into how many parts tokens are split: so that the rounds of blocks take the least time.
int splits_for(std::int64_t tokens, std::int64_t in, std::int64_t ranks) {
  const std::int64_t slots = kMultiprocessors * (ranks <= 16 ? kBlocks<1, 2> : 1);
  const std::int64_t blocks = (in + kFeatures - 1) / kFeatures;
  const std::int64_t rounds = (tokens + kTokens * kWarps - 1) / (kTokens * kWarps);
  constexpr std::int64_t kOverhead = 2;  // of a block, in rounds of its loop
  std::int64_t best = 1;
  std::int64_t best_cost = INT64_MAX;
  for (std::int64_t s = 1; s <= std::min<std::int64_t>(rounds, 16); ++s) {
    const std::int64_t cost = (blocks * s + slots - 1) / slots * ((rounds + s - 1) / s + kOverhead);
    if (cost < best_cost) best = s, best_cost = cost;
  }
  return static_cast<int>(best);
}

template <class T, int kAdapters, int kTiles>
cudaError_t launch(const Arguments<T>& arguments, int splits, cudaStream_t stream) {
  constexpr int kShared = sizeof(Shared<kAdapters, kTiles>);
  const auto kernel = lora_down_backward_kernel<T, kAdapters, kTiles>;
  const cudaError_t set = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared);
  if (set != cudaSuccess) return set;
  const dim3 grid(static_cast<unsigned>((arguments.in + kFeatures - 1) / kFeatures), static_cast<unsigned>(splits));
  kernel<<<grid, kWarps * 32, kShared, stream>>>(arguments);
  return cudaGetLastError();
}

// One launch for all adapters where their sums fit into registers; else one for 64 ranks of one.
template <class T, class Run>
cudaError_t for_parts(Arguments<T> p, const Run& run) {
  const LoraAdapters<T>& adapters = p.adapters;
  int most = 0;
  for (int a = 0; a < adapters.count; ++a) most = std::max(most, adapters.of[a].rank);
  p.first_adapter = p.first_rank = 0;
  if (most <= 16 && adapters.count == 3) return run(p, launch<T, 3, 2>);
  if (most <= 16 && adapters.count == 2) return run(p, launch<T, 2, 2>);
  for (int a = 0; a < adapters.count; ++a) {
    p.first_adapter = a;
    for (p.first_rank = 0; p.first_rank < adapters.of[a].rank; p.first_rank += 64) {
      const int left = adapters.of[a].rank - p.first_rank;
      const cudaError_t error = left <= 16   ? run(p, launch<T, 1, 2>)
                                : left <= 32 ? run(p, launch<T, 1, 4>)
                                             : run(p, launch<T, 1, 8>);
      if (error != cudaSuccess) return error;
    }
  }
  return cudaSuccess;
}

}  // namespace

std::int64_t lora_workspace(std::int64_t tokens, std::int64_t in, std::int64_t ranks) {
  const std::int64_t splits = splits_for(tokens, in, ranks);
  return splits > 1 ? splits * ranks * in : 0;
}

template <class T>
cudaError_t lora_down_backward(const T* x, std::int64_t x_pitch, const T* d_u, const LoraAdapters<T>& adapters, T* d_x,
                               std::int64_t d_x_pitch, bool accumulate, float* workspace, std::int64_t tokens,
                               std::int64_t in, std::int64_t ranks, cudaStream_t stream) {
  if (tokens == 0 || adapters.count == 0) return cudaSuccess;
  const int splits = splits_for(tokens, in, ranks);
  float* partial = splits > 1 ? workspace : nullptr;
  const Arguments<T> all{x,
                         x_pitch,
                         d_u,
                         adapters,
                         0,
                         0,
                         true,
                         d_x,
                         d_x_pitch,
                         accumulate,
                         partial,
                         tokens,
                         static_cast<int>(in),
                         static_cast<int>(ranks)};
  int parts = 0;
  for_parts(all, [&](const auto&, const auto&) {
    ++parts;
    return cudaSuccess;
  });
  // Where it takes several launches, x is read to the end before d_x may overwrite it.
  cudaError_t error = for_parts(all, [&](Arguments<T> p, const auto& launcher) {
    if (parts > 1) p.d_x = nullptr;
    return launcher(p, splits, stream);
  });
  if (error != cudaSuccess) return error;
  if (parts > 1 && d_x != nullptr) {
    bool adds = accumulate;
    error = for_parts(all, [&](Arguments<T> p, const auto& launcher) {
      p.wants_d_a = false;
      p.accumulate = adds;
      adds = true;
      return launcher(p, splits, stream);
    });
    if (error != cudaSuccess) return error;
  }
  if (partial != nullptr) {
    add_splits_kernel<<<grid_for(ranks * in, 256), 256, 0, stream>>>(adapters, partial, splits, ranks, in);
  }
  return cudaGetLastError();
}

#define INSTANTIATE(T)                                                                                                \
  template cudaError_t lora_down_backward(const T*, std::int64_t, const T*, const LoraAdapters<T>&, T*, std::int64_t, \
                                          bool, float*, std::int64_t, std::int64_t, std::int64_t, cudaStream_t);
INSTANTIATE(__half)
INSTANTIATE(__nv_bfloat16)

}  // namespace qlora::kernels
