#include "cublas_lt.h"

#ifndef QLORA_CUDA

namespace qlora {

bool cublas_lt_gemm(const at::Tensor&, const at::Tensor&, const at::Tensor&, const GemmExtras&) {
  return false;
}

bool cublas_lt_fp8_gemm(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&, bool,
                        const GemmExtras&) {
  return false;
}

}  // namespace qlora

#else

#include <cublasLt.h>

#include <array>
#include <bit>
#include <map>
#include <optional>

#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <c10/cuda/CUDAStream.h>

namespace qlora {
namespace {

void check(cublasStatus_t status, const char* what) {
  TORCH_CHECK(status == CUBLAS_STATUS_SUCCESS, what, ": ", cublasLtGetStatusString(status));
}

std::optional<cudaDataType_t> cuda_type(at::ScalarType type) {
  switch (type) {
    case at::kFloat:
      return CUDA_R_32F;
    case at::kHalf:
      return CUDA_R_16F;
    case at::kBFloat16:
      return CUDA_R_16BF;
    case at::kFloat8_e4m3fn:
      return CUDA_R_8F_E4M3;
    default:
      return std::nullopt;
  }
}

// A row-major matrix as cuBLAS sees it: its transpose, column-major.
struct Operand {
  std::int64_t rows, columns, ld;  // as stored, column-major
  bool transposed;                 // stored the other way round
};

std::optional<Operand> operand(const at::Tensor& x) {
  const std::int64_t m = x.size(0), n = x.size(1);
  if (x.stride(1) == 1 || n == 1) return Operand{n, m, std::max(x.stride(0), n), false};
  if (x.stride(0) == 1 || m == 1) return Operand{m, n, std::max(x.stride(1), m), true};
  return std::nullopt;
}

// The largest power of two that divides the address, at most 256: algorithms differ by it.
std::uint32_t alignment(const at::Tensor& x) {
  const auto address = reinterpret_cast<std::uintptr_t>(x.data_ptr()) | 256U;
  return std::uint32_t{1} << std::countr_zero(address);
}

constexpr std::size_t kWorkspaceBytes = kCublasLtWorkspaceBytes;

// torch's own handle takes a workspace for each stream that it is asked for on.
cublasLtHandle_t handle(int device) {
  static std::map<int, cublasLtHandle_t> handles;
  const auto [place, is_new] = handles.try_emplace(device, nullptr);
  if (is_new) check(cublasLtCreate(&place->second), "cublasLtCreate");
  return place->second;
}

// Descriptors and algorithm of one product. They live as long as the process.
struct Plan {
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr, d = nullptr;
  cublasLtMatmulHeuristicResult_t best{};
};

cublasLtMatrixLayout_t layout(cudaDataType_t type, std::int64_t rows, std::int64_t columns, std::int64_t ld) {
  cublasLtMatrixLayout_t made = nullptr;
  check(cublasLtMatrixLayoutCreate(&made, type, static_cast<std::uint64_t>(rows), static_cast<std::uint64_t>(columns),
                                   ld),
        "cublasLtMatrixLayoutCreate");
  return made;
}

// Everything that a plan depends on.
struct Problem {
  std::int64_t m, n, k;
  Operand a, b;
  std::int64_t out_ld, addend_ld;  // addend_ld 0: none
  cudaDataType_t in, out;
  bool bias, fast_sums;
  std::array<std::uint32_t, 4> alignments;  // a, b, addend, out
  int device;

