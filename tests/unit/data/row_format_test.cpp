#include "qlora/data/row_format.h"

#include <gmock/gmock.h>
#include <sqlite3.h>

#include "qlora/data/prompt_template.h"

#include "fakes.h"

namespace qlora {
namespace {

using testing::error_of;
using ::testing::HasSubstr;
using ::testing::StartsWith;

Example read(const std::string& row, const FormatContext& context = {.chat = true},
             const std::optional<std::string>& system = {}) {
  const Json json = Json::parse(row);
  return read_example(guess_row_format(json), json, context, system);
}

std::string read_error(const std::string& row, const FormatContext& context = {.chat = true}) {
  return error_of<DataError>([&] { read(row, context); });
}

TEST(RowFormat, IsGuessedFromTheColumns) {
  const auto name = [](const char* row) { return std::string(guess_row_format(Json::parse(row)).name); };
  EXPECT_EQ(name(R"({"messages":[{"role":"user","content":"a"}]})"), "messages");
  EXPECT_EQ(name(R"({"id":"1","conversations":[{"from":"human","value":"a"}]})"), "sharegpt");
  EXPECT_EQ(name(R"({"instruction":"a","input":"","output":"b"})"), "alpaca");
  EXPECT_EQ(name(R"({"instruction":"a","response":"b"})"), "alpaca");
  EXPECT_EQ(name(R"({"prompt":"a","completion":"b"})"), "prompt_completion");
  EXPECT_EQ(name(R"({"text":"a"})"), "text");
  EXPECT_EQ(name(R"({"question":"a","query":"b","db_id":"c"})"), "spider");
  EXPECT_EQ(name(R"({"question":"a","answer":"b","context":"CREATE TABLE t (a);"
})"),
            "spider");
  EXPECT_EQ(name(R"({"instruction":"a","context":"c","response":"b","category":"qa"})"), "alpaca");
  const auto error = error_of<DataError>([&] { name(R"({"prompt":"a","label":1})"); });
  EXPECT_THAT(error, HasSubstr("(prompt: string, label: number)"));
  EXPECT_THAT(error, HasSubstr("alpaca (instruction, input (optional), output)"));
}

TEST(RowFormat, TurnsTellMessagesFromSharegptWhateverTheirColumnIsCalled) {
  const std::string expected = R"([{"role":"user","content":"q"},{"role":"assistant","content":"a"}])";
  for (const char* column : {"messages", "conversations", "conversation"}) {
    for (const char* turns : {R"([{"role":"user","content":"q"},{"role":"assistant","content":"a"}])",
                              R"([{"from":"human","value":"q"},{"from":"gpt","value":"a"}])"}) {
      const std::string row = std::string("{\"") + column + "\":" + turns + "}";
      EXPECT_EQ(read(row).messages.dump(), expected) << row;
    }
  }
  EXPECT_THAT(read_error(R"({"conversations":[]})"), HasSubstr("'conversations' is an empty list"));
}

TEST(RowFormat, ASystemColumnStandsBeforeTheTurns) {
  const std::string turns = R"("messages":[{"role":"user","content":"q"}])";
  EXPECT_EQ(read(R"({"system":"S",)" + turns + "}").messages[0].dump(), R"({"role":"system","content":"S"})");
  EXPECT_EQ(read(R"({"system":"",)" + turns + "}").messages.size(), 1U);
  EXPECT_EQ(read(R"({"system":"S","messages":[{"role":"system","content":"S"}]})").messages.size(), 1U);
}

TEST(RowFormat, NoSynonymIsLost) {
  const auto content = [](const char* row) { return read(row).messages[0]["content"]; };
  EXPECT_EQ(content(R"({"instruction":"I","context":"C","response":"R"})"), "I\nC");
  EXPECT_EQ(content(R"({"instruction":"I","input":"","context":"C","output":"","response":"R"})"), "I\nC");
  EXPECT_EQ(content(R"({"instruction":"I","input":"C","context":"C","output":"O"})"), "I\nC");
  EXPECT_EQ(read(R"({"instruction":"I","response":"R"})").messages[1]["content"], "R");
  EXPECT_EQ(read(R"({"instruction":"I","context":"C","response":"R"})", {.chat = false}).prompt,
            "### Instruction:\nI\n\n### Input:\nC\n\n### Response:\n");
  EXPECT_THAT(read_error(R"({"instruction":"I","input":"N","context":"C","output":"O"})"),
              HasSubstr("columns 'input' and 'context' mean the same, and the row has both"));
  EXPECT_THAT(read_error(R"({"instruction":"I","output":"O","response":"R"})"), HasSubstr("'output' and 'response'"));
  EXPECT_THAT(read_error(R"({"question":"q","query":"Q","answer":"A","db_id":"d"})"),
              HasSubstr("'query' and 'answer'"));
}

TEST(RowFormat, MessagesReachTheTemplateUnchanged) {
  const Example example = read(R"({"messages":[{"role":"user","name":"x","content":"q","z":[1],"a":null}],
      "tools":[{"b":1,"a":2}],"documents":[{"t":"d"}],"chat_template_kwargs":{"k":true},"id":7})");
  EXPECT_EQ(example.messages.dump(), R"([{"role":"user","name":"x","content":"q","z":[1],"a":null}])");
  EXPECT_EQ(example.tools.dump(), R"([{"b":1,"a":2}])");
  EXPECT_EQ(example.documents.dump(), R"([{"t":"d"}])");
  EXPECT_EQ(example.chat_template_kwargs["k"], true);
  EXPECT_EQ(example.id, 7);
}

