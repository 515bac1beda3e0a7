#include "qlora/nn/program.h"

#include <algorithm>
#include <functional>
#include <numeric>

#include <ATen/ops/from_blob.h>
#include <ATen/ops/isfinite.h>
#include <c10/core/ScalarTypeToTypeMeta.h>
#include <fmt/format.h>

namespace qlora {
namespace {

std::int64_t element_count(const Shape& shape) {
  return std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
}

std::int64_t byte_count(const Shape& shape, Dtype dtype) {
  return element_count(shape) * static_cast<std::int64_t>(c10::elementSize(dtype));
}

}  // namespace

// Walks the blocks once forward and once backward, appending instructions; a buffer's lifetime grows with each use.
class ProgramCompiler {
 public:
  ProgramCompiler(Program& program, const std::vector<Block>& blocks, Pass pass, const std::vector<Keep>& keep)
      : program_(program), training_(pass == Pass::kTraining) {
    for (std::size_t i = 0; i < blocks.size(); ++i) add_block(blocks[i], training_ ? keep.at(i) : Keep::kAll);
  }

  void compile() {
    for (std::size_t b = 0; b < blocks_.size(); ++b) {
      const bool leaves = leaves_for_host(b);
      if (leaves) emit_to_host(b);
      for (std::size_t n = 0; n < blocks_[b].nodes.size(); ++n) emit_forward(b, n, /*again=*/false);
      if (leaves) emit_arrived(b);
      if (b + 1 < blocks_.size()) blocks_[b + 1].values[Block::kInput] = output_of(b);
    }
    program_.output_view_ = output_of(blocks_.size() - 1);
    if (training_) compile_backward();
    touch(program_.output_view_.buffer);  // the result outlives every instruction
  }

 private:
  void compile_backward() {
    for (std::size_t b = blocks_.size(); b-- > 0;) {
      if (leaves_for_host(b)) emit_arrived(b);
      if (b > 0 && leaves_for_host(b - 1)) emit_from_host(b - 1);
      forget_what_is_not_kept(blocks_[b]);
      for (std::size_t n = blocks_[b].nodes.size(); n-- > 0;) emit_backward(b, n);
      if (b > 0)
        blocks_[b - 1].grads[static_cast<std::size_t>(blocks_[b - 1].source->output())] =
            blocks_[b].grads[Block::kInput];
    }
  }

  using View = Program::BoundView;
  using Instruction = Program::Instruction;
  using Kind = Program::Kind;
  struct NodeState {
    OperationPlan plan;
    OperationTraits traits;
    std::vector<int> saved;  // the arena buffer of each saved BufferSpec; -1 for scratch
  };
  struct BlockState {
    const Block* source;
    Keep keep;
    std::vector<NodeState> nodes;
    std::vector<View> values;  // what holds each value at present; buffer -1: not made, or not kept
    std::vector<View> grads;
    std::vector<bool> needs_grad;
    int piece = -1;  // of host memory, which holds its input
  };

  void add_block(const Block& block, Keep keep) {
    BlockState state{&block, keep, {}, {}, {}, {}, -1};
    const auto count = static_cast<std::size_t>(block.value_count());
    state.values.resize(count);
    state.grads.resize(count);
    state.needs_grad.assign(count, false);
    if (!blocks_.empty()) state.needs_grad[Block::kInput] = blocks_.back().needs_grad.back();
    for (const Block::Node& node : block.nodes()) {
      state.nodes.push_back({node.operation->plan(program_.shape_), node.operation->traits(), {}});
      program_.workspace_bytes_ = std::max(program_.workspace_bytes_, state.nodes.back().plan.workspace);
      program_.reads_host_rows_ = program_.reads_host_rows_ || state.nodes.back().traits.reads_host_rows;
      bool needs = node.operation->trainable();
      for (Block::Value input : node.inputs) needs = needs || state.needs_grad[static_cast<std::size_t>(input)];
      state.needs_grad[static_cast<std::size_t>(node.output)] = needs;
    }
    blocks_.push_back(std::move(state));
  }

  int now() const { return static_cast<int>(program_.instructions_.size()); }

  void touch(int buffer) {
    if (buffer < 0) return;
    ArenaBuffer& b = program_.buffers_[static_cast<std::size_t>(buffer)];
    if (b.first < 0) b.first = now();
    b.last = std::max(b.last, now());
  }

  View new_buffer(const Shape& shape, Dtype dtype) {
    program_.buffers_.push_back({byte_count(shape, dtype)});
    return {static_cast<int>(program_.buffers_.size()) - 1, shape, dtype};
  }

  View use(View view) {
    touch(view.buffer);
    return view;
  }

