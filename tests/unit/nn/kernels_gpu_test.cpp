// Each kernel against its ATen form on the same GPU, at odd shapes; dropout against the CPU's bits.
#include <functional>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "qlora/nn/attention.h"
#include "qlora/nn/gated_activation.h"
#include "qlora/nn/gemm.h"
#include "qlora/nn/head_norm.h"
#include "qlora/nn/kernels.h"
#include "qlora/nn/rms_norm.h"
#include "qlora/nn/rope.h"

#include "support/gpu.h"

namespace qlora {
namespace {

double distance(const at::Tensor& got, const at::Tensor& want) {
  const at::Tensor reference = want.to(at::kDouble);
  return ((got.to(at::kDouble) - reference).norm() / reference.norm().clamp_min(1e-30)).item<double>();
}

struct KernelCase {
  Dtype dtype;
  std::int64_t rows, columns;
};

class Kernels : public GpuTest, public testing::WithParamInterface<KernelCase> {
 protected:
  at::Tensor random(std::int64_t rows, std::int64_t columns) const {
    return at::randn({rows, columns}, at::TensorOptions().device(at::kCUDA)).to(GetParam().dtype);
  }
  at::Tensor random() const { return random(GetParam().rows, GetParam().columns); }
  at::Tensor wide(std::int64_t rows, std::int64_t columns) const {
    return at::zeros({rows, columns}, at::TensorOptions().device(at::kCUDA));
  }

