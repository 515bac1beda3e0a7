// The table of normalizers, and Sequence.
#include "qlora/text/tokenizer/normalizer.h"

#include <map>

namespace qlora {
namespace {

class NormalizerSequence final : public Normalizer {
 public:
  explicit NormalizerSequence(const JsonNode& node) {
    for (const JsonNode& part : node.at("normalizers").items()) parts_.push_back(make_normalizer(part));
  }
  void apply(AlignedText& text) const override {
    for (const auto& part : parts_) part->apply(text);
  }

 private:
  std::vector<std::unique_ptr<Normalizer>> parts_;
};

std::unique_ptr<Normalizer> make_sequence(const JsonNode& node) {
  return std::make_unique<NormalizerSequence>(node);
}

using Factory = std::unique_ptr<Normalizer> (*)(const JsonNode&);
const std::map<std::string, Factory> kNormalizers = {
    {"Sequence", make_sequence},       {"NFC", make_unicode_normalizer},
    {"NFD", make_unicode_normalizer},  {"NFKC", make_unicode_normalizer},
    {"NFKD", make_unicode_normalizer}, {"Prepend", make_prepend},
    {"Replace", make_replace},         {"Strip", make_strip},
    {"Lowercase", make_lowercase},     {"Precompiled", make_precompiled},
};

}  // namespace

std::unique_ptr<Normalizer> make_normalizer(const JsonNode& node) {
  return make_by_type(node, node.type(), "normalizer", kNormalizers);
}

}  // namespace qlora