  View output_of(std::size_t b) const {
    return blocks_[b].values[static_cast<std::size_t>(blocks_[b].source->output())];
  }

  // The view of each planned buffer for one direction: saved ones persist, the other direction's scratch is absent.
  std::vector<View> buffers_for(NodeState& node, Life scratch) {
    std::vector<View> views;
    node.saved.resize(node.plan.buffers.size(), -1);
    for (std::size_t i = 0; i < node.plan.buffers.size(); ++i) {
      const BufferSpec& spec = node.plan.buffers[i];
      if (spec.life == Life::kSaved) {
        if (node.saved[i] < 0) node.saved[i] = new_buffer(spec.shape, spec.dtype).buffer;
        views.push_back(use({node.saved[i], spec.shape, spec.dtype}));
      } else if (spec.life == scratch) {
        views.push_back(use(new_buffer(spec.shape, spec.dtype)));
      } else {
        views.emplace_back();
      }
    }
    return views;
  }

  // Whether the block's input waits in host memory for its backward pass. The first block has none, and the last one's
  // backward pass follows at once.
  bool leaves_for_host(std::size_t b) const {
    const BlockState& block = blocks_[b];
    return block.keep == Keep::kInputOnHost && b > 0 && b + 1 < blocks_.size() && block.needs_grad.back();
  }

  // Copies of inputs alternate with their arrivals, so that one is under way at most: to the host while the block's
  // forward pass runs, back while the block above is in its backward pass. A buffer lives until its copy has arrived.
  void emit_to_host(std::size_t b) {
    const View input = use(blocks_[b].values[Block::kInput]);
    blocks_[b].piece = static_cast<int>(program_.host_pieces_.size());
    program_.host_pieces_.push_back(byte_count(input.shape, input.dtype));
    Instruction instruction = copy_instruction(Kind::kToHost, b);
    instruction.in.push_back(input);
    program_.instructions_.push_back(std::move(instruction));
  }

  void emit_from_host(std::size_t b) {
    View& input = blocks_[b].values[Block::kInput];
    input = use(new_buffer(input.shape, input.dtype));
    Instruction instruction = copy_instruction(Kind::kFromHost, b);
    instruction.out = input;
    program_.instructions_.push_back(std::move(instruction));
  }

  void emit_arrived(std::size_t b) {
    Instruction instruction = copy_instruction(Kind::kArrived, b);
    instruction.in.push_back(use(blocks_[b].values[Block::kInput]));
    program_.instructions_.push_back(std::move(instruction));
  }

  Instruction copy_instruction(Kind kind, std::size_t b) const {
    Instruction instruction;
    instruction.kind = kind;
    instruction.block = static_cast<int>(b);
    instruction.piece = blocks_[b].piece;
    return instruction;
  }

  void emit_forward(std::size_t b, std::size_t n, bool again) {
    BlockState& block = blocks_[b];
    const Block::Node& node = block.source->nodes()[n];
    NodeState& state = block.nodes[n];
    Instruction instruction;
    instruction.operation = node.operation.get();
    instruction.block = static_cast<int>(b);
    for (Block::Value input : node.inputs) instruction.in.push_back(use(block.values[static_cast<std::size_t>(input)]));
    View& output = block.values[static_cast<std::size_t>(node.output)];
    output = state.traits.in_place ? instruction.in.at(0) : new_buffer(state.plan.output, state.plan.dtype);
    instruction.out = use(output);
    instruction.buffers = buffers_for(state, Life::kForwardScratch);
    program_.instructions_.push_back(std::move(instruction));
    if (again) ++program_.recomputed_;
  }

  bool kept(const BlockState& block, std::size_t n) const {
    if (block.keep == Keep::kInputOnly || block.keep == Keep::kInputOnHost) return false;
    return block.keep == Keep::kAll || !block.nodes[n].traits.cheap;
  }

  // Values that share storage through in-place operations are kept if any of them is.
  void forget_what_is_not_kept(BlockState& block) {
    std::vector<int> kept_buffers{block.values[Block::kInput].buffer};
    const auto& nodes = block.source->nodes();
    for (std::size_t n = 0; n < nodes.size(); ++n) {
      if (kept(block, n)) kept_buffers.push_back(block.values[static_cast<std::size_t>(nodes[n].output)].buffer);
    }
    for (const Block::Node& node : nodes) {
      View& value = block.values[static_cast<std::size_t>(node.output)];
      if (std::find(kept_buffers.begin(), kept_buffers.end(), value.buffer) == kept_buffers.end()) value = {};
    }
  }

