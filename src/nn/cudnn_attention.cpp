#include "cudnn_attention.h"

#ifndef QLORA_CUDA

namespace qlora {

bool cudnn_attention(const Batch&, const AttentionShape&, const at::Tensor&, const at::Tensor&, const at::Tensor&) {
  return false;
}
bool cudnn_attention_backward(const Batch&, const AttentionShape&, const at::Tensor&, const at::Tensor&,
                              const at::Tensor&, const at::Tensor&, const at::Tensor&) {
  return false;
}
std::int64_t cudnn_attention_workspace(const BatchShape&, const AttentionShape&, Dtype) {
  return 0;
}

}  // namespace qlora

#else

#include <dlfcn.h>

#include <array>
#include <map>
#include <memory>
#include <tuple>
#include <unordered_map>

#include <ATen/Context.h>
#include <ATen/cuda/CUDAContextLight.h>
#include <ATen/cudnn/Handle.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>

#include "qlora/core/log.h"

#include "cudnn_frontend_quiet.h"
#include "kernels/ragged_bounds.h"

namespace cudnn_frontend {
void* cudnn_dlhandle = nullptr;  // declared by the library, which finds cuDNN's functions through it
}

namespace qlora {
namespace {

namespace fe = cudnn_frontend;
using Tensor = std::shared_ptr<fe::graph::Tensor_attributes>;

// Shorter rows gain nothing over FlashAttention, and their many shapes would each need a plan.
constexpr std::int64_t kShortestRow = 512;

// Everything that a plan is made for. One serves all batches of up to `rows` rows of up to `length` tokens.
struct Problem {
  std::int64_t heads, kv_heads, head_dim, rows, length, tokens, type, device, deterministic;
  double scale;

  auto key() const {
    return std::tie(heads, kv_heads, head_dim, rows, length, tokens, type, device, deterministic, scale);
  }
  bool operator<(const Problem& other) const { return key() < other.key(); }

  std::int64_t qkv_stride() const { return (heads + 2 * kv_heads) * head_dim; }
  std::int64_t out_stride() const { return heads * head_dim; }
};

enum Uid : std::int64_t {
  kQ = 1,
  kK,
  kV,
  kOut,
  kStats,
  kDOut,
  kDQ,
  kDK,
  kDV,
  kQkvBounds,
  kOutBounds,
  kStatsBounds,
  kLengths
};

// A forward and a backward graph, with the bounds that both read.
class Plan {
 public:
  explicit Plan(const Problem& problem) : p_(problem) {
    const auto options = at::TensorOptions().device(at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(p_.device)));
    lengths_ = at::empty({p_.rows}, options.dtype(at::kInt));
    offsets_ = at::empty({3, p_.rows + 1}, options.dtype(at::kLong));
    build_forward();
    build_backward();
    log_debug("attention of {} rows of up to {} tokens, {} in all: workspaces of {} and {} bytes", p_.rows, p_.length,
              p_.tokens, forward_.get_workspace_size(), backward_.get_workspace_size());
  }

  void forward(const Batch& batch, const at::Tensor& qkv, const at::Tensor& out, const at::Tensor& lse) {
    C10_CUDA_CHECK(kernels::ragged_bounds(
        batch.bounds.const_data_ptr<std::int32_t>(), p_.rows, {{p_.qkv_stride(), p_.out_stride(), p_.heads}},
        lengths_.mutable_data_ptr<std::int32_t>(), offsets_.mutable_data_ptr<std::int64_t>(),
        c10::cuda::getCurrentCUDAStream()));
    auto pointers = shared_pointers();
    add_qkv(pointers, {kQ, kK, kV}, qkv);
    pointers[kOut] = out.data_ptr();
    pointers[kStats] = lse.data_ptr();
    execute(forward_, pointers);
  }

  void backward(const at::Tensor& qkv, const at::Tensor& out, const at::Tensor& lse, const at::Tensor& d_out,
                const at::Tensor& d_qkv) {
    auto pointers = shared_pointers();
    add_qkv(pointers, {kQ, kK, kV}, qkv);
    add_qkv(pointers, {kDQ, kDK, kDV}, d_qkv);
    pointers[kOut] = out.data_ptr();
    pointers[kStats] = lse.data_ptr();
    pointers[kDOut] = d_out.data_ptr();
    execute(backward_, pointers);
  }

 private:
  using Pointers = std::unordered_map<std::int64_t, void*>;

  fe::DataType_t type() const {
    return p_.type == static_cast<std::int64_t>(at::kBFloat16) ? fe::DataType_t::BFLOAT16 : fe::DataType_t::HALF;
  }

