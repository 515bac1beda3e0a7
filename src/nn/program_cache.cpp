#include "qlora/nn/program_cache.h"

#include <algorithm>

#include <ATen/ops/empty.h>

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
  if (program->arena_bytes() > arena_bytes()) {
    arena_ = at::Tensor();  // the old one is free before the new one is taken
    arena_ = at::empty({program->arena_bytes()}, at::TensorOptions().device(device_).dtype(at::kByte));
    for (auto& [key, other] : programs_) other->bind(arena_);
  } else {
    program->bind(arena_);
  }
  return *program;
}

std::vector<Keep> uniform_keep(const std::vector<Block>& blocks, Keep keep) {
  std::vector<Keep> all(blocks.size(), keep);
  all.front() = all.back() = Keep::kAll;
  return all;
}

}  // namespace qlora
