// A small set of options of its own: what is read, and the text of every complaint.
#include "qlora/core/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "qlora/core/describe.h"
#include "qlora/core/error.h"
#include "qlora/core/flags.h"
#include "qlora/core/yaml.h"

namespace qlora {
namespace {

enum class Colour { kRed, kGreen, kBlue };

struct Source {
  std::string path;
  double weight = 1.0;
  std::optional<int64_t> limit;
};

struct Paint {
  std::string name = "paint";
  int64_t layers = 2;
  double gloss = 0.5;
  bool dry = false;
  Colour colour = Colour::kRed;
  std::optional<int64_t> cans;
  std::optional<std::string> note;
  std::vector<std::string> rooms;
  std::vector<std::string> stops;
  std::vector<Source> sources;
  std::vector<std::pair<std::string, int64_t>> by_room;
  Json extra = Json::object();
  bool shiny = false;
  int64_t once = 0;
};

void declare(Schema<Source>& schema) {
  schema.key("path", &Source::path, "A path.");
  schema.key("weight", &Source::weight, "A weight.").above(0);
  schema.key("limit", &Source::limit, "A limit.").at_least(1);
  schema.shorthand("path");
}

void declare(Schema<Paint>& schema) {
  using P = Paint;
  schema.key("name", &P::name, "Its name.").synonyms({"title"});
  schema.key("layers", &P::layers, "How many.").at_least(1).at_most(9).synonyms({"coats"});
  schema.key("gloss", &P::gloss, "How glossy.")
      .at_least(0)
      .below(1)
      .synonym("shine", "a number, which is divided by layers",
               [](const std::string& text, const Lookup& lookup) -> std::optional<std::string> {
                 double shine = 0, layers = 0;
                 if (!text_to(text, shine) || !text_to(lookup("layers"), layers)) return std::nullopt;
                 return std::to_string(shine / layers);
               });
  schema.key("dry", &P::dry, "Let it dry.").synonym("wet", {{"true", "false"}, {"false", "true"}});
  schema.key("colour", &P::colour, "Which colour.")
      .choices({{"red", Colour::kRed}, {"green", Colour::kGreen}, {"no", Colour::kBlue}})
      .spelt({{"rouge", "red"}})
      .not_built_yet({"green"});
  schema.key("cans", &P::cans, "Cans.").at_least(1);
  schema.key("note", &P::note, "A note.");
  schema.key("rooms", &P::rooms, "Rooms.").one_of({"hall", "bath", "cellar"}).not_built_yet({"cellar"});
  schema.key("stops", &P::stops, "Texts.").no_commas();
  schema.key("sources", &P::sources, "Sources.");
  schema.key("by_room", &P::by_room, "A number each.").at_least(1);
  schema.key("extra", &P::extra, "Anything.");
  schema.key("shiny", &P::shiny, "Shiny.").not_built_yet();
  schema.key("once", &P::once, "Of one call.").transient();
  schema.rule("cans",
              [](const P& p) -> std::string { return p.cans && *p.cans < p.layers ? "fewer than layers" : ""; });
}

struct Brush {
  std::string title;  // a key here, a synonym in Paint
  int64_t width = 3;
  double gloss = 0;
};

void declare(Schema<Brush>& schema) {
  schema.key("title", &Brush::title, "Its title.");
  schema.key("width", &Brush::width, "Its width.").at_least(1).synonyms({"breadth"});
  schema.key("gloss", &Brush::gloss, "Another gloss.").at_least(10);
}

const CommandKeys kPaint{"paint", &keys_of<Paint>()};
const CommandKeys kBrush{"brush", &keys_of<Brush>()};

// What reading gives: the options, the complaints, the notes.
struct Read {
  Paint paint;
  std::string problems;
  std::vector<std::string> notes;
};

Read read(const std::string& yaml, const std::vector<std::string>& arguments = {}) {
  Read result;
  Problems problems;
  const Flags flags = parse_flags(arguments, kPaint, {kBrush}, problems);
  const Settings settings{settings_of(parse_yaml(yaml, "c.yaml"), problems), flags.settings};
  apply(settings, kPaint, {kBrush}, &result.paint, problems, result.notes);
  result.problems = problems.text();
  return result;
}

std::string problems_of(const std::string& yaml, const std::vector<std::string>& arguments = {}) {
  return read(yaml, arguments).problems;
}

TEST(Config, NothingGivenIsTheDefaults) {
  const Read result = read("");
  EXPECT_EQ(result.problems, "");
  EXPECT_EQ(to_json(result.paint), to_json(Paint{}));
}

TEST(Config, EveryTypeIsReadBySchemaNotByYaml) {
  const Read result = read(
      "name: 2e-4\nlayers: '3'\ngloss: 2e-4\ndry: yes\ncolour: no\ncans: 7\nnote: ''\nrooms: hall, bath\n"
      "stops: [\"a,b\", no]\nsources: {path: x, weight: 2}\nby_room: {b: 2, a: 1}\nextra: {on: true, n: [1, 2.5, "
      "'x']}\n");
  EXPECT_EQ(result.problems, "");
  EXPECT_EQ(result.paint.name, "2e-4");
  EXPECT_EQ(result.paint.layers, 3);
  EXPECT_EQ(result.paint.gloss, 2e-4);
  EXPECT_TRUE(result.paint.dry);
  EXPECT_EQ(result.paint.colour, Colour::kBlue);
  EXPECT_EQ(result.paint.cans, 7);
  EXPECT_EQ(result.paint.note, "");
  EXPECT_THAT(result.paint.rooms, testing::ElementsAre("hall", "bath"));
  EXPECT_THAT(result.paint.stops, testing::ElementsAre("a,b", "no"));
  ASSERT_EQ(result.paint.sources.size(), 1u);
  EXPECT_EQ(result.paint.sources[0].weight, 2.0);
  EXPECT_EQ(result.paint.by_room[0], (std::pair<std::string, int64_t>("b", 2)));
  EXPECT_EQ(result.paint.extra.dump(), R"({"on":true,"n":[1,2.5,"x"]})");
}

TEST(Config, AKeyWithoutAValueIsNotGiven) {
  const Read result = read("layers:\ncans: null\nnote: ~\nrooms:\nsources:\nextra:\n");
  EXPECT_EQ(result.problems, "");
  EXPECT_EQ(to_json(result.paint), to_json(Paint{}));
}

TEST(Config, AnEntryIsAPathAMapOrAListOfThese) {
  const Paint paint = read("sources: [a, {path: b, limit: 5}]\n").paint;
  ASSERT_EQ(paint.sources.size(), 2u);
  EXPECT_EQ(paint.sources[0].path, "a");
  EXPECT_EQ(paint.sources[1].limit, 5);
  EXPECT_EQ(read("sources: a\n").paint.sources[0].path, "a");
}

TEST(Config, WrongTypesSayWhatWasExpected) {
  EXPECT_EQ(problems_of("layers: abc"), "c.yaml:1:9: layers: expected a whole number, got \"abc\"");
  EXPECT_EQ(problems_of("layers: 1.5"), "c.yaml:1:9: layers: expected a whole number, got \"1.5\"");
  EXPECT_EQ(problems_of("layers: 99999999999999999999"),
            "c.yaml:1:9: layers: expected a whole number, got \"99999999999999999999\"");
  EXPECT_EQ(problems_of("gloss: [1]"), "c.yaml:1:8: gloss: expected a number, got a list");
  EXPECT_EQ(problems_of("gloss: nan"), "c.yaml:1:8: gloss: expected a number, got \"nan\"");
  EXPECT_EQ(problems_of("dry: maybe"), "c.yaml:1:6: dry: expected true or false, got \"maybe\"");
  EXPECT_EQ(problems_of("name: {a: b}"), "c.yaml:1:7: name: expected text, got a map");
  EXPECT_EQ(problems_of("extra: 3"), "c.yaml:1:8: extra: expected a map, got \"3\"");
  EXPECT_EQ(problems_of("by_room: 3"), "c.yaml:1:10: by_room: expected a map from names to a whole number, got \"3\"");
  EXPECT_EQ(problems_of("by_room:\n  a: x"), "c.yaml:2:6: by_room.a: expected a whole number, got \"x\"");
  EXPECT_EQ(problems_of("sources: [[a]]"),
            "c.yaml:1:11: sources: expected a path or a map of path, weight, limit, got a list");
  EXPECT_EQ(problems_of("- a"), "c.yaml:1:1: expected keys and values, got a list");
}

TEST(Config, BoundsAreNamed) {
  EXPECT_EQ(problems_of("layers: 0"), "c.yaml:1:9: layers: 0 is out of range: at least 1, at most 9");
  EXPECT_EQ(problems_of("gloss: 1"), "c.yaml:1:8: gloss: 1 is out of range: at least 0, below 1");
  EXPECT_EQ(problems_of("sources: {path: a, weight: 0}"), "c.yaml:1:28: sources.weight: 0 is out of range: above 0");
}

TEST(Config, ChoicesAreListedAndTheNearestIsNamed) {
  EXPECT_EQ(problems_of("colour: reed"),
            "c.yaml:1:9: colour: expected one of red, green, no, got \"reed\"; did you mean red?");
  EXPECT_EQ(problems_of("rooms: [hall, attic]"),
            "c.yaml:1:15: rooms: expected one of hall, bath, cellar, got \"attic\"");
  EXPECT_EQ(read("colour: false").paint.colour, Colour::kBlue);
  EXPECT_EQ(read("colour: rouge").paint.colour, Colour::kRed);
}

TEST(Config, UnknownKeysNameTheNearest) {
  EXPECT_EQ(problems_of("layrs: 3"), "c.yaml:1:1: layrs: unknown key; did you mean layers?");
  EXPECT_EQ(problems_of("a: 1\nwidht: 3"),
            "c.yaml:1:1: a: unknown key\nc.yaml:2:1: widht: unknown key; did you mean width?");
  EXPECT_EQ(problems_of("sources: {path: a, wieght: 2}"),
            "c.yaml:1:20: sources.wieght: unknown key; did you mean weight?");
}

TEST(Config, DuplicatesNameTheFirst) {
  EXPECT_EQ(problems_of("layers: 1\nlayers: 1"), "c.yaml:2:1: layers: given twice, first at c.yaml:1:1");
  EXPECT_EQ(problems_of("sources: {path: a, path: b}"), "c.yaml:1:20: sources.path: given twice");
  EXPECT_EQ(problems_of("by_room: {a: 1, a: 2}"), "c.yaml:1:17: by_room.a: given twice");
}

TEST(Config, AllProblemsAtOnceInTheOrderOfTheFile) {
  EXPECT_EQ(problems_of("gloss: 7\nlayers: x\nfoo: 1\ncolour: green\n", {"--cans", "0"}),
            "c.yaml:1:8: gloss: 7 is out of range: at least 0, below 1\n"
            "c.yaml:2:9: layers: expected a whole number, got \"x\"\n"
            "c.yaml:3:1: foo: unknown key\n"
            "c.yaml:4:9: colour: green is not built yet\n"
            "--cans: 0 is out of range: at least 1");
}

TEST(Config, WhatIsNotBuiltIsRefusedByNameUnlessItIsTheDefault) {
  EXPECT_EQ(problems_of("colour: green"), "c.yaml:1:9: colour: green is not built yet");
  EXPECT_EQ(problems_of("rooms: [hall, cellar]"), "c.yaml:1:15: rooms: cellar is not built yet");
  EXPECT_EQ(problems_of("shiny: true"), "c.yaml:1:8: shiny: shiny is not built yet");
  EXPECT_EQ(problems_of("shiny: false"), "");
  EXPECT_EQ(problems_of("colour: green", {"--colour", "red"}), "") << "a flag takes the place of what is not built";
}

TEST(Config, SynonymsAreReadWithANote) {
  const Read result = read("coats: 4\nwet: no\nshine: 2\n");
  EXPECT_EQ(result.problems, "");
  EXPECT_EQ(result.paint.layers, 4);
  EXPECT_TRUE(result.paint.dry);
  EXPECT_EQ(result.paint.gloss, 0.5);
  EXPECT_THAT(result.notes,
              testing::ElementsAre("c.yaml:1:1: coats is read as layers", "c.yaml:2:1: wet: no is read as dry: true",
                                   "c.yaml:3:1: shine: 2 is read as gloss: 0.500000"));
  EXPECT_EQ(problems_of("wet: 3"), "c.yaml:1:6: wet: \"3\" has no counterpart in dry (known are true, false)");
  EXPECT_EQ(problems_of("shine: x"),
            "c.yaml:1:8: shine: \"x\" has no counterpart in gloss (a number, which is divided by layers)");
}

TEST(Config, SpellingsOfOneKeyMustAgree) {
  EXPECT_EQ(problems_of("layers: 4\ncoats: 5"),
            "c.yaml:2:1: coats: 5 disagrees with layers: 4 at c.yaml:1:1; both set layers");
  EXPECT_EQ(problems_of("gloss: 5e-1\nshine: 1"), "");
  EXPECT_EQ(problems_of("", {"--layers", "4", "--coats", "5"}),
            "--coats: 5 disagrees with layers: 4 at --layers; both set layers");
  EXPECT_EQ(read("coats: 5", {"--layers", "4"}).paint.layers, 4) << "flags win";
}

TEST(Config, AWrongValueIsReportedThoughAFlagOverrulesIt) {
  EXPECT_EQ(problems_of("layers: x", {"--layers", "4"}), "c.yaml:1:9: layers: expected a whole number, got \"x\"");
}

TEST(Config, KeysOfOtherCommandsAreCheckedAndIgnored) {
  EXPECT_EQ(problems_of("width: 4\nbreadth: 4"), "");
  EXPECT_EQ(problems_of("width: 0"), "c.yaml:1:8: width: 0 is out of range: at least 1");
  EXPECT_EQ(problems_of("breadth: x"), "c.yaml:1:10: width: expected a whole number, got \"x\"");
  EXPECT_THAT(read("", {"--width", "4"}).notes, testing::ElementsAre("--width: width is a key of brush, ignored here"));
}

TEST(Config, ASynonymHoldsOnlyWhereNoKeyHasItsName) {
  EXPECT_EQ(read("title: x").paint.name, "x");
  Brush brush;
  Problems problems;
  std::vector<std::string> notes;
  apply({settings_of(parse_yaml("title: y\ngloss: 11", "c.yaml"), problems), {}}, kBrush, {kPaint}, &brush, problems,
        notes);
  EXPECT_EQ(problems.text(), "");
  EXPECT_EQ(brush.title, "y");
  EXPECT_EQ(brush.gloss, 11.0) << "the key of another command with another range";
  EXPECT_TRUE(notes.empty());
}

TEST(Config, RulesAreCheckedWhereTheKeyWasGiven) {
  EXPECT_EQ(problems_of("layers: 3\ncans: 2"), "c.yaml:2:1: cans: fewer than layers");
  EXPECT_EQ(problems_of("layers: 3", {"cans=2"}), "--cans: fewer than layers");
}

TEST(Config, ADumpLoadsBackToTheSame) {
  const std::string yaml =
      "name: \"a: #b\\n\\\"c\\\" \u00fc\"\nlayers: 4\ngloss: 0.1\ndry: true\ncolour: no\ncans: 9\nnote: ''\nrooms: "
      "[hall]\nstops: ['null', '\\n']\nsources: [a, {path: b, weight: 0.3}]\nby_room: {x: 3}\nextra: {a: {b: "
      "[null]}}\n";
  const Paint paint = read(yaml).paint;
  const Read again = read(to_yaml(paint));
  EXPECT_EQ(again.problems, "");
  EXPECT_EQ(to_json(again.paint), to_json(paint));
  EXPECT_EQ(to_yaml(again.paint), to_yaml(paint));
  EXPECT_EQ(to_yaml(paint).find("once"), std::string::npos) << "a transient key is no part of it";
  EXPECT_THAT(changed_keys(paint, read(yaml, {"--layers=5", "dry=no"}).paint), testing::ElementsAre("layers", "dry"));
}

TEST(Flags, AllFormsSayTheSame) {
  const std::vector<std::vector<std::string>> forms = {
      {"--by-room", "{a: 3}", "--dry", "--layers", "3"},
      {"--by_room={a: 3}", "--dry=true", "--layers=3"},
      {"by_room={\"a\": 3}", "dry=yes", "layers=3"},
      {"--set", "by-room={a: 3}", "--set", "dry=1", "--set", "layers=3"}};
  for (const auto& form : forms) {
    const Read result = read("layers: 2\n", form);
    EXPECT_EQ(result.problems, "");
    EXPECT_EQ(result.paint.layers, 3);
    EXPECT_TRUE(result.paint.dry);
    EXPECT_EQ(result.paint.by_room[0].second, 3);
  }
}

TEST(Flags, ATruthValueMayStandAlone) {
  EXPECT_TRUE(read("", {"--dry", "--layers", "3"}).paint.dry);
  EXPECT_FALSE(read("dry: true", {"--dry", "false", "--layers", "3"}).paint.dry);
  EXPECT_FALSE(read("", {"--wet"}).paint.dry);
  EXPECT_EQ(read("", {"--dry", "layers=4"}).paint.layers, 4);
}

TEST(Flags, AListGrowsAndTheLastOfTheOthersCounts) {
  EXPECT_THAT(read("rooms: bath", {"--rooms", "hall,bath", "--rooms", "hall"}).paint.rooms,
              testing::ElementsAre("hall", "bath", "hall"));
  EXPECT_THAT(read("", {"--stops", "a,b", "--stops", "c"}).paint.stops, testing::ElementsAre("a,b", "c"));
  EXPECT_EQ(read("", {"--layers", "3", "--layers", "4"}).paint.layers, 4);
  EXPECT_EQ(read("", {"--sources", "[{path: x, limit: 2}, y]", "--sources", "z"}).paint.sources.size(), 3u);
}

TEST(Flags, ComplaintsNameTheFlag) {
  EXPECT_EQ(problems_of("", {"--layers", "x"}), "--layers: expected a whole number, got \"x\"");
  EXPECT_EQ(problems_of("", {"--layers"}), "--layers: needs a value");
  EXPECT_EQ(problems_of("", {"--layers", "--dry"}), "--layers: needs a value");
  EXPECT_EQ(problems_of("", {"--layes", "3"}), "--layes: unknown key; did you mean layers?");
  EXPECT_EQ(problems_of("", {"lonely"}), "lonely: expected a flag or key=value");
  EXPECT_EQ(problems_of("", {"--set", "layers"}), "--set: expected key=value, got layers");
  EXPECT_EQ(problems_of("", {"--sources", "[a"}), "--sources:1:1: not YAML: end of sequence flow not found");
  EXPECT_EQ(problems_of("", {"--layers", "-1"}), "--layers: -1 is out of range: at least 1, at most 9");
}

TEST(Flags, NullUnsetsWhatMayBeUnset) {
  EXPECT_EQ(read("cans: 5", {"--cans", "null"}).paint.cans, std::nullopt);
}

TEST(Flags, HelpAndConfigAreFound) {
  Problems problems;
  const Flags flags = parse_flags({"--config", "x.yaml", "-h"}, kPaint, {}, problems);
  EXPECT_TRUE(flags.help);
  EXPECT_EQ(flags.config, "x.yaml");
}

TEST(Describe, HelpNamesEveryKeyItsValuesDefaultAndRefusals) {
  const std::string help = help_text({kPaint, "paints"});
  for (const auto& key : keys_of<Paint>().keys) EXPECT_NE(help.find("--" + key->name), std::string::npos) << key->name;
  EXPECT_NE(help.find("How many. [a whole number, at least 1, at most 9] (default: 2) (also: coats)"),
            std::string::npos)
      << help;
  EXPECT_NE(help.find("[red | green | no] (default: red) (not built yet: green)"), std::string::npos) << help;
}

TEST(Describe, TheReferenceEscapesBars) {
  const std::string page = reference_page({{kPaint, "paints"}});
  EXPECT_NE(
      page.find("| `colour` | red \\| green \\| no | `red` | Which colour. Not built yet: green. | rouge for red |"),
      std::string::npos)
      << page;
}

TEST(LoadOptions, ThrowsAllProblemsAsOneUsageError) {
  const std::filesystem::path path = std::filesystem::path(testing::TempDir()) / "paint.yaml";
  std::FILE* file = std::fopen(path.c_str(), "w");
  std::fputs("layers: 0\nwidth: 3\n", file);
  std::fclose(file);
  try {
    load_options<Paint>(path);
    FAIL() << "was accepted";
  } catch (const UsageError& error) {
    EXPECT_EQ(error.what(), path.string() + ":1:9: layers: 0 is out of range: at least 1, at most 9\n" + path.string() +
                                ":2:1: width: unknown key");
  }
}

}  // namespace
}  // namespace qlora
