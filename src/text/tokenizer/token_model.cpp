// The table of models.
#include "qlora/text/tokenizer/token_model.h"

#include <map>

namespace qlora {
namespace {

using Factory = std::unique_ptr<TokenModel> (*)(const JsonNode&);
const std::map<std::string, Factory> kModels = {{"BPE", make_bpe}, {"Unigram", make_unigram}};

}  // namespace

std::unique_ptr<TokenModel> make_token_model(const JsonNode& node) {
  // Files from before the field "type" hold BPE where they have merges.
  const std::string type = node.text_or("type", node.find("merges") ? "BPE" : "");
  return make_by_type(node, type, "model", kModels);
}

}  // namespace qlora
