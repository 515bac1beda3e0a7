// The header of a safetensors file: a strict reader that keeps nothing but what the format allows.
#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "qlora/core/error.h"
#include "qlora/core/quote.h"
#include "qlora/formats/safetensors.h"

namespace qlora {
namespace {

// Takes the JSON event by event: what does not belong ends the parse at once, so hostile nesting never builds up.
class HeaderReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit HeaderReader(const std::string& origin) : origin_(origin) {}

  SafetensorsHeader take() { return std::move(header_); }

  bool null() override { return unexpected("null"); }
  bool boolean(bool) override { return unexpected("a boolean"); }
  bool number_float(number_float_t, const string_t& text) override { return unexpected("the number " + text); }
  bool binary(binary_t&) override { return unexpected("binary data"); }
  bool number_integer(number_integer_t value) override { return unexpected(fmt::format("the number {}", value)); }

  bool number_unsigned(number_unsigned_t value) override {
    if (where_ == Where::kShape) {
      if (value > static_cast<std::uint64_t>(INT64_MAX)) return refuse("its shape is too large");
      entry_.spec.shape.push_back(static_cast<std::int64_t>(value));
      return true;
    }
    if (where_ != Where::kOffsets) return unexpected(fmt::format("the number {}", value));
    if (offsets_ == 2) return refuse("'data_offsets' has more than two numbers");
    (offsets_++ == 0 ? entry_.begin : entry_.end) = value;
    return true;
  }

  bool string(string_t& value) override {
    if (where_ == Where::kMetadata) {
      header_.metadata[field_] = value;
      return true;
    }
    if (where_ != Where::kTensor || field_ != "dtype") return unexpected("a string");
    const std::optional<ElementType> type = element_type(value);
    if (!type) return refuse(fmt::format("its dtype {} is not supported", quote_name(value)));
    entry_.spec.type = *type;
    return true;
  }

  bool start_object(std::size_t) override {
    switch (where_) {
      case Where::kStart:
        where_ = Where::kTop;
        return true;
      case Where::kTop:
        where_ = field_ == "__metadata__" ? Where::kMetadata : Where::kTensor;
        return begin_tensor();
      default:
        return unexpected("an object");
    }
  }

  bool end_object() override {
    switch (where_) {
      case Where::kTensor:
        where_ = Where::kTop;
        return end_tensor();
      case Where::kMetadata:
        where_ = Where::kTop;
        return true;
      default:
        where_ = Where::kEnd;
        return true;
    }
  }

  bool key(string_t& name) override {
    field_ = name;
    switch (where_) {
      case Where::kTop:
        if (name == "__metadata__" && std::exchange(has_metadata_, true))
          return refuse_file("'__metadata__' occurs twice");
        return true;
      case Where::kMetadata:
        if (header_.metadata.contains(name))
          return refuse_file(fmt::format("the metadata {} occurs twice", quote_name(name)));
        return true;
      default:
        return tensor_field(name);
    }
  }

  bool start_array(std::size_t) override {
    if (where_ != Where::kTensor || field_ == "dtype") return unexpected("a list");
    where_ = field_ == "shape" ? Where::kShape : Where::kOffsets;
    return true;
  }

  bool end_array() override {
    if (where_ == Where::kOffsets && offsets_ != 2) return refuse("'data_offsets' has fewer than two numbers");
    where_ = Where::kTensor;
    return true;
  }

  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) override {
    return refuse_file(fmt::format("its header is no valid JSON (at byte {} of the header)", position));
  }

 private:
  enum class Where { kStart, kTop, kMetadata, kTensor, kShape, kOffsets, kEnd };

  bool begin_tensor() {
    entry_ = {};
    entry_.spec.name = field_;
    seen_ = {};
    offsets_ = 0;
    return true;
  }

  bool tensor_field(const std::string& name) {
    static constexpr std::array<std::string_view, 3> kFields = {"dtype", "shape", "data_offsets"};
    const auto field = std::find(kFields.begin(), kFields.end(), name);
    if (field == kFields.end()) return refuse(fmt::format("it has an unknown field {}", quote_name(name)));
    if (std::exchange(seen_[static_cast<std::size_t>(field - kFields.begin())], true)) {
      return refuse(fmt::format("its field {} occurs twice", quote_name(name)));
    }
    return true;
  }

  bool end_tensor() {
    if (!seen_[0] || !seen_[1] || !seen_[2]) return refuse("it lacks dtype, shape or data_offsets");
    header_.entries.push_back(std::move(entry_));
    return true;
  }

