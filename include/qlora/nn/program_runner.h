// Runs the program of each batch; on a GPU as a captured CUDA graph once a shape comes back.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>

#include "qlora/nn/program_cache.h"
#include "qlora/quant/weight_store.h"

namespace qlora {

// One program's launches as one. A graph reads the buffers of the batch that it was captured with: another batch of the
// same shape is copied over it first.
class CapturedProgram {
 public:
  virtual ~CapturedProgram() = default;
  virtual void replay(const Batch& batch) = 0;
};

// Captures program.run(batch) without running it. The shape must have run before, so that all that is made at first use
// is there. Null in a build without CUDA.
std::unique_ptr<CapturedProgram> capture(Program& program, const Batch& batch);

class ProgramRunner {
 public:
  // Both must outlive it. `graphs`: whether programs are captured on a GPU; the numbers are the same either way.
  ProgramRunner(ProgramCache& programs, WeightStore& store, bool graphs)
      : programs_(programs), store_(store), graphs_(graphs) {}

  // The last block's output, valid until the next run. A GPU is not waited for.
  at::Tensor run(const Batch& batch);

  std::size_t graph_count() const;

 private:
  using Shape = std::array<std::int64_t, 5>;  // all on the host that a launch depends on
  struct Entry {
    bool ran = false;
    std::unique_ptr<CapturedProgram> graph;
  };

  ProgramCache& programs_;
  WeightStore& store_;
  bool graphs_;
  int bindings_ = 0;
  std::map<Shape, Entry> entries_;
};

}  // namespace qlora