  using Key = std::array<std::int64_t, 16>;
  Key key() const {
    const auto packed = static_cast<std::int64_t>(alignments[0]) | static_cast<std::int64_t>(alignments[1]) << 10 |
                        static_cast<std::int64_t>(alignments[2]) << 20 | static_cast<std::int64_t>(alignments[3]) << 30;
    return {m,
            n,
            k,
            a.rows,
            a.columns,
            a.ld,
            a.transposed,
            b.rows,
            b.columns,
            b.ld,
            b.transposed,
            addend_ld,
            in,
            out,
            packed,
            bias + 2 * fast_sums + 4 * device + 1024 * out_ld};
  }
};

// The scales of both sides of a product in fp8; none of others.
struct Scales {
  const float* a = nullptr;  // [m]
  const float* b = nullptr;  // [n]
  bool fast_sums = false;
};

template <class T>
void set(cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t attribute, const T& value) {
  check(cublasLtMatmulDescSetAttribute(operation, attribute, &value, sizeof(value)), "cublasLtMatmulDescSetAttribute");
}

// In the order of the transposed product.
void set_scales(cublasLtMatmulDesc_t operation, const Scales& scales) {
  set(operation, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, scales.b);
  set(operation, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, scales.a);
}

// The transposed product: out^T = b^T a^T, column-major.
Plan make_plan(const Problem& p, const Scales& scales) {
  Plan plan;
  check(cublasLtMatmulDescCreate(&plan.operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescCreate");
  set(plan.operation, CUBLASLT_MATMUL_DESC_TRANSA, p.b.transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(plan.operation, CUBLASLT_MATMUL_DESC_TRANSB, p.a.transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
  if (p.bias) {
    set(plan.operation, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    set(plan.operation, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, p.out);
  }
  if (p.in == CUDA_R_8F_E4M3) {
    set(plan.operation, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F);
    set(plan.operation, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F);
    set(plan.operation, CUBLASLT_MATMUL_DESC_FAST_ACCUM, static_cast<std::int8_t>(p.fast_sums));
    set_scales(plan.operation, scales);  // without pointers no algorithm is named
  }
  plan.a = layout(p.in, p.b.rows, p.b.columns, p.b.ld);
  plan.b = layout(p.in, p.a.rows, p.a.columns, p.a.ld);
  plan.c = layout(p.out, p.n, p.m, p.addend_ld == 0 ? p.out_ld : p.addend_ld);
  plan.d = layout(p.out, p.n, p.m, p.out_ld);

  cublasLtMatmulPreference_t preference = nullptr;
  check(cublasLtMatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate");
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
    check(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof(value)),
          "cublasLtMatmulPreferenceSetAttribute");
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspaceBytes);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, p.alignments[1]);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, p.alignments[0]);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, p.alignments[2]);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, p.alignments[3]);
  int found = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(handle(p.device), plan.operation, plan.a, plan.b, plan.c,
                                                               plan.d, preference, 1, &plan.best, &found);
  cublasLtMatmulPreferenceDestroy(preference);
  TORCH_CHECK(status == CUBLAS_STATUS_SUCCESS && found > 0, "cuBLASLt knows no algorithm for a product of ", p.m, " x ",
              p.k, " and ", p.k, " x ", p.n);
  return plan;
}

const Plan& plan_for(const Problem& problem, const Scales& scales) {
  static std::map<Problem::Key, Plan> plans;
  const auto [place, is_new] = plans.try_emplace(problem.key());
  if (is_new) place->second = make_plan(problem, scales);
  return place->second;
}

void* workspace(at::Device device) {
  static auto& buffers = *new std::map<int, at::Tensor>;  // CUDA may be gone when statics are destroyed
  at::Tensor& buffer = buffers[device.index()];
  if (!buffer.defined()) {
    buffer =
        at::empty({static_cast<std::int64_t>(kWorkspaceBytes)}, at::TensorOptions().device(device).dtype(at::kByte));
  }
  return buffer.mutable_data_ptr();
}

}  // namespace

namespace {

bool multiply(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b, const Scales& scales,
              const GemmExtras& extras) {
  const auto in_type = cuda_type(a.scalar_type());
  const auto out_type = cuda_type(out.scalar_type());
  const auto left = operand(a);
  const auto right = operand(b);
  const auto target = operand(out);
  if (!in_type || !out_type || a.scalar_type() != b.scalar_type() || !left || !right || !target) return false;
  if (target->transposed || a.numel() == 0 || b.numel() == 0) return false;
  const at::Tensor& addend = extras.addend;
  if (addend.defined() && (addend.stride(1) != 1 || addend.scalar_type() != out.scalar_type())) return false;
  const Problem problem{out.size(0),
                        out.size(1),
                        a.size(1),
                        *left,
                        *right,
                        target->ld,
                        addend.defined() ? addend.stride(0) : 0,
                        *in_type,
                        *out_type,
                        extras.bias.defined(),
                        scales.fast_sums,
                        {alignment(a), alignment(b), alignment(addend.defined() ? addend : out), alignment(out)},
                        out.device().index()};
  const Plan& plan = plan_for(problem, scales);
  if (problem.bias) set(plan.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, extras.bias.data_ptr());
  if (scales.a != nullptr) set_scales(plan.operation, scales);
  const auto alpha = static_cast<float>(extras.alpha);
  const float beta = addend.defined() ? 1.0F : 0.0F;
  check(cublasLtMatmul(handle(problem.device), plan.operation, &alpha, b.data_ptr(), plan.a, a.data_ptr(), plan.b,
                       &beta, addend.defined() ? addend.data_ptr() : out.data_ptr(), plan.c, out.data_ptr(), plan.d,
                       &plan.best.algo, workspace(out.device()), kWorkspaceBytes, c10::cuda::getCurrentCUDAStream()),
        "cublasLtMatmul");
  return true;
}

// At least `count` ones; grows before anything is captured, as every product runs once without.
const float* ones(at::Device device, std::int64_t count) {
  static auto& buffers = *new std::map<int, at::Tensor>;
  at::Tensor& buffer = buffers[device.index()];
  if (!buffer.defined() || buffer.numel() < count) {
    constexpr std::int64_t kUsual = 1 << 16;
    buffer = at::ones({std::max(count, kUsual)}, at::TensorOptions().device(device).dtype(at::kFloat));
  }
  return buffer.const_data_ptr<float>();
}

}  // namespace

bool cublas_lt_gemm(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b, const GemmExtras& extras) {
  return a.scalar_type() != at::kFloat8_e4m3fn && multiply(out, a, b, {}, extras);
}

bool cublas_lt_fp8_gemm(const at::Tensor& out, const at::Tensor& codes, const at::Tensor& scales, const at::Tensor& w,
                        bool fast_sums, const GemmExtras& extras) {
  if (out.scalar_type() == at::kFloat) return false;
  const Scales both{scales.const_data_ptr<float>(), ones(out.device(), w.size(0)), fast_sums};
  return multiply(out, codes, w.t(), both, extras);
}

}  // namespace qlora

#endif
