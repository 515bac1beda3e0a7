#include "qlora/nn/program_cache.h"

#include <algorithm>

#include <ATen/ops/empty.h>
#include <c10/core/impl/VirtualGuardImpl.h>

namespace qlora {

BatchShape bucket_shape(std::int64_t tokens, std::int64_t labelled, at::Device device) {
  const std::int64_t bucket = token_bucket(tokens);
  // A CUDA graph serves one shape: coarse ones, so that few graphs serve all batches.
  const std::int64_t rows = device.is_cuda() ? coarse_bucket(labelled) : token_bucket(labelled);
  return {bucket, std::max(std::min(rows, bucket), labelled), device};
}

ProgramCache::ProgramCache(const std::vector<Block>& blocks, Pass pass, std::vector<Keep> keep, at::Device device,
                           at::Tensor arena)
    : blocks_(blocks), pass_(pass), keep_(std::move(keep)), device_(device), arena_(std::move(arena)) {}

Program& ProgramCache::program_for(const Batch& batch) {
  BatchShape shape = bucket_shape(batch.ids.size(0), batch.labelled.size(0), device_);
  shape.tokens = batch.ids.size(0);  // a bucket's already; steps of decoding have smaller ones
  std::unique_ptr<Program>& program = programs_[{shape.tokens, shape.labelled}];
  if (program) return *program;
  program = std::make_unique<Program>(blocks_, shape, pass_, keep_);
  if (program->arena_bytes() <= arena_bytes() && host_suffices(*program)) {
    program->bind(arena_, host_);
    return *program;
  }
  const std::int64_t bytes = std::max(program->arena_bytes(), arena_bytes());
  arena_ = at::Tensor();  // the old one is free before the new one is taken
  arena_ = at::empty({bytes}, at::TensorOptions().device(device_).dtype(at::kByte));
  grow_host(*program);
  for (auto& [key, other] : programs_) other->bind(arena_, host_);
  ++bindings_;
  return *program;
}

bool ProgramCache::host_suffices(const Program& program) const {
  const auto& pieces = program.host_pieces();
  if (pieces.size() > host_.size()) return false;
  return std::equal(pieces.begin(), pieces.end(), host_.begin(),
                    [](std::int64_t bytes, const at::Tensor& piece) { return bytes <= piece.numel(); });
}

void ProgramCache::grow_host(const Program& program) {
  const auto& pieces = program.host_pieces();
  // Copies of a graph that was replayed may still be under way, which the allocator knows nothing of.
  if (!device_.is_cpu() && !host_.empty()) {
    const c10::impl::VirtualGuardImpl streams(device_.type());
    streams.synchronizeStream(streams.getStream(device_));
  }
  host_.resize(std::max(host_.size(), pieces.size()));
  const auto options = at::TensorOptions().dtype(at::kByte).pinned_memory(!device_.is_cpu());
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    if (!host_[i].defined() || host_[i].numel() < pieces[i]) host_[i] = at::empty({pieces[i]}, options);
  }
}

std::vector<Keep> uniform_keep(const std::vector<Block>& blocks, Keep keep) {
  std::vector<Keep> all(blocks.size(), keep);
  all.front() = all.back() = Keep::kAll;
  return all;
}

}  // namespace qlora