TEST(RowFormat, MalformedRowsSayWhatIsWrong) {
  EXPECT_THAT(read_error(R"({"messages":[]})"), HasSubstr("'messages' is an empty list"));
  EXPECT_THAT(read_error(R"({"messages":["a"]})"), HasSubstr("messages[0] must be an object, is string"));
  EXPECT_THAT(read_error(R"({"messages":[{"content":"a"}]})"), HasSubstr("messages[0] has no 'role'"));
  EXPECT_THAT(read_error(R"({"messages":[{"role":1}]})"), HasSubstr("messages[0].role must be a string, is number"));
  EXPECT_THAT(read_error(R"({"conversations":[{"from":"alien","value":"a"}]})"), HasSubstr("unknown role 'alien'"));
  EXPECT_THAT(read_error(R"({"conversations":[{"from":"gpt","value":3}]})"),
              HasSubstr("conversations[0]: column 'value' must be a string, is number"));
  EXPECT_THAT(read_error(R"({"instruction":"a","output":"b","input":5})"), HasSubstr("'input' must be a string"));
  EXPECT_THAT(read_error(R"({"messages":[{"role":"user"}],"tools":5})"), HasSubstr("'tools' must be a list"));
  EXPECT_THAT(read_error(R"({"messages":[{"role":"user"}],"chat_template_kwargs":5})"), HasSubstr("must be an object"));
  const Json row = Json::parse(R"({"instruction":"a"})");
  EXPECT_THAT(error_of<DataError>([&] { row_format(DataFormat::kAlpaca).read(row, {}); }),
              HasSubstr("the row has no column 'output'"));
}

TEST(RowFormat, SharegptRolesSystemAndTools) {
  const Example example = read(R"({"system":"S","conversations":[{"from":"human","value":"q","weight":1},
      {"from":"function_call","value":"{\"name\":\"f\",\"arguments\":{\"x\":1}}"},{"from":"observation","value":"o"},
      {"from":"gpt","value":"a"}],"tools":"[{\"name\":\"f\"}]"})");
  EXPECT_EQ(
      example.messages.dump(),
      R"([{"role":"system","content":"S"},{"role":"user","content":"q","weight":1},)"
      R"({"role":"assistant","content":"","tool_calls":[{"type":"function","function":{"name":"f","arguments":{"x":1}}}]},)"
      R"({"role":"tool","content":"o"},{"role":"assistant","content":"a"}])");
  EXPECT_EQ(example.tools.dump(), R"([{"name":"f"}])");
}

TEST(RowFormat, AlpacaAsChatAndAsHeadings) {
  const std::string row = R"({"instruction":"I","input":"N","output":"O"})";
  EXPECT_EQ(read(row).messages.dump(), R"([{"role":"user","content":"I\nN"},{"role":"assistant","content":"O"}])");
  const Example plain = read(row, {.chat = false});
  EXPECT_EQ(plain.kind, Example::Kind::kCompletion);
  EXPECT_EQ(plain.prompt, "### Instruction:\nI\n\n### Input:\nN\n\n### Response:\n");
  EXPECT_EQ(plain.answer, "O");
  EXPECT_EQ(read(R"({"instruction":"I","input":"","output":"O"})", {.chat = false}).prompt,
            "### Instruction:\nI\n\n### Response:\n");
  EXPECT_EQ(read(R"({"instruction":"I","output":"O","history":[["a","b"]]})").messages.size(), 4U);
  EXPECT_THAT(read_error(R"({"instruction":"I","output":"O","history":[["a","b"]]})", {.chat = false}),
              HasSubstr("chat template"));
}

