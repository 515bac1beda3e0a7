#include "qlora/nn/program_runner.h"

#include <algorithm>

#include "qlora/nn/kernels.h"

#ifdef QLORA_CUDA
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#endif

namespace qlora {

#ifdef QLORA_CUDA
namespace {

class CudaGraphProgram : public CapturedProgram {
 public:
  CudaGraphProgram(Program& program, const Batch& batch) : storage_(batch.storage) {
    // What operations allocate while they are captured comes from one pool, which lives as long as one of its graphs:
    // graphs never run at the same time.
    static at::cuda::MempoolId_t pool;
    if (living_++ == 0) pool = at::cuda::graph_pool_handle();
    c10::cuda::device_synchronize();
    // Always the same stream: what libraries keep for each stream, they keep once.
    static const c10::cuda::CUDAStream stream = c10::cuda::getStreamFromPool(false, storage_.device().index());
    const c10::cuda::CUDAStreamGuard side(stream);
    graph_.capture_begin(pool);
    program.run(batch);
    graph_.capture_end();
  }

  ~CudaGraphProgram() override { --living_; }

  void replay(const Batch& batch) override {
    if (!batch.storage.is_same(storage_)) storage_.copy_(batch.storage, /*non_blocking=*/true);
    graph_.replay();
  }

 private:
  inline static int living_ = 0;

  at::Tensor storage_;
  at::cuda::CUDAGraph graph_;
};

}  // namespace

std::unique_ptr<CapturedProgram> capture(Program& program, const Batch& batch) {
  return std::make_unique<CudaGraphProgram>(program, batch);
}
#else
std::unique_ptr<CapturedProgram> capture(Program&, const Batch&) {
  return nullptr;
}
#endif

at::Tensor ProgramRunner::run(const Batch& batch) {
  Program& program = programs_.program_for(batch);
  if (programs_.bindings() != bindings_) {  // what was captured reads memory that is gone
    entries_.clear();
    bindings_ = programs_.bindings();
  }
  // ATen forms, and attention in float32, go by the host's fields of the batch.
  const Dtype dtype = store_.dtype();
  const bool captures = gpu::serves(batch.ids.device(), dtype) && dtype != at::kFloat && !program.reads_host_rows();
  if (!graphs_ || !captures) {
    program.run(batch);
    return program.output();
  }
  Entry& entry = entries_[{batch.ids.size(0), batch.labelled.size(0), batch.bounds.size(0), batch.max_length,
                           static_cast<std::int64_t>(batch.training)}];
  if (!entry.ran) {
    program.run(batch);
    entry.ran = true;
    return program.output();
  }
  store_.forget_scratch();  // a graph decodes all its weights, whatever ran before it
  if (!entry.graph) entry.graph = capture(program, batch);
  entry.graph->replay(batch);
  store_.forget_scratch();
  return program.output();
}

std::size_t ProgramRunner::graph_count() const {
  return static_cast<std::size_t>(
      std::count_if(entries_.begin(), entries_.end(), [](const auto& e) { return e.second.graph != nullptr; }));
}

}  // namespace qlora
