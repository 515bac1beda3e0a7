// YAML's edges: broken text, aliases, documents; and JSON's places.
#include "qlora/core/yaml.h"

#include <gtest/gtest.h>

#include "qlora/core/error.h"
#include "qlora/core/json.h"

namespace qlora {
namespace {

template <class E, class F>
std::string message_of(F call) {
  try {
    call();
  } catch (const E& error) {
    return error.what();
  }
  return "no error";
}

std::string yaml_error(const std::string& text) {
  return message_of<UsageError>([&] { parse_yaml(text, "x"); });
}

std::string json_error(const std::string& text) {
  return message_of<DataError>([&] { parse_json(text, "x"); });
}

TEST(Yaml, KeepsTextPlacesAndDuplicates) {
  const Value map = parse_yaml("a: 1e3\n'b':\n  - \"x\"\na:\n", "f");
  ASSERT_EQ(map.entries.size(), 3u);
  EXPECT_EQ(map.entries[0].value.text, "1e3");
  EXPECT_EQ(map.entries[0].value.place.text(), "f:1:4");
  EXPECT_TRUE(map.entries[1].value.items[0].quoted);
  EXPECT_EQ(map.entries[1].value.items[0].place.text(), "f:3:5");
  EXPECT_EQ(map.entries[2].key, "a");
  EXPECT_EQ(map.entries[2].value.kind, Value::Kind::kNull);
  EXPECT_EQ(map.entries[2].value.place.text(), "f:4:1") << "an empty value stands where its key does";
}

TEST(Yaml, RefusesWithAPlace) {
  EXPECT_EQ(yaml_error("a: [1\n"), "x:2:1: not YAML: end of sequence flow not found");
  EXPECT_EQ(yaml_error("a: 1\n---\nb: 2\n"), "x:2:1: the document has ended, and more follows");
  EXPECT_THAT(yaml_error("a: 1\n]\n"), testing::HasSubstr("x:2:1: "));
  EXPECT_EQ(yaml_error("? [a]\n: 1\n"), "x:1:3: a key must be text");
  EXPECT_EQ(yaml_error("a: b: c\n").substr(0, 6), "x:1:5:");
  EXPECT_EQ(message_of<UsageError>([] { read_yaml("/no/such.yaml"); }), "/no/such.yaml: cannot be read: no such file");
  EXPECT_EQ(message_of<UsageError>([] { read_yaml("/tmp"); }), "/tmp: cannot be read: it is a folder");
}

TEST(Yaml, AnAliasInsideOfWhatItStandsForIsRefused) {
  EXPECT_EQ(yaml_error("a: &x [1, *x]"), "x:1:4: an alias stands inside of what it stands for");
  EXPECT_EQ(yaml_error("a: &x\n  b: {c: *x}"), "x:1:4: an alias stands inside of what it stands for");
}

TEST(Yaml, AliasesAreReadAndCannotExplode) {
  EXPECT_EQ(parse_yaml("a: &x 1\nb: *x\n", "f").entries[1].value.text, "1");
  std::string bomb = "a: &a [x, x, x, x, x, x, x, x, x, x]\n";
  for (char c = 'b'; c < 'k'; ++c) {
    bomb += std::string(1, c) + ": &" + c + " [";
    for (int i = 0; i < 10; ++i) bomb += std::string(i > 0 ? ", *" : "*") + static_cast<char>(c - 1);
    bomb += "]\n";
  }
  EXPECT_EQ(yaml_error(bomb), "x: has more than 100,000 values; are its aliases nested?");
}

TEST(Yaml, ALineReadsBack) {
  for (const char* text :
       {"a", "", "null", "~", "no", "a: b", "# x", "-1", "a\nb", "\t", "'", "\"", "{x}", "ü", "1e5"}) {
    const Value value = parse_yaml("k: " + yaml_line(text), "f").entries[0].value;
    EXPECT_EQ(value.kind, Value::Kind::kScalar) << text;
    EXPECT_EQ(value.text, text);
  }
}

TEST(JsonText, ErrorsHavePlaces) {
  EXPECT_EQ(json_error("{\"a\": 1,\n \"b\": }").substr(0, 18), "x:2:7: not JSON: s");
  EXPECT_EQ(json_error("").substr(0, 16), "x:1:1: not JSON:");
  EXPECT_EQ(json_error("{\"a\": 1,\n \"a\": 2}"), "x:2:2: the key \"a\" occurs twice in one object");
  EXPECT_EQ(json_error("\"\xff\"").substr(0, 16), "x:1:2: not JSON:");
  EXPECT_EQ(json_error(std::string(300, '[')), "x:1:201: JSON nested deeper than 200");
  EXPECT_EQ(json_error("1 2").substr(0, 16), "x:1:3: not JSON:");
  EXPECT_EQ(message_of<DataError>([] { read_json("/no/such.json"); }), "/no/such.json: no such file");
}

TEST(JsonText, KeepsOrderAndTakesEqualKeysOfDifferentObjects) {
  EXPECT_EQ(parse_json("{\"b\": {\"x\": 1}, \"a\": [{\"x\": 2}, {\"x\": 3}]}", "x").dump(),
            "{\"b\":{\"x\":1},\"a\":[{\"x\":2},{\"x\":3}]}");
}

}  // namespace
}  // namespace qlora