TEST(RowFormat, PromptCompletionStaysAsItIsOrIsAConversation) {
  const Example plain = read(R"({"prompt":" p ","completion":" c"})");
  EXPECT_EQ(plain.kind, Example::Kind::kCompletion);
  EXPECT_EQ(plain.prompt + plain.answer, " p  c");
  const std::string turns =
      R"({"prompt":[{"role":"user","content":"q"}],"completion":[{"role":"assistant","content":"a"}]})";
  EXPECT_EQ(read(turns).messages.size(), 2U);
  EXPECT_THAT(read_error(turns, {.chat = false}), HasSubstr("needs a chat template"));
}

TEST(RowFormat, PromptTemplateInEveryFormat) {
  const FormatContext context{.chat = true, .prompt_template = "<{extra}|{{}}>"};
  EXPECT_EQ(read(R"({"instruction":"I","output":"O","extra":5})", context).messages[0]["content"], "<5|{}>");
  EXPECT_EQ(read(R"({"text":"t","extra":"x"})", context).answer, "<x|{}>");
  EXPECT_EQ(read(R"({"prompt":"p","completion":"c","extra":null})", context).prompt, "<|{}>");
  const FormatContext content{.chat = true, .prompt_template = "{extra}: {content}"};
  EXPECT_EQ(
      read(R"({"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}],"extra":"x"})", content)
          .messages[0]["content"],
      "x: q");
  EXPECT_THAT(read_error(R"({"text":"t"})", context), HasSubstr("{extra}, but the row's columns are: text"));
  EXPECT_THAT(error_of<DataError>([] { fill_prompt_template("a } b", Json::object()); }), HasSubstr("lone '}'"));
  EXPECT_THAT(error_of<DataError>([] { fill_prompt_template("a {b", Json::object()); }), HasSubstr("lone '{'"));
}

TEST(RowFormat, SystemPromptReplacesOrRemoves) {
  const std::string row =
      R"({"messages":[{"role":"system","content":"old"},{"role":"user","content":"q"},{"role":"assistant","content":"a"}]})";
  EXPECT_EQ(read(row, {.chat = true}, "new").messages[0]["content"], "new");
  EXPECT_EQ(read(row, {.chat = true}, "").messages[0]["role"], "user");
  EXPECT_EQ(read(R"({"prompt":"p","completion":"c"})", {}, "S").prompt, "S\n\np");
  const std::string own = R"({"instruction":"I","output":"O","system":"old"})";
  EXPECT_THAT(read(own, {}).prompt, StartsWith("old\n\n###"));
  EXPECT_THAT(read(own, {}, "new").prompt, StartsWith("new\n\n###"));
  EXPECT_THAT(read(own, {}, "").prompt, StartsWith("###"));
}

constexpr const char* kTables = R"([{"db_id":"shop","table_names_original":["item","order line"],
  "column_names_original":[[-1,"*"],[0,"id"],[0,"name"],[1,"item_id"],[1,"count"]],
  "column_types":["text","number","text","number","number"],"primary_keys":[1,[3,4]],"foreign_keys":[[3,1]]}])";
constexpr const char* kCreate =
    "CREATE TABLE item (\n  id number,\n  name text,\n  PRIMARY KEY (id)\n);\n\n"
    "CREATE TABLE \"order line\" (\n  item_id number,\n  count number,\n  PRIMARY KEY (item_id, count),\n"
    "  FOREIGN KEY (item_id) REFERENCES item (id)\n);";

