// What a config file or a flag holds before the schema gives it a type: text, lists and maps, each with its place.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "qlora/core/json.h"

namespace qlora {

// Where a value was written: file:line:column (both from 1), or the flag it came in.
struct Place {
  std::string source;  // a file's path, or "--flag"; empty: nowhere
  int line = 0;        // 0: the source has no lines
  int column = 0;

  // "config.yaml:3:7", "--lora_r", or "".
  std::string text() const;
};

struct Entry;

struct Value {
  enum class Kind { kNull, kScalar, kList, kMap };

  Kind kind = Kind::kNull;
  std::string text;            // of a scalar, exactly as written between its quotes
  bool quoted = false;         // a quoted scalar is never null, and text where the type is open
  std::vector<Value> items;    // of a list
  std::vector<Entry> entries;  // of a map, in order, with keys that occur twice
  Place place;

  static Value scalar(std::string text, Place place);

  // As an error quotes it: "abc", a list, a map, nothing.
  std::string described() const;
};

struct Entry {
  std::string key;
  Place place;
  Value value;
};

// A scalar as the texts between its commas, trimmed, without empty ones.
std::vector<std::string> split_at_commas(const std::string& text);

// The JSON of a value whose type is open: plain true, false, null and numbers become such, all else text.
Json open_json(const Value& value);

// The scalars' texts. False where the text is none.
bool text_to(const std::string& text, bool& value);         // true false yes no on off 1 0, in any case
bool text_to(const std::string& text, int64_t& value);      // a sign, decimal digits
bool text_to(const std::string& text, double& value);       // 2e-4; finite
bool text_to(const std::string& text, std::string& value);  // any

}  // namespace qlora