  void start(fe::graph::Graph& graph) {
    graph.set_io_data_type(type())
        .set_intermediate_data_type(fe::DataType_t::FLOAT)
        .set_compute_data_type(fe::DataType_t::FLOAT);
    const auto bounds = [&](Uid uid, const char* name) {
      return graph.tensor(fe::graph::Tensor_attributes()
                              .set_name(name)
                              .set_uid(uid)
                              .set_dim({p_.rows + 1, 1, 1, 1})
                              .set_stride({1, 1, 1, 1})
                              .set_data_type(fe::DataType_t::INT64));
    };
    qkv_bounds_ = bounds(kQkvBounds, "qkv_bounds");
    out_bounds_ = bounds(kOutBounds, "out_bounds");
    stats_bounds_ = bounds(kStatsBounds, "stats_bounds");
    row_lengths_ = graph.tensor(fe::graph::Tensor_attributes()
                                    .set_name("lengths")
                                    .set_uid(kLengths)
                                    .set_dim({p_.rows, 1, 1, 1})
                                    .set_stride({1, 1, 1, 1})
                                    .set_data_type(fe::DataType_t::INT32));
  }

  // Heads of packed tokens, `stride` elements a token.
  fe::graph::Tensor_attributes packed(Uid uid, const char* name, std::int64_t heads, std::int64_t stride,
                                      const Tensor& bounds) const {
    return fe::graph::Tensor_attributes()
        .set_name(name)
        .set_uid(uid)
        .set_dim({p_.rows, heads, p_.length, p_.head_dim})
        .set_stride({p_.length * stride, p_.head_dim, stride, 1})
        .set_data_type(type())
        .set_ragged_offset(bounds);
  }
  fe::graph::Tensor_attributes stats() const {
    return fe::graph::Tensor_attributes()
        .set_name("stats")
        .set_uid(kStats)
        .set_dim({p_.rows, p_.heads, p_.length, 1})
        .set_stride({p_.length * p_.heads, 1, p_.heads, 1})
        .set_data_type(fe::DataType_t::FLOAT)
        .set_ragged_offset(stats_bounds_);
  }
  void as_output(const Tensor& tensor, fe::graph::Tensor_attributes like) const {
    tensor->set_output(true)
        .set_uid(like.get_uid())
        .set_dim(like.get_dim())
        .set_stride(like.get_stride())
        .set_data_type(like.get_data_type())
        .set_ragged_offset(like.get_ragged_offset());
  }

  struct Qkv {
    Tensor q, k, v;
  };
  Qkv inputs(fe::graph::Graph& graph) const {
    return {graph.tensor(packed(kQ, "q", p_.heads, p_.qkv_stride(), qkv_bounds_)),
            graph.tensor(packed(kK, "k", p_.kv_heads, p_.qkv_stride(), qkv_bounds_)),
            graph.tensor(packed(kV, "v", p_.kv_heads, p_.qkv_stride(), qkv_bounds_))};
  }

  void build_forward() {
    start(forward_);
    const Qkv in = inputs(forward_);
    auto options = fe::graph::SDPA_attributes()
                       .set_name("attention")
                       .set_generate_stats(true)
                       .set_attn_scale(static_cast<float>(p_.scale))
                       .set_padding_mask(true)
                       .set_seq_len_q(row_lengths_)
                       .set_seq_len_kv(row_lengths_)
                       .set_causal_mask(true);
    const auto [out, made_stats] = forward_.sdpa(in.q, in.k, in.v, options);
    as_output(out, packed(kOut, "out", p_.heads, p_.out_stride(), out_bounds_));
    as_output(made_stats, stats());
    finish(forward_);
  }

  void build_backward() {
    start(backward_);
    const Qkv in = inputs(backward_);
    const Tensor out = backward_.tensor(packed(kOut, "out", p_.heads, p_.out_stride(), out_bounds_));
    const Tensor d_out = backward_.tensor(packed(kDOut, "d_out", p_.heads, p_.out_stride(), out_bounds_));
    auto options = fe::graph::SDPA_backward_attributes()
                       .set_name("attention_backward")
                       .set_attn_scale(static_cast<float>(p_.scale))
                       .set_padding_mask(true)
                       .set_seq_len_q(row_lengths_)
                       .set_seq_len_kv(row_lengths_)
                       .set_max_total_seq_len_q(p_.tokens)
                       .set_max_total_seq_len_kv(p_.tokens)
                       .set_causal_mask(true)
                       .set_deterministic_algorithm(p_.deterministic != 0);
    const auto [dq, dk, dv] = backward_.sdpa_backward(in.q, in.k, in.v, out, d_out, backward_.tensor(stats()), options);
    as_output(dq, packed(kDQ, "dq", p_.heads, p_.qkv_stride(), qkv_bounds_));
    as_output(dk, packed(kDK, "dk", p_.kv_heads, p_.qkv_stride(), qkv_bounds_));
    as_output(dv, packed(kDV, "dv", p_.kv_heads, p_.qkv_stride(), qkv_bounds_));
    finish(backward_);
  }

  static void check(fe::error_t error) { TORCH_CHECK(error.is_good(), "cuDNN attention: ", error.get_message()); }

  static void finish(fe::graph::Graph& graph) {
    cudnnHandle_t handle = at::native::getCudnnHandle();
    check(graph.validate());
    check(graph.build_operation_graph(handle));
    check(graph.create_execution_plans({fe::HeurMode_t::A, fe::HeurMode_t::FALLBACK}));
    check(graph.check_support());
    check(graph.build_plans());
  }

