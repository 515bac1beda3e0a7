// A decoder's blocks compiled for one batch shape: a flat list of instructions over one arena.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "qlora/nn/arena.h"
#include "qlora/nn/block.h"

namespace qlora {

enum class Pass { kForward, kTraining };

// What a block keeps between its forward and its backward pass, cheapest memory last.
enum class Keep {
  kAll,        // every value that backward reads
  kExpensive,  // norms and activations are made again
  kInputOnly,  // only the block's input; the rest is made again as backward comes to need it
};

// The compiler turns blocks into instructions: all forward passes, then (Pass::kTraining) the backward passes in
// reverse. A value that was not kept is made again just before the first instruction that reads it, so what nobody
// reads (the last projection of a block) is never run twice. Lifetimes follow from the list; lay_out() places them.
class Program {
 public:
  // `keep`: one policy a block (ignored for Pass::kForward). Blocks must outlive the program.
  Program(const std::vector<Block>& blocks, const BatchShape& shape, Pass pass, const std::vector<Keep>& keep);

  std::int64_t arena_bytes() const { return arena_bytes_; }
  std::int64_t workspace_bytes() const { return workspace_bytes_; }  // the most that one of its operations takes
  const BatchShape& shape() const { return shape_; }

  // Resolves all views into `arena` (uint8, at least arena_bytes() long).
  void bind(const at::Tensor& arena);

  // Runs every instruction. bind() must have been called.
  void run(const Batch& batch);

  // Runs again and names the first instruction whose result holds NaN or Inf: "forward of attention in block 3";
  // empty where none does. Gradients of parameters are added once more: only for a run that ends here.
  std::string first_non_finite(const Batch& batch);

  // The last block's output, after run() with Pass::kForward.
  const at::Tensor& output() const { return output_; }

  // Whether what its launches do rests on the batch's row_bounds: captured, they serve no other batch.
  bool reads_host_rows() const { return reads_host_rows_; }

  int instruction_count() const { return static_cast<int>(instructions_.size()); }
  int recomputed_count() const { return recomputed_; }
  std::string describe() const;  // one instruction a line, for tests and --log_level debug

 private:
  friend class ProgramCompiler;
  struct BoundView {  // a view of the arena: buffer index, or -1 for none
    int buffer = -1;
    Shape shape;
    Dtype dtype = at::kFloat;
  };
  struct Instruction {
    Operation* operation = nullptr;
    bool backward = false;
    int block = 0;
    std::vector<BoundView> in, buffers, d_in;
    BoundView out, d_out;
    std::vector<bool> accumulate;
    OperationViews views;
  };
  void poison_dead_buffers(int instruction);

  BatchShape shape_;
  std::vector<Instruction> instructions_;
  std::vector<ArenaBuffer> buffers_;
  std::int64_t arena_bytes_ = 0, workspace_bytes_ = 0;
  int recomputed_ = 0;
  bool reads_host_rows_ = false;
  BoundView output_view_;
  at::Tensor output_;
  at::Tensor arena_;
};

}  // namespace qlora
