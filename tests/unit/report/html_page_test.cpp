#include "qlora/report/html_page.h"

#include <cmath>
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "qlora/report/eval_page.h"
#include "qlora/report/model_card.h"

namespace qlora {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

size_t count(const std::string& text, const std::string& part) {
  size_t found = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

TEST(HtmlPage, EscapesAllText) {
  EXPECT_EQ(escape_html("<a href=\"x\">&'"), "&lt;a href=&quot;x&quot;&gt;&amp;&#39;");
  const std::string evil = "<script>alert(1)</script>";
  HtmlPage page(evil);
  page.heading(evil).paragraph(evil).table({{evil}, {evil}}).facts({{evil, evil}}).fold(evil, "");
  const std::string html = page.str();
  EXPECT_EQ(count(html, "<script>"), 1u) << "the page's own alone";
  EXPECT_EQ(count(html, "&lt;script&gt;"), 9u);
}

TEST(HtmlPage, NeedsNothingFromOutside) {
  const std::string html = HtmlPage("t").table({{"a", "b"}, {"x", "1.5 %"}}).str();
  EXPECT_THAT(html, Not(HasSubstr("http")));
  EXPECT_THAT(html, HasSubstr("prefers-color-scheme: dark"));
  EXPECT_THAT(html, HasSubstr("@media print"));
  EXPECT_THAT(html, HasSubstr("name=\"viewport\""));
  EXPECT_THAT(html, HasSubstr("<td class=\"num\">1.5 %</td>"));
  EXPECT_THAT(html, HasSubstr("<td>x</td>"));
}

TEST(Svg, LinesLeaveGapsAndStayBounded) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const std::string chart = svg_line_chart({{"loss", {{1, 2.0}, {2, nan}, {3, 1.0}, {4, 0.5}}}}, "step", "loss");
  EXPECT_EQ(count(chart, "M"), 2u) << "a gap at the NaN";
  EXPECT_THAT(chart, Not(HasSubstr("nan")));
  Series longer{"x", {}};
  for (int i = 0; i < 200000; ++i) longer.points.emplace_back(i, i == 77777 ? 100.0 : std::sin(i));
  const std::string thinned = svg_line_chart({longer}, "step", "loss");
  EXPECT_LT(thinned.size(), 40000u);
  EXPECT_THAT(thinned, HasSubstr(" 24.0 ")) << "the spike is kept, at the top";
  EXPECT_THAT(svg_line_chart({}, "x", "y"), Not(HasSubstr("inf")));
}

TEST(Svg, HistogramCountsEveryValueOnce) {
  const std::string svg = svg_histogram({1, 1, 2, 3, 3, 3}, "tokens", 2);
  EXPECT_THAT(svg, HasSubstr("1 to 2: 2"));
  EXPECT_THAT(svg, HasSubstr("2 to 3: 4"));
  EXPECT_THAT(svg_histogram({}, "x"), Not(HasSubstr("nan")));
  EXPECT_THAT(svg_histogram({5, 5}, "x"), Not(HasSubstr("nan")));
}

TEST(Svg, BarsSayTheirShare) {
  const std::string svg = svg_bars({"base", "tuned"}, {{"exact", {0.25, 1.5}}});
  EXPECT_THAT(svg, HasSubstr("25.0 %"));
  EXPECT_THAT(svg, HasSubstr("100.0 %"));
}

Json sample_report() {
  const Json task = {{"n", 2},
                     {"overall", {{"execution", 0.5}}},
                     {"by", {{"easy", {{"n", 2}, {"execution", 0.5}}}}},
                     {"extracted", {{"execution", 1.0}}}};
  const Json pair = {{"base", 0.5},    {"tuned", 1.0},          {"wins", 1}, {"losses", 0}, {"ties", 1},
                     {"p_value", 1.0}, {"interval", {0.0, 1.0}}};
  Json pair_by = pair;
  pair_by["by"]["hard"] = pair;
  return {{"runs", {{"base", {{"tasks", {{"spider", task}}}}}, {"tuned", {{"tasks", {{"spider", task}}}}}}},
          {"paired", {{"tuned", {{"spider", {{"execution", pair_by}}}}}}}};
}

TEST(EvalPage, ShowsRunsPairsAndFlips) {
  FlippedAnswer flip;
  flip.run = "tuned";
  flip.question = "How <many>?";
  flip.gold = "SELECT 1";
  flip.base_answer = "I think & so";
  flip.base_error = "not executed";
  flip.won = true;
  flip.gold_result = "3 | <x>";
  const std::string html = eval_page(sample_report(), {flip}, "execution");
  for (const char* part :
       {"50.00 %", "100.00 %", "tuned against base", "+50.00", "Won: 1", "Lost: 0", "How &lt;many&gt;?",
        "I think &amp; so", "-- not executed", "base, extracted", "3 | &lt;x&gt;", ">of</button>", ">hard</td>"}) {
    EXPECT_THAT(html, HasSubstr(part));
  }
}

TEST(EvalPage, ShowsLossesAsPlainNumbers) {
  const Json task = {{"n", 2}, {"overall", {{"loss", 2.5}, {"perplexity", 12.18}}}};
  const Json pair = {{"base", 2.5},    {"tuned", 1.25},           {"wins", 2}, {"losses", 0}, {"ties", 0},
                     {"p_value", 0.5}, {"interval", {-1.5, -1.0}}};
  const std::string html = eval_page({{"runs", {{"base", {{"tasks", {{"perplexity", task}}}}}}},
                                      {"paired", {{"t", {{"perplexity", {{"loss", pair}}}}}}}},
                                     {}, "");
  for (const char* part : {">2.5<", ">12.18<", ">1.25<", ">-1.25<", ">-1.5<", ">-1<"})
    EXPECT_THAT(html, HasSubstr(part));
  EXPECT_THAT(html, Not(HasSubstr("250.00 %")));
  EXPECT_THAT(html, Not(HasSubstr("<svg")));  // bars are shares
}

TEST(EvalPage, StaysAPageWithManyFlips) {
  FlippedAnswer flip;
  flip.won = true;
  const std::string html = eval_page(sample_report(), std::vector<FlippedAnswer>(100000, flip), "execution");
  EXPECT_LT(html.size(), 2u << 20);
  EXPECT_THAT(html, HasSubstr("98000 more"));
}

TEST(ModelCard, HasTheHubsFrontMatter) {
  ModelCard card{"my-adapter", "Qwen/Qwen2.5-0.5B", "qlora", {"owner/data", "/tmp/rows.json"}, {{"rows", "10|2"}},
                 {},           "qlora chat"};
  const std::string text = model_card(card);
  EXPECT_EQ(
      text.rfind("---\nbase_model: \"Qwen/Qwen2.5-0.5B\"\nlibrary_name: peft\npipeline_tag: text-generation\n", 0), 0u);
  EXPECT_THAT(text, HasSubstr("- \"base_model:adapter:Qwen/Qwen2.5-0.5B\"\n- lora\n- qlora\n"));
  EXPECT_THAT(text, HasSubstr("datasets:\n- \"owner/data\"\n---\n"));
  EXPECT_THAT(text, HasSubstr("| rows | 10\\|2 |"));
  EXPECT_THAT(text, HasSubstr("```\nqlora chat\n```"));
  card.method = "full";
  EXPECT_THAT(model_card(card), HasSubstr("library_name: transformers"));
}

TEST(ModelCard, FrontMatterSurvivesOddNames) {
  const ModelCard card{"x", "a\"b\\c\n---\nlicense: evil", "lora", {}, {}, {}, ""};
  EXPECT_THAT(model_card(card), HasSubstr("base_model: \"a\\\"b\\\\c\\x0a---\\x0alicense: evil\"\n"));
}

TEST(ModelCard, HubIds) {
  EXPECT_TRUE(is_hub_id("Qwen/Qwen2.5-0.5B"));
  for (const char* text : {"data", "/data", "a/b/c", "./data", "a b/c", "a/"}) EXPECT_FALSE(is_hub_id(text)) << text;
}

}  // namespace
}  // namespace qlora
