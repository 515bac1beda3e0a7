// Texts by their bytes: those that another text starts with.
#pragma once

#include <cstdint>
#include <cstring>
#include <string_view>
#include <utility>
#include <vector>

namespace qlora {

class PrefixTrie {
 public:
  // Each text once, with its value >= 0; empty texts are never found.
  explicit PrefixTrie(std::vector<std::pair<std::string_view, std::int32_t>> entries);

  // visit(bytes, value) for every entry that `text` starts with, the shortest first.
  template <typename Visit>
  void for_each_prefix(std::string_view text, const Visit& visit) const {
    const Node* node = nodes_.data();
    for (std::size_t at = 0; at < text.size(); ++at) {
      const unsigned char* labels = labels_.data() + node->first_child;
      const void* found = std::memchr(labels, static_cast<unsigned char>(text[at]), node->children);
      if (found == nullptr) return;
      node = nodes_.data() + (static_cast<const unsigned char*>(found) - labels_.data());
      if (node->value >= 0) visit(at + 1, node->value);
    }
  }

 private:
  struct Node {
    std::uint32_t first_child = 0;  // a node's children lie one after another
    std::uint32_t children = 0;
    std::int32_t value = -1;
  };
  std::vector<Node> nodes_;
  std::vector<unsigned char> labels_;  // by node: the byte that leads to it
};

}  // namespace qlora