  // Runs it with kernels and without; both write clones of `out`, which are then compared.
  void compare(const at::Tensor& out, const std::function<void(const at::Tensor&)>& run) const {
    ASSERT_TRUE(gpu::serves(out));
    const at::Tensor got = out.clone();
    run(got);
    const at::Tensor want = out.clone();
    const gpu::AtenForms aten;
    run(want);
    EXPECT_LE(distance(got, want), GetParam().dtype == at::kFloat ? 1e-6 : 2e-3);
  }
};

TEST_P(Kernels, RmsNorm) {
  const auto [dtype, rows, columns] = GetParam();
  auto store = std::make_shared<WeightStore>(at::kCUDA, dtype, WeightPolicy{});
  const Weight weight = Weight::frozen(*store, store->add({{"w", {columns}, false}}));
  store->put("w", at::randn({columns}) * 0.3 + 1.0);
  const at::Tensor x = random();
  const at::Tensor d_y = random();
  at::Tensor inverse = wide(rows, 1);
  const at::Tensor a = wide(rows, columns), b = wide(rows, columns), c = wide(rows, columns);
  for (const double offset : {0.0, 1.0}) {
    const RmsNorm norm(weight, columns, 1e-6, dtype, offset);
    compare(at::empty_like(x), [&](const at::Tensor& y) { norm.normalize(x, y, inverse, a); });
    for (const bool accumulate : {false, true}) {
      compare(random(), [&](const at::Tensor& d_x) { norm.differentiate(x, d_y, inverse, d_x, accumulate, a, b, c); });
    }
  }
}

TEST_P(Kernels, HeadNorm) {
  const auto [dtype, rows, columns] = GetParam();
  constexpr std::int64_t kHeads = 5, kKvHeads = 2;
  const std::int64_t head_dim = std::min<std::int64_t>(columns, 256);
  auto store = std::make_shared<WeightStore>(at::kCUDA, dtype, WeightPolicy{});
  HeadNorm::Spec spec{kHeads, kKvHeads, head_dim, {}, {}, 1e-6, 0.0};
  spec.query_weight = Weight::frozen(*store, store->add({{"q", {head_dim}, false}}));
  spec.key_weight = Weight::frozen(*store, store->add({{"k", {head_dim}, false}}));
  store->put("q", at::randn({head_dim}) * 0.3 + 1.0);
  store->put("k", at::randn({head_dim}) * 0.3 + 1.0);
  const at::Tensor x = random(rows, (kHeads + 2 * kKvHeads) * head_dim);
  for (const double offset : {0.0, 1.0}) {
    spec.offset = offset;
    HeadNorm op(spec, dtype);
    OperationViews v;
    v.in = {x};
    v.buffers = {wide(rows, kHeads + kKvHeads).unsqueeze(2)};
    v.d_out = at::randn_like(x);
    compare(at::empty_like(x), [&](const at::Tensor& y) {
      v.out = y;
      op.forward({}, v);
    });
    for (const bool accumulate : {false, true}) {
      v.accumulate = {accumulate};
      compare(at::randn_like(x), [&](const at::Tensor& d_x) {
        v.d_in = {d_x};
        op.backward({}, v);
      });
    }
    v.accumulate = {false};
    compare(x, [&](const at::Tensor& both) {  // the gradient over the input itself
      v.in = v.d_in = {both};
      op.backward({}, v);
    });
    v.in = {x};
  }
}

TEST_P(Kernels, SwiGlu) {
  const auto [dtype, rows, columns] = GetParam();
  GatedActivation op(Activation::kSilu, columns, dtype);
  OperationViews v;
  v.in = {random(rows, 2 * columns)};
  v.buffers = {random(), random()};
  v.d_out = random();
  compare(random(), [&](const at::Tensor& y) {
    v.out = y;
    op.forward({}, v);
  });
  for (const bool accumulate : {false, true}) {
    v.accumulate = {accumulate};
    compare(random(rows, 2 * columns), [&](const at::Tensor& d_x) {
      v.d_in = {d_x};
      op.backward({}, v);
    });
  }
  v.accumulate = {false};
  const at::Tensor in = v.in[0];
  compare(in, [&](const at::Tensor& both) {  // the gradient over gate and up themselves
    v.in = v.d_in = {both};
    op.backward({}, v);
  });
}

TEST_P(Kernels, Rope) {
  const auto [dtype, rows, columns] = GetParam();
  constexpr std::int64_t kHeads = 5, kRotated = 3;
  const std::int64_t head_dim = columns / 2 * 2;
  const auto table = std::make_shared<RopeTable>(head_dim, 10000.0, RopeScaling{}, at::kCUDA, dtype);
  Rope op(table, kRotated, kHeads, dtype);
  Batch batch;
  batch.positions = at::randint(0, 700, {rows}, at::TensorOptions().device(at::kCUDA).dtype(at::kLong));
  batch.max_length = 700;
  OperationViews v;
  for (const BufferSpec& spec : op.plan({rows, 0}).buffers) {  // planned for ATen: with all scratch
    v.buffers.push_back(at::zeros(spec.shape, at::TensorOptions().device(at::kCUDA).dtype(spec.dtype)));
  }
  const at::Tensor x = random(rows, kHeads * head_dim);
  compare(x, [&](const at::Tensor& y) {
    v.out = y;
    op.forward(batch, v);
  });
  compare(x, [&](const at::Tensor& d) {
    v.d_out = d;
    op.backward(batch, v);
  });
}

TEST_P(Kernels, CrossEntropy) {
  const auto [dtype, rows, columns] = GetParam();
  const at::Tensor logits = random() * 4;
  at::Tensor targets = at::randint(0, columns, {rows}, logits.options().dtype(at::kLong));
  targets[0] = -1;
  const at::Tensor scale = at::full({1}, 0.37, logits.options().dtype(at::kFloat));
  const at::Tensor counts = (targets >= 0).unsqueeze(1);
  const at::Tensor log_p = at::log_softmax(logits.to(at::kDouble), -1);
  const at::Tensor index = targets.clamp_min(0).unsqueeze(1);
  const at::Tensor nll = -log_p.gather(1, index) * counts;
  const at::Tensor gradient = (log_p.exp() - at::zeros_like(log_p).scatter(1, index, 1.0)) * counts * 0.37;

  const double tolerance = dtype == at::kFloat ? 1e-6 : 3e-3;
  at::Tensor got = logits.clone();
  const at::Tensor got_nll = at::empty({rows}, scale.options());
  gpu::cross_entropy(got, targets, got_nll, {});
  EXPECT_TRUE(got.equal(logits)) << "without a scale the logits stay";
  EXPECT_LE(distance(got_nll, nll.squeeze(1)), 1e-6);
  gpu::cross_entropy(got, targets, got_nll, scale);
  EXPECT_LE(distance(got_nll, nll.squeeze(1)), 1e-6);
  EXPECT_LE(distance(got, gradient), tolerance);
  EXPECT_TRUE(got[0].eq(0).all().item<bool>());
  at::Tensor sum = at::empty({1}, scale.options());
  gpu::scaled_sum(got_nll, scale, sum);
  EXPECT_LE(distance(sum, nll.sum().view({1}) * 0.37), 1e-6);
}

TEST_P(Kernels, DropoutHasTheBitsOfTheCpu) {
  const auto [dtype, rows, columns] = GetParam();
  Batch batch;
  batch.row_bounds = {0, rows / 3, rows - 2};  // then a tail of two
  batch.row_keys = {5, 70000};
  batch.step = 3;
  batch.training = true;
  const at::Tensor x = random();
  std::vector<std::int32_t> keys;
  std::vector<std::int64_t> positions;
  for (std::int64_t t = 0; t < rows; ++t) {
    const bool tail = t >= batch.row_bounds[2];
    const bool second = t >= batch.row_bounds[1];
    keys.push_back(tail ? -1 : static_cast<std::int32_t>(batch.row_keys[second ? 1 : 0]));
    positions.push_back(tail ? 0 : t - batch.row_bounds[second ? 1 : 0]);
  }
  const DropoutKey key{0x123456789abcdef0, 17};
  for (const bool accumulate : {false, true}) {
    const at::Tensor start = random();
    at::Tensor want = start.cpu();
    apply_dropout(x.cpu(), want, batch, key, 0.3, accumulate);
    Batch on_gpu = batch;
    on_gpu.token_rows = at::tensor(keys, at::kInt).cuda();
    on_gpu.positions = at::tensor(positions, at::kLong).cuda();
    on_gpu.step_number = at::tensor({3}, at::kInt).cuda();
    at::Tensor got = start.clone();
    apply_dropout(x, got, on_gpu, key, 0.3, accumulate);
    EXPECT_TRUE(got.cpu().equal(want)) << (accumulate ? "added" : "written");
  }
}

TEST_P(Kernels, ZeroTail) {
  const at::Tensor x = random();
  const std::int64_t rows = x.size(0);
  at::Tensor got = x.clone();
  gpu::zero_tail(got, at::tensor({0, 1, static_cast<int>(rows) - 2}, at::kInt).cuda());
  EXPECT_TRUE(got.narrow(0, 0, rows - 2).equal(x.narrow(0, 0, rows - 2)));
  EXPECT_TRUE(got.narrow(0, rows - 2, 2).eq(0).all().item<bool>());
}

TEST_P(Kernels, Gemm) {
  const auto [dtype, m, k] = GetParam();
  constexpr std::int64_t kN = 24;
  const at::Tensor a = random();
  const at::Tensor b = random(k, kN);
  const at::Tensor exact = at::matmul(a.to(at::kDouble), b.to(at::kDouble));
  const double tolerance = dtype == at::kFloat ? 1e-6 : 5e-3;
  at::Tensor out = random(m, kN);
  gemm(out, a, b);
  EXPECT_LE(distance(out, exact), tolerance);
  gemm(out, a.t().contiguous().t(), b.t().contiguous().t(), {0.5, {}, {}});
  EXPECT_LE(distance(out, exact * 0.5), tolerance);

  const at::Tensor addend = random(m, kN);
  const at::Tensor bias = random(1, kN).squeeze(0);
  gemm(out, a, b, {2.0, addend, bias});
  EXPECT_LE(distance(out, exact * 2.0 + addend.to(at::kDouble) + bias.to(at::kDouble)), tolerance);

  const at::Tensor whole = random(m, 3 * kN);  // a part of a wider matrix, accumulated into
  const at::Tensor part = whole.narrow(1, kN, kN);
  const at::Tensor before = whole.clone();
  gemm(part, a, b, {1.0, part, {}});
  EXPECT_LE(distance(part, before.narrow(1, kN, kN).to(at::kDouble) + exact), tolerance);
  EXPECT_TRUE(whole.narrow(1, 0, kN).equal(before.narrow(1, 0, kN)));

  at::Tensor sums = wide(m, kN) + 1.0;  // wider than what is multiplied
  gemm(sums, a, b, {1.0, sums, {}});
  EXPECT_LE(distance(sums, exact + 1.0), 5e-6) << "float32 sums of " << k << " products";
}

INSTANTIATE_TEST_SUITE_P(Shapes, Kernels,
                         testing::Values(KernelCase{at::kFloat, 7, 96}, KernelCase{at::kFloat, 33, 1028},
                                         KernelCase{at::kFloat, 5, 37}, KernelCase{at::kBFloat16, 7, 96},
                                         KernelCase{at::kBFloat16, 129, 2048}, KernelCase{at::kBFloat16, 11, 1001},
                                         KernelCase{at::kHalf, 9, 5504}, KernelCase{at::kHalf, 6, 63}));

// Packed attention in 16 bits against the plain formula, a row at a time, in float32. Rows of up to 512 tokens and
// more, of a batch in one buffer, go through cuDNN where the card has it.
struct PackedCase {
  AttentionShape shape;
  std::vector<std::int64_t> bounds;
  bool one_buffer;
};

class PackedAttention : public GpuTest, public testing::WithParamInterface<PackedCase> {
 protected:
  static constexpr std::int64_t kTail = 9;
  std::int64_t real() const { return GetParam().bounds.back(); }
  std::int64_t tokens() const { return real() + kTail; }

