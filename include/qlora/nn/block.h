// A block: a short list of operations over named values. A decoder is a list of blocks.
#pragma once

#include <memory>
#include <vector>

#include "qlora/nn/operation.h"

namespace qlora {

class Block {
 public:
  using Value = int;
  static constexpr Value kInput = 0;  // the output of the block before

  struct Node {
    std::shared_ptr<Operation> operation;
    std::vector<Value> inputs;
    Value output;
  };

  // Appends an operation; returns the value that it makes.
  Value add(std::shared_ptr<Operation> operation, std::vector<Value> inputs);

  const std::vector<Node>& nodes() const { return nodes_; }
  Value output() const { return nodes_.back().output; }
  int value_count() const { return static_cast<int>(nodes_.size()) + 1; }

 private:
  std::vector<Node> nodes_;
};

}  // namespace qlora