  bool unexpected(const std::string& what) {
    if (where_ == Where::kStart) return refuse_file("its header is no JSON object");
    if (where_ == Where::kMetadata) {
      return refuse_file(fmt::format("the metadata {} must be a string, not {}", quote_name(field_), what));
    }
    if (where_ == Where::kTop)
      return refuse_file(fmt::format("{} must be an object, not {}", quote_name(field_), what));
    return refuse(fmt::format("its {} cannot be or hold {}", quote_name(field_), what));
  }

  bool refuse(const std::string& problem) {
    throw DataError(fmt::format("{}: tensor {}: {}", origin_, quote_name(entry_.spec.name), problem));
  }
  bool refuse_file(const std::string& problem) { throw DataError(fmt::format("{}: {}", origin_, problem)); }

  const std::string& origin_;
  SafetensorsHeader header_;
  SafetensorsEntry entry_;
  std::array<bool, 3> seen_{};
  std::string field_;
  Where where_ = Where::kStart;
  int offsets_ = 0;
  bool has_metadata_ = false;
};

void check_entry(const SafetensorsEntry& entry, const std::string& origin) {
  const std::optional<std::int64_t> count = element_count(entry.spec.shape, element_size(entry.spec.type));
  const auto fail = [&](const std::string& problem) {
    throw DataError(fmt::format("{}: tensor {}: {}", origin, quote_name(entry.spec.name), problem));
  };
  if (!count) fail(fmt::format("its shape {} is too large", shape_text(entry.spec.shape)));
  if (entry.end < entry.begin) fail(fmt::format("its data_offsets [{}, {}] run backwards", entry.begin, entry.end));
  const std::uint64_t need = static_cast<std::uint64_t>(*count) * element_size(entry.spec.type);
  if (entry.end - entry.begin != need) {
    fail(fmt::format("{} of shape {} takes {} bytes, its data_offsets [{}, {}] give {}", element_name(entry.spec.type),
                     shape_text(entry.spec.shape), need, entry.begin, entry.end, entry.end - entry.begin));
  }
}

void check_cover(const std::vector<SafetensorsEntry>& entries, std::uint64_t data_bytes, const std::string& origin) {
  std::uint64_t expected = 0;
  for (const SafetensorsEntry& entry : entries) {
    if (entry.end > data_bytes) {
      throw DataError(fmt::format("{}: tensor {}: its data ends at byte {}, but the file holds {}: it was cut short",
                                  origin, quote_name(entry.spec.name), entry.end, data_bytes));
    }
    if (entry.begin != expected) {
      throw DataError(
          fmt::format("{}: tensor {}: its data begins at byte {} where byte {} was expected: tensors may "
                      "neither overlap nor leave holes",
                      origin, quote_name(entry.spec.name), entry.begin, expected));
    }
    expected = entry.end;
  }
  if (expected != data_bytes) {
    throw DataError(
        fmt::format("{}: its tensors end at byte {} of the data, but the file holds {}", origin, expected, data_bytes));
  }
}

void check_names(const std::vector<SafetensorsEntry>& entries, const std::string& origin) {
  std::vector<const std::string*> names;
  names.reserve(entries.size());
  for (const SafetensorsEntry& entry : entries) names.push_back(&entry.spec.name);
  const auto less = [](const std::string* a, const std::string* b) { return *a < *b; };
  std::sort(names.begin(), names.end(), less);
  const auto twice = std::adjacent_find(names.begin(), names.end(),
                                        [](const std::string* a, const std::string* b) { return *a == *b; });
  if (twice != names.end()) throw DataError(fmt::format("{}: tensor {} occurs twice", origin, quote_name(**twice)));
}

}  // namespace

SafetensorsHeader parse_safetensors_header(std::string_view json, std::uint64_t data_bytes, const std::string& origin) {
  if (json.empty() || json.front() != '{') {
    throw DataError(fmt::format("{}: its header does not begin with '{{': it is no safetensors file", origin));
  }
  // The parser would take a NUL for the end of the text.
  if (json.find('\0') != std::string_view::npos)
    throw DataError(fmt::format("{}: its header holds a NUL byte", origin));
  HeaderReader reader(origin);
  nlohmann::json::sax_parse(json, &reader);
  SafetensorsHeader header = reader.take();

  check_names(header.entries, origin);
  for (const SafetensorsEntry& entry : header.entries) check_entry(entry, origin);
  std::stable_sort(header.entries.begin(), header.entries.end(),
                   [](const auto& a, const auto& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
  check_cover(header.entries, data_bytes, origin);
  return header;
}

}  // namespace qlora