  // Makes a value again, and first what it is made from, unless it is there.
  View ensure(std::size_t b, Block::Value value) {
    BlockState& block = blocks_[b];
    if (block.values[static_cast<std::size_t>(value)].buffer < 0) {
      const auto n = static_cast<std::size_t>(value - 1);
      for (Block::Value input : block.source->nodes()[n].inputs) ensure(b, input);
      emit_forward(b, n, /*again=*/true);
    }
    return block.values[static_cast<std::size_t>(value)];
  }

  void emit_backward(std::size_t b, std::size_t n) {
    BlockState& block = blocks_[b];
    const Block::Node& node = block.source->nodes()[n];
    NodeState& state = block.nodes[n];
    if (!block.needs_grad[static_cast<std::size_t>(node.output)]) return;
    Instruction instruction;
    instruction.operation = node.operation.get();
    instruction.kind = Kind::kBackward;
    instruction.block = static_cast<int>(b);
    // Everything that must be made again comes before this instruction, so before any lifetime is extended to it.
    for (std::size_t i = 0; i < node.inputs.size(); ++i) {
      instruction.in.push_back(state.traits.backward_reads_input[i] ? ensure(b, node.inputs[i]) : View{});
    }
    if (state.traits.backward_reads_output) instruction.out = ensure(b, node.output);
    for (const View& view : instruction.in) touch(view.buffer);
    touch(instruction.out.buffer);
    instruction.d_out = use(block.grads[static_cast<std::size_t>(node.output)]);
    for (std::size_t i = 0; i < node.inputs.size(); ++i) add_input_gradient(block, n, i, instruction);
    instruction.buffers = buffers_for(state, Life::kBackwardScratch);
    program_.instructions_.push_back(std::move(instruction));
  }

  void add_input_gradient(BlockState& block, std::size_t n, std::size_t i, Instruction& instruction) {
    const Block::Node& node = block.source->nodes()[n];
    const OperationTraits& traits = block.nodes[n].traits;
    const auto value = static_cast<std::size_t>(node.inputs[i]);
    View& grad = block.grads[value];
    const bool exists = grad.buffer >= 0;
    if (!block.needs_grad[value]) {
      instruction.d_in.emplace_back();
    } else {
      if (!exists) {
        const bool is_d_out = (traits.in_place && i == 0) || traits.pass_through == static_cast<int>(i);
        if (is_d_out) {
          grad = instruction.d_out;
        } else if (i == 0 && traits.d_in_may_overwrite_input && instruction.in[0].buffer >= 0 &&
                   dead_after(block, n, node.inputs[i])) {
          grad = instruction.in[0];
        } else {
          grad = new_buffer(value_shape(block, value), value_dtype(block, value));
        }
      }
      instruction.d_in.push_back(use(grad));
    }
    instruction.accumulate.push_back(exists);
  }

  // Whether no operation before node n still reads the value (or its storage) in its own backward pass.
  bool dead_after(const BlockState& block, std::size_t n, Block::Value value) const {
    if (value == Block::kInput) return false;
    const int buffer = block.values[static_cast<std::size_t>(value)].buffer;
    for (std::size_t m = 0; m < n; ++m) {
      const Block::Node& node = block.source->nodes()[m];
      const OperationTraits& traits = block.nodes[m].traits;
      for (Block::Value input : node.inputs) {
        const bool same = block.values[static_cast<std::size_t>(input)].buffer == buffer;
        if (input == value || (same && !traits.in_place)) return false;
      }
      if (traits.backward_reads_output && block.values[static_cast<std::size_t>(node.output)].buffer == buffer)
        return false;
    }
    return true;
  }

  Shape value_shape(const BlockState& block, std::size_t value) const {
    return value > 0 ? block.nodes[value - 1].plan.output : previous(block).nodes.back().plan.output;
  }
  Dtype value_dtype(const BlockState& block, std::size_t value) const {
    return value > 0 ? block.nodes[value - 1].plan.dtype : previous(block).nodes.back().plan.dtype;
  }
  const BlockState& previous(const BlockState& block) const { return *(&block - 1); }

