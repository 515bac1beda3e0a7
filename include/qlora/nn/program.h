// A decoder's blocks compiled for one batch shape: a flat list of instructions over one arena.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "qlora/nn/arena.h"
#include "qlora/nn/block.h"
#include "qlora/nn/side_copies.h"

namespace qlora {

enum class Pass { kForward, kTraining };

// What a block keeps between its forward and its backward pass, cheapest memory last.
enum class Keep {
  kAll,          // every value that backward reads
  kExpensive,    // norms and activations are made again
  kInputOnly,    // only the block's input; the rest is made again as backward comes to need it
  kInputOnHost,  // not even that: it goes to host memory beside the block's forward pass, and comes back while the
                 // block above is in its backward pass
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
  // Bytes of each block's input that goes to host memory (Keep::kInputOnHost).
  const std::vector<std::int64_t>& host_pieces() const { return host_pieces_; }
  const BatchShape& shape() const { return shape_; }

  // Resolves all views into `arena` (uint8, at least arena_bytes() long) and `host`: uint8 of the CPU, one a piece and
  // at least as long, pinned where the arena is a GPU's.
  void bind(const at::Tensor& arena, const std::vector<at::Tensor>& host = {});

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
  enum class Kind {
    kForward,
    kBackward,
    kToHost,    // begins to copy in[0] to a piece of host memory
    kFromHost,  // begins to copy a piece to `out`
    kArrived,   // waits for the copy begun last, of in[0]
  };
  struct Instruction {
    Kind kind = Kind::kForward;
    Operation* operation = nullptr;  // null where something is copied
    int block = 0;
    int piece = -1;  // of host memory
    std::vector<BoundView> in, buffers, d_in;
    BoundView out, d_out;
    std::vector<bool> accumulate;
    OperationViews views;
    at::Tensor host;  // the piece, as the type and shape of what is copied
  };
  void execute(const Instruction& instruction, const Batch& batch);
  void poison_dead_buffers(int instruction);

  BatchShape shape_;
  std::vector<Instruction> instructions_;
  std::vector<ArenaBuffer> buffers_;
  std::int64_t arena_bytes_ = 0, workspace_bytes_ = 0;
  std::vector<std::int64_t> host_pieces_;
  int recomputed_ = 0;
  bool reads_host_rows_ = false;
  BoundView output_view_;
  at::Tensor output_;
  at::Tensor arena_;
  std::optional<SideCopies> copies_;
};

}  // namespace qlora
