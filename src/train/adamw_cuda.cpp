#include "qlora/train/adamw_cuda.h"

#include "qlora/core/error.h"

#ifdef QLORA_CUDA

#include <algorithm>
#include <array>
#include <cstring>

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <c10/core/Event.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "qlora/quant/dynamic_map.h"

#include "kernels/adamw.h"

namespace qlora {
namespace {

using c10::cuda::CUDAStream;
using c10::cuda::CUDAStreamGuard;

template <typename Range>
at::Tensor bytes_on(const Range& values, at::Device device) {
  at::Tensor host = at::empty({static_cast<std::int64_t>(values.size() * sizeof(values[0]))}, at::kByte);
  if (host.nbytes() > 0) std::memcpy(host.mutable_data_ptr(), values.data(), host.nbytes());
  return host.to(device);
}

// Consecutive tiles, and the part of the moments that they update.
struct Chunk {
  std::int64_t first_tile, tiles;
  std::int64_t state_begin, state_size;
};

// Runs of tiles with at most kPagedChunk values.
std::vector<Chunk> cut(const std::vector<AdamWSegment>& segments, std::int64_t tile) {
  std::vector<Chunk> chunks;
  for (const AdamWSegment& s : segments) {
    for (std::int64_t done = 0; done < s.size;) {
      if (chunks.empty() || chunks.back().state_size + tile > kPagedChunk) {
        chunks.push_back({s.first_tile + done / tile, 0, s.state + done, 0});
      }
      Chunk& chunk = chunks.back();
      const std::int64_t room = (kPagedChunk - chunk.state_size) / tile * tile;
      const std::int64_t size = std::min(room, s.size - done);
      chunk.tiles += (size + tile - 1) / tile;
      chunk.state_size += size;
      done += size;
    }
  }
  return chunks;
}

// Moments that live in pinned host memory pass through two buffers on the device: while one is updated the other is
// written back and filled again, by streams of their own.
class Pager {
 public:
  Pager(at::Tensor first, at::Tensor second, std::vector<Chunk> chunks, at::Device device)
      : first_(std::move(first)),
        second_(std::move(second)),
        chunks_(std::move(chunks)),
        in_(c10::cuda::getStreamFromPool(false, device.index())),
        out_(c10::cuda::getStreamFromPool(false, device.index())) {
    std::int64_t largest = 0;
    for (const Chunk& chunk : chunks_) largest = std::max(largest, chunk.state_size);
    for (Buffer& buffer : buffers_) {
      buffer.first = at::empty({largest}, first_.options().device(device).pinned_memory(false));
      buffer.second = at::empty_like(buffer.first);
      buffer.updated.record(c10::cuda::getCurrentCUDAStream());  // whatever used this memory before
    }
  }

  // update(chunk, first, second) queues the update on the current stream; the tensors begin with the chunk's moments.
  template <typename Update>
  void run(Update update) {
    const CUDAStream current = c10::cuda::getCurrentCUDAStream();
    for (std::size_t c = 0; c < chunks_.size(); ++c) {
      Buffer& buffer = buffers_[c % buffers_.size()];
      // What was last written back from this buffer comes after all earlier write-backs: this chunk's are among them.
      buffer.written.block(in_);
      buffer.updated.block(in_);
      copy(chunks_[c], buffer, in_, /*to_device=*/true);
      buffer.filled.record(in_);
      buffer.filled.block(current);
      update(chunks_[c], buffer.first, buffer.second);
      buffer.updated.record(current);
      buffer.updated.block(out_);
      copy(chunks_[c], buffer, out_, /*to_device=*/false);
      buffer.written.record(out_);
    }
  }

  void wait() const { out_.synchronize(); }

 private:
  struct Buffer {
    at::Tensor first, second;
    c10::Event filled{at::kCUDA}, updated{at::kCUDA}, written{at::kCUDA};
  };

  void copy(const Chunk& chunk, const Buffer& buffer, CUDAStream stream, bool to_device) const {
    const CUDAStreamGuard guard(stream);
    const auto move = [&](const at::Tensor& host, const at::Tensor& device) {
      const at::Tensor page = host.narrow(0, chunk.state_begin, chunk.state_size);
      const at::Tensor part = device.narrow(0, 0, chunk.state_size);
      to_device ? part.copy_(page, /*non_blocking=*/true) : page.copy_(part, /*non_blocking=*/true);
    };
    move(first_, buffer.first);
    move(second_, buffer.second);
  }

  at::Tensor first_, second_;
  std::vector<Chunk> chunks_;
  CUDAStream in_, out_;
  std::array<Buffer, 2> buffers_;
};

class CudaAdamW : public DeviceAdamW {
 public:
  CudaAdamW(ParameterSet& parameters, const AdamWMoments& moments)
      : parameters_(parameters), moments_(moments), device_(parameters.values().device()) {
    const c10::cuda::CUDAGuard guard(device_);
    TORCH_CHECK(parameters.values().scalar_type() == at::kFloat, "on a GPU parameters are float32");
    wide_ = bytes_on(moments.wide, device_);
    narrow_ = bytes_on(moments.narrow, device_);
    maps_[0] = bytes_on(signed_dynamic_map(), device_);
    maps_[1] = bytes_on(unsigned_dynamic_map(), device_);
    const auto options = at::TensorOptions().device(device_);
    partials_ = at::empty({kernels::kNormPartials}, options.dtype(at::kDouble));
    clip_ = at::zeros({}, options.dtype(at::kFloat));
    failed_step_ = at::zeros({}, options.dtype(at::kLong));
    wide_chunks_ = cut(moments.wide, kAdamWTile);
    narrow_chunks_ = cut(moments.narrow, kAdamW8bitTile);
    if (!moments.first.is_cuda() && !wide_chunks_.empty()) {
      wide_pager_ = std::make_unique<Pager>(moments.first, moments.second, wide_chunks_, device_);
    }
    if (!moments.first_codes.is_cuda() && !narrow_chunks_.empty()) {
      narrow_pager_ = std::make_unique<Pager>(moments.first_codes, moments.second_codes, narrow_chunks_, device_);
    }
  }

