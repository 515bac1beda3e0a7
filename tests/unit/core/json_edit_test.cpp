#include "qlora/core/json_edit.h"

#include <gtest/gtest.h>

#include "qlora/core/error.h"

namespace qlora {
namespace {

std::string edited(const std::string& text, const Json& value) {
  return with_member(text, "key", value, "a.json");
}

TEST(JsonEdit, ReplacesOneMemberAndKeepsAllElse) {
  const std::string before = R"({ "max": 1000000000000000019884624838656, "in": {"key": ["]\"}:,", 1e-06]},)";
  EXPECT_EQ(edited(before + "\n \"key\" :\t\"old: \\\\\" ,\"b\":2.50}\n", "new"),
            before + "\n \"key\" :\t\"new\" ,\"b\":2.50}\n");
  EXPECT_EQ(edited(before + "\"k\\u0065y\":[{\"name\":\"a\"},{}] }", "new"), before + "\"k\\u0065y\":\"new\" }");
}

TEST(JsonEdit, AddsAMember) {
  EXPECT_EQ(edited("{\n  \"a\": 1e9\n}\n", Json{1, 2}), "{\n  \"key\": [1,2],\n  \"a\": 1e9\n}\n");
  EXPECT_EQ(edited("{}\n", "\"\n"), "{\n  \"key\": \"\\\"\\n\"\n}\n");
}

TEST(JsonEdit, LeavesAnEqualValueAsItIsWritten) {
  EXPECT_EQ(edited("{\"key\": \"\\u00e9\"}", "é"), "{\"key\": \"\\u00e9\"}");
}

TEST(JsonEdit, RefusesWhatIsNoObject) {
  EXPECT_THROW(edited("[]", 1), DataError);
  EXPECT_THROW(edited("{\"key\":", 1), DataError);
}

}  // namespace
}  // namespace qlora
