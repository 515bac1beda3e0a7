#include "qlora/text/tokenizer/post_processor.h"

#include <fmt/format.h>

#include "qlora/text/tokenizer/token_model.h"

namespace qlora {
namespace {

std::vector<std::int32_t> special_ids(const JsonNode& piece, const JsonNode& tokens) {
  const std::string& name = piece.at("id").text();
  const auto entry = tokens.find(name);
  if (!entry) piece.at("id").fail(fmt::format("\"{}\" is not among special_tokens", name));
  std::vector<std::int32_t> ids;
  for (const JsonNode& id : entry->at("ids").items()) {
    ids.push_back(static_cast<std::int32_t>(id.integer(0, kMaxTokenId)));
  }
  return ids;
}

SpecialFrame read_template(const JsonNode& node) {
  SpecialFrame frame;
  bool seen = false;
  const JsonNode tokens = node.at("special_tokens");
  for (const JsonNode& piece : node.at("single").items()) {
    if (const auto sequence = piece.find("Sequence")) {
      if (sequence->at("id").text() != "A" || seen) sequence->fail("must be the sequence A, once");
      seen = true;
      continue;
    }
    const std::vector<std::int32_t> ids = special_ids(piece.at("SpecialToken"), tokens);
    std::vector<std::int32_t>& side = seen ? frame.after : frame.before;
    side.insert(side.end(), ids.begin(), ids.end());
  }
  if (!seen) node.at("single").fail("has no place for the sequence A");
  return frame;
}

SpecialFrame read_sequence(const JsonNode& node) {
  SpecialFrame frame;
  int templates = 0;
  for (const JsonNode& part : node.at("processors").items()) {
    SpecialFrame read = read_post_processor(part);
    if (part.type() == "ByteLevel") continue;
    if (++templates > 1) part.fail("a second template after another is not supported");
    frame = std::move(read);
  }
  return frame;
}

}  // namespace

SpecialFrame read_post_processor(const JsonNode& node) {
  const std::string& type = node.type();
  if (type == "ByteLevel") return {};
  if (type == "TemplateProcessing") return read_template(node);
  if (type == "Sequence") return read_sequence(node);
  node.at("type").fail(fmt::format(
      "the post-processor \"{}\" is not supported; known are ByteLevel, Sequence, TemplateProcessing", type));
}

}  // namespace qlora