  ~CudaAdamW() override { wait(); }

  at::Tensor step(const AdamWScalars& scalars, double max_norm, const at::Tensor& loss, std::int64_t step) override {
    const c10::cuda::CUDAGuard guard(device_);
    TORCH_CHECK(!loss.defined() || (loss.is_cuda() && loss.scalar_type() == at::kFloat && loss.numel() == 1),
                "the loss that an optimizer step looks at is one float32 on the GPU");
    const at::Tensor norm = at::empty({}, partials_.options());
    const kernels::StepStatus status{norm.mutable_data_ptr<double>(), clip_.mutable_data_ptr<float>(),
                                     failed_step_.mutable_data_ptr<std::int64_t>()};
    C10_CUDA_CHECK(kernels::gradient_norm(parameters_.grads().const_data_ptr<float>(), parameters_.size(), max_norm,
                                          loss.defined() ? loss.const_data_ptr<float>() : nullptr, step,
                                          partials_.mutable_data_ptr<double>(), status,
                                          c10::cuda::getCurrentCUDAStream()));
    update_wide(scalars, status);
    update_narrow(as_bitsandbytes(scalars), status);
    return norm;
  }

  std::int64_t failed_step() const override { return failed_step_.item<std::int64_t>(); }
  void forget_failure() override { failed_step_.zero_(); }

  void wait() const override {
    if (wide_pager_) wide_pager_->wait();
    if (narrow_pager_) narrow_pager_->wait();
  }

 private:
  kernels::AdamWTarget target() const {
    kernels::AdamWTarget target{parameters_.values().mutable_data_ptr<float>(),
                                parameters_.grads().const_data_ptr<float>(), nullptr, kernels::FloatType::kFloat32};
    const at::Tensor first = parameters_.compute(0);  // where the flat copy begins
    if (first.scalar_type() == at::kFloat) return target;
    target.compute = first.mutable_data_ptr();
    target.compute_type =
        first.scalar_type() == at::kHalf ? kernels::FloatType::kFloat16 : kernels::FloatType::kBFloat16;
    return target;
  }

  static kernels::AdamWRange range(const at::Tensor& segments, const Chunk& chunk) {
    const auto count = static_cast<int>(segments.nbytes() / sizeof(AdamWSegment));
    return {static_cast<const AdamWSegment*>(segments.const_data_ptr()), count, chunk.first_tile, chunk.tiles};
  }

  // All chunks as one, whose moments are where they always are.
  static Chunk whole(const std::vector<Chunk>& chunks) {
    Chunk all{0, 0, 0, 0};
    for (const Chunk& chunk : chunks) all.tiles += chunk.tiles;
    return all;
  }

  void update_wide(const AdamWScalars& scalars, const kernels::StepStatus& status) {
    if (wide_chunks_.empty()) return;
    const auto update = [&](const Chunk& chunk, const at::Tensor& first, const at::Tensor& second) {
      const kernels::AdamWState state{first.mutable_data_ptr<float>(), second.mutable_data_ptr<float>(),
                                      chunk.state_begin};
      C10_CUDA_CHECK(
          kernels::adamw(range(wide_, chunk), target(), state, scalars, status, c10::cuda::getCurrentCUDAStream()));
    };
    wide_pager_ ? wide_pager_->run(update) : update(whole(wide_chunks_), moments_.first, moments_.second);
  }

  void update_narrow(const AdamWScalars& scalars, const kernels::StepStatus& status) {
    if (narrow_chunks_.empty()) return;
    const auto update = [&](const Chunk& chunk, const at::Tensor& first, const at::Tensor& second) {
      const kernels::AdamW8bitState state{first.mutable_data_ptr<std::uint8_t>(),
                                          second.mutable_data_ptr<std::uint8_t>(),
                                          chunk.state_begin,
                                          moments_.first_absmax.mutable_data_ptr<float>(),
                                          moments_.second_absmax.mutable_data_ptr<float>(),
                                          static_cast<const float*>(maps_[0].const_data_ptr()),
                                          static_cast<const float*>(maps_[1].const_data_ptr())};
      C10_CUDA_CHECK(kernels::adamw_8bit(range(narrow_, chunk), target(), state, scalars, status,
                                         c10::cuda::getCurrentCUDAStream()));
    };
    narrow_pager_ ? narrow_pager_->run(update)
                  : update(whole(narrow_chunks_), moments_.first_codes, moments_.second_codes);
  }

  ParameterSet& parameters_;
  const AdamWMoments& moments_;
  at::Device device_;
  at::Tensor wide_, narrow_;  // the segments, as bytes
  std::array<at::Tensor, 2> maps_;
  at::Tensor partials_, clip_, failed_step_;
  std::vector<Chunk> wide_chunks_, narrow_chunks_;
  std::unique_ptr<Pager> wide_pager_, narrow_pager_;
};

}  // namespace

std::unique_ptr<DeviceAdamW> make_cuda_adamw(ParameterSet& parameters, const AdamWMoments& moments) {
  return std::make_unique<CudaAdamW>(parameters, moments);
}

}  // namespace qlora

#else

namespace qlora {

std::unique_ptr<DeviceAdamW> make_cuda_adamw(ParameterSet&, const AdamWMoments&) {
  throw RuntimeFailure("this build has no CUDA kernels: build with QLORA_CUDA=ON");
}

}  // namespace qlora

#endif
