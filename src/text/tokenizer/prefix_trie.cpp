#include "qlora/text/tokenizer/prefix_trie.h"

#include <algorithm>

namespace qlora {

PrefixTrie::PrefixTrie(std::vector<std::pair<std::string_view, std::int32_t>> entries) : nodes_(1), labels_(1) {
  std::sort(entries.begin(), entries.end());
  struct Range {  // the entries below a node, which share `depth` bytes
    std::size_t begin, end, depth;
  };
  std::vector<Range> ranges = {{0, entries.size(), 0}};
  for (std::size_t i = 0; i < nodes_.size(); ++i) {
    auto [begin, end, depth] = ranges[i];
    if (begin < end && entries[begin].first.size() == depth) nodes_[i].value = entries[begin++].second;
    nodes_[i].first_child = static_cast<std::uint32_t>(nodes_.size());
    while (begin < end) {
      const char label = entries[begin].first[depth];
      const std::size_t first = begin;
      while (begin < end && entries[begin].first[depth] == label) ++begin;
      ranges.push_back({first, begin, depth + 1});
      nodes_.emplace_back();
      labels_.push_back(static_cast<unsigned char>(label));
    }
    nodes_[i].children = static_cast<std::uint32_t>(nodes_.size()) - nodes_[i].first_child;
  }
}

}  // namespace qlora