  Program& program_;
  bool training_;
  std::vector<BlockState> blocks_;
};

Program::Program(const std::vector<Block>& blocks, const BatchShape& shape, Pass pass, const std::vector<Keep>& keep)
    : shape_(shape) {
  ProgramCompiler(*this, blocks, pass, keep).compile();
  arena_bytes_ = lay_out(buffers_);
}

void Program::bind(const at::Tensor& arena, const std::vector<at::Tensor>& host) {
  TORCH_CHECK(arena.numel() >= arena_bytes_, "arena of ", arena.numel(), " bytes for a program of ", arena_bytes_);
  TORCH_CHECK(host.size() >= host_pieces_.size(), host.size(), " pieces of host memory for a program of ",
              host_pieces_.size());
  arena_ = arena;
  if (!host_pieces_.empty() && !copies_) copies_.emplace(arena.device());
  auto* base = static_cast<std::byte*>(arena.mutable_data_ptr());
  const auto resolve = [&](const BoundView& view) {
    if (view.buffer < 0) return at::Tensor();
    std::byte* data = base + buffers_[static_cast<std::size_t>(view.buffer)].offset;
    // With its device said, CUDA is not asked whose memory it is: an empty view may lie one past the arena's end.
    return at::from_blob(
        data, view.shape, [](void*) {}, arena.options().dtype(view.dtype), arena.device());
  };
  const auto resolve_all = [&](const std::vector<BoundView>& views) {
    std::vector<at::Tensor> tensors;
    tensors.reserve(views.size());
    for (const BoundView& view : views) tensors.push_back(resolve(view));
    return tensors;
  };
  for (Instruction& i : instructions_) {
    i.views = {resolve_all(i.in), resolve(i.out),      resolve_all(i.buffers),
               resolve(i.d_out),  resolve_all(i.d_in), i.accumulate};
    if (i.kind != Kind::kToHost && i.kind != Kind::kFromHost) continue;
    const BoundView& copied = i.kind == Kind::kToHost ? i.in[0] : i.out;
    const auto piece = static_cast<std::size_t>(i.piece);
    i.host = host[piece].narrow(0, 0, host_pieces_[piece]).view(copied.dtype).view(copied.shape);
  }
  output_ = resolve(output_view_);
}

void Program::execute(const Instruction& instruction, const Batch& batch) {
  switch (instruction.kind) {
    case Kind::kForward:
      return instruction.operation->forward(batch, instruction.views);
    case Kind::kBackward:
      return instruction.operation->backward(batch, instruction.views);
    case Kind::kToHost:
      return copies_->start(instruction.views.in[0], instruction.host);
    case Kind::kFromHost:
      return copies_->start(instruction.host, instruction.views.out);
    case Kind::kArrived:
      return copies_->finish();
  }
}

void Program::run(const Batch& batch) {
  for (std::size_t i = 0; i < instructions_.size(); ++i) {
    execute(instructions_[i], batch);
#ifdef QLORA_POISON_FREED
    poison_dead_buffers(static_cast<int>(i));
#endif
  }
}

std::string Program::first_non_finite(const Batch& batch) {
  const auto finite = [](const at::Tensor& t) { return !t.defined() || at::isfinite(t).all().item<bool>(); };
  for (const Instruction& i : instructions_) {
    execute(i, batch);
    if (i.operation == nullptr) continue;
    const bool backward = i.kind == Kind::kBackward;
    const bool good = backward ? std::all_of(i.views.d_in.begin(), i.views.d_in.end(), finite) : finite(i.views.out);
    if (!good) {
      return fmt::format("{} of {} in block {}", backward ? "backward" : "forward", i.operation->name(), i.block);
    }
  }
  return "";
}

// Fills what no later instruction may read with NaN, so that a wrong lifetime shows.
void Program::poison_dead_buffers(int instruction) {
  for (const ArenaBuffer& buffer : buffers_) {
    if (buffer.last == instruction) arena_.narrow(0, buffer.offset, buffer.bytes).fill_(0xFF);
  }
}

std::string Program::describe() const {
  std::string text;
  const auto list = [](const std::vector<BoundView>& views) {
    std::string s;
    for (const BoundView& v : views) s += v.buffer < 0 ? " -" : fmt::format(" b{}", v.buffer);
    return s;
  };
  const auto line = [&](const Instruction& in) {
    switch (in.kind) {
      case Kind::kForward:
        return fmt::format("forward  {:12} in{} -> b{}", in.operation->name(), list(in.in), in.out.buffer);
      case Kind::kBackward:
        return fmt::format("backward {:12} in{} d_out b{} ->{}", in.operation->name(), list(in.in), in.d_out.buffer,
                           list(in.d_in));
      case Kind::kToHost:
        return fmt::format("to host  piece {} from{}", in.piece, list(in.in));
      case Kind::kFromHost:
        return fmt::format("from host piece {} -> b{}", in.piece, in.out.buffer);
      default:
        return fmt::format("arrived  piece {} of{}", in.piece, list(in.in));
    }
  };
  for (std::size_t i = 0; i < instructions_.size(); ++i) {
    text += fmt::format("{:4} block {:3} {}\n", i, instructions_[i].block, line(instructions_[i]));
  }
  return text;
}

}  // namespace qlora