TEST(Spider, PromptStyles) {
  const TemporaryFolder folder;
  const Schemas schemas(folder.write("tables.json", kTables), "");
  const std::string row = R"({"question":"How many?","query":"SELECT 1","db_id":"shop"})";
  FormatContext context{.chat = true, .schemas = &schemas};
  const Example question = read(row, context);
  ASSERT_EQ(question.messages.size(), 3U);
  EXPECT_THAT(question.messages[0]["content"].get<std::string>(), HasSubstr("SQL expert"));
  EXPECT_EQ(question.messages[1]["content"], "Database: shop\nQuestion: How many?\nAnswer with the SQL query only.");
  EXPECT_EQ(question.messages[2]["content"], "SELECT 1");
  context.prompt_style = PromptStyle::kSchema;
  EXPECT_THAT(read(row, context).messages[1]["content"].get<std::string>(),
              HasSubstr(std::string("Database: shop\n\n") + kCreate));
  context.prompt_style = PromptStyle::kContext;
  context.chat = false;
  EXPECT_EQ(read(row, context, "").prompt,
            std::string("### Input:\nHow many?\n\n### Context:\n") + kCreate + "\n\n### Response:\n");
  const std::string own_schema = R"({"question":"q","answer":"A","context":"CREATE TABLE t (a);"})";
  const std::string instruction =
      "You are an SQL expert. Write the SQL query that answers the question in the input, "
      "over the tables in the context.";
  const std::string user = "### Input:\nq\n\n### Context:\nCREATE TABLE t (a);";
  EXPECT_EQ(read(own_schema, context).prompt, instruction + "\n\n" + user + "\n\n### Response:\n");
  context.chat = true;
  EXPECT_EQ(read(own_schema, context).messages, Json({{{"role", "system"}, {"content", instruction}},
                                                      {{"role", "user"}, {"content", user}},
                                                      {{"role", "assistant"}, {"content", "A"}}}));
  context.chat = false;
  context.prompt_template = "{schema}|{question}";
  EXPECT_EQ(read(row, context).prompt, std::string(kCreate) + "|How many?");
}

TEST(Spider, UnknownDatabasesAreNamed) {
  const TemporaryFolder folder;
  const Schemas schemas(folder.write("tables.json", kTables), folder.path());
  const FormatContext context{.chat = true, .schemas = &schemas};
  EXPECT_THAT(read_error(R"({"question":"q","query":"s","db_id":"zoo"})", context),
              HasSubstr("db_id 'zoo' is not in tables"));
  EXPECT_THAT(error_of<DataError>([&] { schemas.create_tables("zoo"); }), HasSubstr("neither in tables"));
  EXPECT_THAT(error_of<DataError>([&] { schemas.create_tables("../shop"); }), HasSubstr("no plain name"));
  EXPECT_THAT(error_of<DataError>([&] { Schemas(folder.write("bad.json", "[{\"x\":1}]"), ""); }),
              HasSubstr("entry 0 has no db_id"));
  EXPECT_THAT(error_of<DataError>([&] { Schemas("", folder.path() / "none"); }), HasSubstr("none: no such folder"));
  const Schemas broken(folder.write("broken.json", R"([{"db_id":"x","table_names_original":["t"],
      "column_names_original":[[0,"a"],[4,"b"]],"column_types":["text","text"]}])"),
                       "");
  EXPECT_THAT(error_of<DataError>([&] { broken.create_tables("x"); }),
              HasSubstr("the entry of 'x' is malformed: column 1"));
}

TEST(Spider, TheSqliteFileIsReadAndLeftAlone) {
  const TemporaryFolder folder;
  std::filesystem::create_directories(folder.path() / "a%b");
  const auto file = folder.path() / "a%b" / "a%b.sqlite";
  sqlite3* database = nullptr;
  ASSERT_EQ(sqlite3_open(file.c_str(), &database), SQLITE_OK);
  ASSERT_EQ(sqlite3_exec(database, "CREATE TABLE t (x INT); CREATE TABLE u (y TEXT); CREATE INDEX i ON t (x)", nullptr,
                         nullptr, nullptr),
            SQLITE_OK);
  sqlite3_close(database);
  const auto before = std::filesystem::last_write_time(file);
  EXPECT_EQ(Schemas("", folder.path()).create_tables("a%b"), "CREATE TABLE t (x INT);\n\nCREATE TABLE u (y TEXT);");
  EXPECT_EQ(std::filesystem::last_write_time(file), before);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(file.parent_path()), {}), 1);
  folder.write("bad/bad.sqlite", "this is no database, whatever its name says, and it is long enough to be looked at");
  EXPECT_THAT(error_of<DataError>([&] { Schemas("", folder.path()).create_tables("bad"); }),
              HasSubstr("cannot be read as a SQLite database"));
}

}  // namespace
}  // namespace qlora
