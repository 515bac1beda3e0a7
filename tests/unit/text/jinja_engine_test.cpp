// The template engine: language, scoping, white space. Expectations are jinja2's own answers.
#include <functional>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "qlora/core/error.h"
#include "qlora/text/chat_template.h"

namespace qlora {
namespace {

const Json& variables() {
  static const Json kVariables = Json::parse(R"({"n": 7, "s": "hello world", "list": [3, 1, 2], "nil": null,
    "d": {"b": 1, "a": "x", "items": "shadow"}, "html": "<a>", "people": [{"name": "Bo", "age": 3}, {"name": "al", "age": 1}]})");
  return kVariables;
}

std::string render(const std::string& source) {
  return ChatTemplate::parse(source, "t")->render(variables());
}

struct Case {
  std::string source, expected;
};

class Renders : public ::testing::TestWithParam<Case> {};

TEST_P(Renders, AsJinja2Does) {
  EXPECT_EQ(render(GetParam().source), GetParam().expected) << GetParam().source;
}

INSTANTIATE_TEST_SUITE_P(
    Expressions, Renders,
    ::testing::Values(
        Case{"{{ 1 + 2 * 3 }}|{{ -7 // 2 }}|{{ -7 % 3 }}|{{ 7 / 2 }}|{{ 2 ** 3 ** 2 }}|{{ -2 ** 2 }}",
             "7|-4|2|3.5|64|4"},
        Case{"{{ 1 < 2 < 3 }}|{{ 1 in list }}|{{ 'zz' not in s }}|{{ 1 == 1.0 }}", "True|True|True|True"},
        Case{"{{ s[::-1] }}|{{ s[-5:-1] }}|{{ list[1:] }}|{{ list[::-2] }}", "dlrow olleh|worl|[1, 2]|[2, 3]"},
        Case{"{{ none }}|{{ true }}|{{ 1.0 }}|{{ 1e22 }}|{{ [1, 'a', none] }}|{{ {'k': \"it's\"} }}",
             "None|True|1.0|1e+22|[1, 'a', None]|{'k': \"it's\"}"},
        Case{"[{{ missing }}{{ d.zz }}{{ nil.x }}]{{ missing is defined }}", "[]False"},
        Case{"{{ 0 or 'x' }}|{{ 1 and 2 }}|{{ 'a' if no else 'b' }}|{{ not s }}", "x|2|b|False"},
        Case{"{{ 'a' ~ 1 ~ none }}|{{ 'ab' * 2 }}|{{ [1] + [2] }}", "a1None|abab|[1, 2]"},
        Case{"{{ d.items() | list | length }}{{ d['items'] }}", "3shadow"},
        Case{"{{ '%s-%05.1f' % ('a', 2.25) }}|{{ '{:>4}{x}'.format('a', x=1) }}", "a-002.2|   a1"},
        Case{"{{ 'Straße ΌΣ'.upper() }}|{{ 'ΌΣ'.lower() }}|{{ 'they are'|title }}", "STRASSE ΌΣ|ός|They Are"},
        Case{"{{ html + html|safe }}|{{ html|e }}|{{ html ~ html|safe }}", "&lt;a&gt;<a>|&lt;a&gt;|<a><a>"}));

INSTANTIATE_TEST_SUITE_P(
    Filters, Renders,
    ::testing::Values(
        Case{"{{ {'a': [1, none, 'é\"']}|tojson }}", "{\"a\": [1, null, \"é\\\"\"]}"},
        Case{"{{ [1, {}]|tojson(indent=2) }}", "[\n  1,\n  {}\n]"},
        Case{"{{ people|map(attribute='name')|join('+') }}|{{ people|selectattr('age', 'gt', 1)|list|length }}",
             "Bo+al|1"},
        Case{"{{ list|sort }}{{ list|sum }}{{ list|max }}{{ list|first }}{{ list|last }}", "[1, 2, 3]6332"},
        Case{"{{ missing|default('x') }}{{ ''|d('y', true) }}{{ '42.9'|int }}{{ 2.5|round }}", "xy422.0"},
        Case{"{{ 'a\nb'|indent(2) }}|{{ 'a b c d e f g'|truncate(5, leeway=0) }}", "a\n  b|a..."}));

INSTANTIATE_TEST_SUITE_P(
    Statements, Renders,
    ::testing::Values(
        Case{"{% for x in list %}{{ loop.index }}{{ x }}{{ ',' if not loop.last }}{% endfor %}", "13,21,32"},
        Case{"{% for x in list if x > 1 %}{{ x }}{{ loop.length }}{% endfor %}", "3222"},
        Case{"{% for x in list if x > 2 %}{{ x }}{{ loop.last }}{% endfor %}", "3True"},
        Case{"{% for x in [] %}x{% else %}none{% endfor %}", "none"},
        Case{"{% for x in list %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% break %}{% endfor %}", "3"},
        Case{"{% set y = 0 %}{% for x in list %}{% set y = y + x %}{% endfor %}{{ y }}", "0"},
        Case{"{% set ns = namespace(y=0) %}{% for x in list %}{% set ns.y = ns.y + x %}{% endfor %}{{ ns.y }}", "6"},
        Case{"{% if no %}{% set n = 1 %}{% endif %}{{ n }}", "7"},
        Case{"{% macro m(a, b=2) %}{{ a }}{{ b }}{{ late }}{% endmacro %}{% set late = 'L' %}{{ m(1) }}{{ m(b=3) }}",
             "12L3L"},
        Case{"{% macro m() %}<{{ caller(1) }}>{% endmacro %}{% call(x) m() %}{{ x }}{{ n }}{% endcall %}", "<17>"},
        Case{"{% for x in [[1, [2]]] recursive %}{{ x if x is number else loop(x) }}{% endfor %}", "12"},
        Case{"{% set x %}a{% endset %}{% filter upper %}{{ x }}b{% endfilter %}", "AB"},
        Case{"{% generation %}{% set g = 1 %}text{% endgeneration %}{{ g }}", "text"},
        Case{"  {% if true %}\n  a\n  {%- endif %}\nb\n", "  ab"},
        Case{"{# c #}\n{% raw %}{{ x }}{% endraw %}", "{{ x }}"}));

class Fails : public ::testing::TestWithParam<Case> {};

TEST_P(Fails, WithTheReason) {
  try {
    const std::string text = render(GetParam().source);
    FAIL() << GetParam().source << " rendered " << text;
  } catch (const DataError& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr(GetParam().expected)) << GetParam().source;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Errors, Fails,
    ::testing::Values(Case{"{{ missing.x }}", "'missing' is undefined"}, Case{"{{ d.zz.y }}", "has no attribute 'zz'"},
                      Case{"{{ 1 + 'a' }}", "unsupported operand"}, Case{"{{ 1 / 0 }}", "division by zero"},
                      Case{"{{ s|nope }}", "no filter named 'nope'"}, Case{"{{ s is nope }}", "no test named 'nope'"},
                      Case{"{% if n %}", "unexpected end of template"}, Case{"{% nope %}", "unknown tag 'nope'"},
                      Case{"{{ (1 }}", "unexpected '}'"}, Case{"{{ 'a }}", "unexpected char"},
                      Case{"{% break %}", "outside loop"}, Case{"{% include 'x' %}", "cannot be used"},
                      Case{"{% set d.x = 1 %}", "non-namespace"}, Case{"{{ list.append(1) }}", "unsafe"},
                      Case{"{{ d.update(a=1) }}", "unsafe"}, Case{"{{ s.__class__.__mro__ }}", "unsafe"},
                      Case{"{{ ''|attr('__class__')|attr('x') }}", "unsafe"},
                      Case{"{{ 9223372036854775807 + 1 }}", "64 bits"}, Case{"{{ raise_exception('boom') }}", "boom"},
                      Case{"{% for loop in list %}{% endfor %}", "'loop'"}, Case{"{{ f(a=1, a=2) }}", "repeated"}));

}  // namespace
}  // namespace qlora