  Pointers shared_pointers() const {
    auto* offsets = offsets_.mutable_data_ptr<std::int64_t>();
    return {{kQkvBounds, offsets},
            {kOutBounds, offsets + p_.rows + 1},
            {kStatsBounds, offsets + 2 * (p_.rows + 1)},
            {kLengths, lengths_.mutable_data_ptr()}};
  }

  void add_qkv(Pointers& pointers, std::array<Uid, 3> uids, const at::Tensor& qkv) const {
    auto* base = static_cast<std::byte*>(qkv.data_ptr());
    const auto element = static_cast<std::int64_t>(qkv.element_size());
    pointers[uids[0]] = base;
    pointers[uids[1]] = base + element * p_.heads * p_.head_dim;
    pointers[uids[2]] = base + element * (p_.heads + p_.kv_heads) * p_.head_dim;
  }

  void execute(const fe::graph::Graph& graph, Pointers& pointers) const {
    const std::int64_t bytes = graph.get_workspace_size();
    // From torch's allocator: while a CUDA graph is captured, from that graph's own pool.
    const at::Tensor workspace = at::empty({std::max<std::int64_t>(bytes, 1)}, lengths_.options().dtype(at::kByte));
    check(graph.execute(at::native::getCudnnHandle(), pointers, workspace.mutable_data_ptr()));
  }

  Problem p_;
  at::Tensor lengths_, offsets_;
  fe::graph::Graph forward_, backward_;
  Tensor qkv_bounds_, out_bounds_, stats_bounds_, row_lengths_;  // of the graph that is being built
};

bool has_kernel(std::int64_t length, const AttentionShape& shape, Dtype dtype) {
  if (shape.window > 0 && length > shape.window) return false;
  return length >= kShortestRow && shape.head_dim % 8 == 0 && shape.head_dim <= 128 && dtype != at::kFloat;
}

// Null where cuDNN refuses the shape.
Plan* plan_for(const Batch& batch, const AttentionShape& shape, const at::Tensor& qkv) {
  // Making a plan takes up to a second: only for batches that share theirs, which lie in one buffer.
  if (!batch.storage.defined() || !has_kernel(batch.max_length, shape, qkv.scalar_type())) return nullptr;
  if (at::cuda::getDeviceProperties(qkv.device().index())->major < 9) return nullptr;
  const Problem problem{shape.heads,
                        shape.kv_heads,
                        shape.head_dim,
                        batch.bounds.size(0) - 1,
                        power_of_two(batch.max_length),
                        power_of_two(qkv.size(0)),
                        static_cast<std::int64_t>(qkv.scalar_type()),
                        qkv.device().index(),
                        static_cast<std::int64_t>(at::globalContext().deterministicAlgorithms()),
                        shape.scale};
  static auto& plans = *new std::map<Problem, std::unique_ptr<Plan> >;  // CUDA may be gone when statics are destroyed
  const auto [place, is_new] = plans.try_emplace(problem);
  if (!is_new) return place->second.get();
  if (fe::cudnn_dlhandle == nullptr) fe::cudnn_dlhandle = dlopen("libcudnn.so.9", RTLD_LAZY);
  try {
    if (fe::cudnn_dlhandle != nullptr) place->second = std::make_unique<Plan>(problem);
  } catch (const std::exception& error) {
    log_debug("attention of {} rows of up to {} tokens goes without cuDNN: {}", problem.rows, problem.length,
              error.what());
  }
  return place->second.get();
}

}  // namespace

std::int64_t cudnn_attention_workspace(const BatchShape& batch, const AttentionShape& shape, Dtype dtype) {
  if (!has_kernel(batch.length, shape, dtype)) return 0;
  // In float32 copies of q, as measured with cuDNN 9.19: 3, and with g queries a key 5 + 2 g + 2 / g; in deterministic
  // mode one for each 128 keys of the longest row, and with g queries a key 4 + 2 g more (measured for g = 4).
  constexpr std::int64_t kFloat = sizeof(float), kTile = 128;
  const std::int64_t q = kFloat * power_of_two(batch.tokens) * shape.query_columns();
  const std::int64_t group = shape.heads / shape.kv_heads;
  if (at::globalContext().deterministicAlgorithms()) {
    return (power_of_two(batch.length) / kTile + (group > 1 ? 4 + 2 * group : 0)) * q;
  }
  return group > 1 ? (5 + 2 * group) * q + 2 * q / group : 3 * q;
}

bool cudnn_attention(const Batch& batch, const AttentionShape& shape, const at::Tensor& qkv, const at::Tensor& out,
                     const at::Tensor& lse) {
  Plan* plan = plan_for(batch, shape, qkv);
  if (plan != nullptr) plan->forward(batch, qkv, out, lse);
  return plan != nullptr;
}

bool cudnn_attention_backward(const Batch& batch, const AttentionShape& shape, const at::Tensor& qkv,
                              const at::Tensor& out, const at::Tensor& lse, const at::Tensor& d_out,
                              const at::Tensor& d_qkv) {
  Plan* plan = plan_for(batch, shape, qkv);
  if (plan != nullptr) plan->backward(qkv, out, lse, d_out, d_qkv);
  return plan != nullptr;
}

}  // namespace qlora

#endif
