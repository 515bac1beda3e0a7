// The table of models.
#include "qlora/text/tokenizer/token_model.h"

#include <map>

#include <fmt/format.h>

namespace qlora {
namespace {

using Factory = std::unique_ptr<TokenModel> (*)(const JsonNode&);
const std::map<std::string, Factory> kModels = {{"BPE", make_bpe}};

}  // namespace

std::unique_ptr<TokenModel> make_token_model(const JsonNode& node) {
  // Files from before the field "type" hold BPE where they have merges.
  const std::string type = node.text_or("type", node.find("merges") ? "BPE" : "");
  const auto found = kModels.find(type);
  if (found == kModels.end()) node.fail(fmt::format("the model type \"{}\" is not supported", type));
  return found->second(node);
}

}  // namespace qlora