  Batch batch() const {
    Batch b;
    b.row_bounds = GetParam().bounds;
    std::vector<std::int32_t> bounds(b.row_bounds.begin(), b.row_bounds.end());
    bounds.push_back(bounds.back());  // one row of the bucket is not there
    b.bounds = at::tensor(bounds, at::kInt).cuda();
    for (std::size_t s = 0; s + 1 < b.row_bounds.size(); ++s) {
      b.max_length = std::max(b.max_length, b.row_bounds[s + 1] - b.row_bounds[s]);
    }
    if (GetParam().one_buffer) b.storage = b.bounds;
    return b;
  }

  at::Tensor random(std::int64_t columns) const {
    return at::randn({tokens(), columns}, at::TensorOptions().device(at::kCUDA)).to(at::kBFloat16);
  }
  at::Tensor random_qkv() const { return random(GetParam().shape.query_columns() + 2 * GetParam().shape.kv_columns()); }

  struct Result {
    at::Tensor out, d_qkv;
  };
  Result run(const at::Tensor& qkv, const at::Tensor& d_out) const {
    Attention op(GetParam().shape, 0, qkv.scalar_type());
    OperationViews v;
    v.in = {qkv};
    v.out = at::full_like(d_out, std::nan(""));
    for (const BufferSpec& spec : op.plan({tokens(), 0, at::kCUDA}).buffers) {
      v.buffers.push_back(at::zeros(spec.shape, qkv.options().dtype(spec.dtype)));
    }
    v.d_out = d_out;
    v.d_in = {at::full_like(qkv, std::nan(""))};
    v.accumulate = {false};
    op.forward(batch(), v);
    op.backward(batch(), v);
    return {v.out, v.d_in[0]};
  }
};

TEST_P(PackedAttention, IsThatOfEachRow) {
  at::manual_seed(1);
  const at::Tensor qkv = random_qkv();
  const at::Tensor d_out = random(GetParam().shape.query_columns());
  d_out.narrow(0, real(), kTail).zero_();
  const Result got = run(qkv, d_out);
  const Result want = run(qkv.to(at::kFloat), d_out.to(at::kFloat));
  EXPECT_LE(distance(got.out, want.out), 1e-2);
  EXPECT_LE(distance(got.d_qkv, want.d_qkv), 1e-2);
  EXPECT_TRUE(got.out.narrow(0, real(), kTail).eq(0).all().item<bool>());
  EXPECT_TRUE(got.d_qkv.narrow(0, real(), kTail).eq(0).all().item<bool>());
}

TEST_P(PackedAttention, RowsDoNotSeeEachOther) {
  at::manual_seed(2);
  at::globalContext().setDeterministicAlgorithms(true, false);
  const at::Tensor qkv = random_qkv();
  const at::Tensor d_out = random(GetParam().shape.query_columns());
  const Result before = run(qkv, d_out);
  const auto& bounds = GetParam().bounds;
  const at::Tensor changed = qkv.clone();
  changed.narrow(0, bounds[1], bounds[2] - bounds[1]).mul_(-2.0);
  changed.narrow(0, real(), kTail).fill_(7.0);
  const Result after = run(changed, d_out);
  for (std::size_t s = 0; s + 1 < bounds.size(); ++s) {
    if (s == 1) continue;
    const std::int64_t size = bounds[s + 1] - bounds[s];
    EXPECT_TRUE(after.out.narrow(0, bounds[s], size).equal(before.out.narrow(0, bounds[s], size))) << s;
    EXPECT_TRUE(after.d_qkv.narrow(0, bounds[s], size).equal(before.d_qkv.narrow(0, bounds[s], size))) << s;
  }
  at::globalContext().setDeterministicAlgorithms(false, false);
}

INSTANTIATE_TEST_SUITE_P(Shapes, PackedAttention,
                         testing::Values(PackedCase{{4, 2, 64, 0.125}, {0, 33, 34, 71}, false},
                                         PackedCase{{4, 2, 128, 0.0884}, {0, 700, 729, 1300}, false},
                                         PackedCase{{4, 2, 128, 0.0884}, {0, 700, 729, 1300}, true},
                                         PackedCase{{4, 4, 64, 0.125}, {0, 5, 1027, 1540}, true}));

}  // namespace
}  // namespace qlora
