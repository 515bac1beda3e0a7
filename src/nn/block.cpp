#include "qlora/nn/block.h"

namespace qlora {

Block::Value Block::add(std::shared_ptr<Operation> operation, std::vector<Value> inputs) {
  const Value output = static_cast<Value>(nodes_.size()) + 1;
  nodes_.push_back({std::move(operation), std::move(inputs), output});
  return output;
}

}  // namespace qlora
