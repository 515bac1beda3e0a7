// Attention over a cache on the GPU, in all its forms, against the CPU's in float64.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "qlora/nn/attention.h"
#include "qlora/nn/kernels.h"
#include "qlora/nn/kv_cache.h"

#include "support/gpu.h"

namespace qlora {
namespace {

struct CacheCase {
  Dtype dtype;
  AttentionShape shape;
  std::int64_t longest;  // of the prompts
};

class CacheAttention : public GpuTest, public testing::WithParamInterface<CacheCase> {
 protected:
  static constexpr std::int64_t kTail = 3;

  // Rows that go on in these slots.
  static Batch batch_of(const std::vector<std::int64_t>& lengths, const std::vector<std::int64_t>& slots,
                        KvCache& cache, at::Device device) {
    Batch b;
    b.row_bounds = {0};
    std::vector<std::int64_t> positions, token_slots;
    std::vector<std::int32_t> begins, held;
    for (std::size_t r = 0; r < lengths.size(); ++r) {
      for (std::int64_t t = 0; t < lengths[r]; ++t) {
        positions.push_back(cache.length(slots[r]) + t);
        token_slots.push_back(slots[r]);
      }
      b.row_bounds.push_back(b.row_bounds.back() + lengths[r]);
      begins.push_back(static_cast<std::int32_t>(slots[r] * cache.capacity()));
      held.push_back(static_cast<std::int32_t>(positions.back() + 1));
      b.max_length = std::max(b.max_length, positions.back() + 1);
    }
    positions.resize(positions.size() + kTail, 0);
    token_slots.resize(token_slots.size() + kTail, cache.spare_slot());
    begins.push_back(0);
    b.positions = at::tensor(positions, at::kLong).to(device);
    b.slots = at::tensor(token_slots, at::kLong).to(device);
    b.bounds = at::tensor(b.row_bounds, at::kLong).to(device, at::kInt);
    b.slot_begins = at::tensor(begins, at::kInt).to(device);
    b.slot_lengths = at::tensor(held, at::kInt).to(device);
    b.cache = &cache;
    b.cache_slots = slots;
    return b;
  }

  static at::Tensor forward(const AttentionShape& shape, const Batch& batch, const at::Tensor& qkv) {
    Attention op(shape, 0, qkv.scalar_type());
    OperationViews v;
    v.in = {qkv};
    v.out = at::full({qkv.size(0), shape.query_columns()}, std::nan(""), qkv.options());
    for (const BufferSpec& spec : op.plan({qkv.size(0), 0, qkv.device()}).buffers)
      v.buffers.push_back(at::zeros(spec.shape, qkv.options().dtype(spec.dtype)));
    op.forward(batch, v);
    return v.out;
  }
};

TEST_P(CacheAttention, IsThatOfTheCpu) {
  const auto& [dtype, shape, longest] = GetParam();
  at::manual_seed(3);
  const std::vector<std::int64_t> slots{4, 0, 3};
  const std::int64_t capacity = longest + 400;
  const std::vector<CacheLayer> layers{{shape.kv_heads, shape.head_dim, 0, 0}};
  KvCache cpu(layers, 5, capacity, at::kCPU, at::kDouble);
  for (const bool aten : {false, true}) {
    for (std::int64_t slot : slots) cpu.clear(slot);
    KvCache cache(layers, 5, capacity, at::kCUDA, dtype);
    std::unique_ptr<gpu::AtenForms> forms;
    if (aten) forms = std::make_unique<gpu::AtenForms>();
    for (const std::vector<std::int64_t>& lengths :
         {std::vector<std::int64_t>{37, 1, longest}, {1, 1, 1}, {3, 150, 20}, {1, 1, 1}, {1, 1, 1}}) {
      const Batch here = batch_of(lengths, slots, cpu, at::kCPU);
      const at::Tensor qkv =
          at::randn({here.real_tokens() + kTail, shape.query_columns() + 2 * shape.kv_columns()}).to(dtype);
      const at::Tensor want = forward(shape, here, qkv.to(at::kDouble)).narrow(0, 0, here.real_tokens());
      const at::Tensor got = forward(shape, batch_of(lengths, slots, cache, at::kCUDA), qkv.cuda());
      ASSERT_TRUE(got.isfinite().all().item<bool>());
      const at::Tensor real = got.narrow(0, 0, here.real_tokens()).cpu().to(at::kDouble);
      const double distance = ((real - want).norm() / want.norm()).item<double>();
      EXPECT_LE(distance, dtype == at::kFloat ? 2e-6 : 1e-2) << (aten ? "ATen form, " : "") << lengths[0] << " tokens";
      for (std::size_t r = 0; r < slots.size(); ++r) {
        cpu.advance(slots[r], lengths[r]);
        cache.advance(slots[r], lengths[r]);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, CacheAttention,
                         testing::Values(CacheCase{at::kBFloat16, {16, 16, 128, 0.088, 0, 0.0}, 210},
                                         CacheCase{at::kBFloat16, {32, 8, 128, 0.088, 0, 0.0}, 3000},
                                         CacheCase{at::kHalf, {16, 8, 128, 0.088, 0, 0.0}, 300},
                                         CacheCase{at::kBFloat16, {14, 2, 64, 0.125, 0, 0.0}, 300},
                                         CacheCase{at::kBFloat16, {8, 1, 64, 0.125, 50, 0.0}, 600},
                                         CacheCase{at::kBFloat16, {4, 2, 256, 0.0625, 0, 20.0}, 300},
                                         CacheCase{at::kFloat, {6, 2, 96, 0.1, 70, 0.0}, 900},
                                         CacheCase{at::kFloat, {12, 2, 80, 0.1, 0, 5.0}, 300},
                                         CacheCase{at::kFloat, {4, 2, 6, 0.4, 0, 0.0}, 40}));

}  // namespace
}  // namespace qlora
