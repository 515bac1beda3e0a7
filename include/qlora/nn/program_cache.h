// The compiled programs of one pass, one a batch shape, over one arena.
#pragma once

#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "qlora/nn/program.h"

namespace qlora {

// What a batch of so many tokens and labelled rows is compiled for.
BatchShape bucket_shape(std::int64_t tokens, std::int64_t labelled, at::Device device = at::kCPU);

class ProgramCache {
 public:
  // `blocks` must outlive the cache. `keep`: one policy a block. `arena`: memory that is used as far as it suffices
  // (uint8; may be undefined).
  ProgramCache(const std::vector<Block>& blocks, Pass pass, std::vector<Keep> keep, at::Device device,
               at::Tensor arena = {});

  // The program of the batch's bucket; compiled and bound at its first use. The arena grows to the largest seen, and so
  // does the host memory that blocks' inputs go to.
  Program& program_for(const Batch& batch);

  const at::Tensor& arena() const { return arena_; }
  std::int64_t arena_bytes() const { return arena_.defined() ? arena_.numel() : 0; }
  // How often all programs have moved to other memory: what was captured before reads memory that is gone.
  int bindings() const { return bindings_; }

 private:
  bool host_suffices(const Program& program) const;
  void grow_host(const Program& program);

  const std::vector<Block>& blocks_;
  Pass pass_;
  std::vector<Keep> keep_;
  at::Device device_;
  at::Tensor arena_;
  std::vector<at::Tensor> host_;  // uint8, a piece each
  int bindings_ = 0;
  std::map<std::pair<std::int64_t, std::int64_t>, std::unique_ptr<Program>> programs_;
};

// The same policy for every layer. The embedding and the head have nothing to make again.
std::vector<Keep> uniform_keep(const std::vector<Block>& blocks, Keep keep);

}  // namespace qlora
