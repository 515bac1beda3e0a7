// Templates that want to exhaust time, memory or stack: each ends with an error, soon.
#include <sys/resource.h>

#include <ctime>
#include <string>

#include <gtest/gtest.h>

#include "qlora/core/error.h"
#include "qlora/text/chat_template.h"

namespace qlora {
namespace {

std::string repeated(const std::string& text, int count) {
  std::string out;
  for (int i = 0; i < count; ++i) out += text;
  return out;
}

long peak_kib() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss;
}

class Hostile : public ::testing::TestWithParam<std::string> {};

TEST_P(Hostile, IsStopped) {
  constexpr double kSeconds = 30;  // of the processor; an order above what is needed, for sanitizers
  constexpr long kMemoryKib = 1'500'000;
  const long before = peak_kib();
  const std::clock_t start = std::clock();
  EXPECT_THROW(
      {
        const auto chat_template = ChatTemplate::parse(GetParam(), "hostile");
        (void)chat_template->render(Json::object());
      },
      DataError)
      << GetParam().substr(0, 100);
  EXPECT_LT(static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC, kSeconds);
  EXPECT_LT(peak_kib() - before, kMemoryKib);
}

const std::string kThousands = "{% for a in range(100000) %}";

INSTANTIATE_TEST_SUITE_P(
    Templates, Hostile,
    ::testing::Values(
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}",
        "{% macro m(x) %}" + repeated("{% if true %}", 100) + "{{ m(x) }}" + repeated("{% endif %}", 100) +
            "{% endmacro %}{{ m(1) }}",
        "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}", "{{ range(1000000000)|list }}",
        kThousands + "{% for b in range(100000) %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(s='xx') %}" + kThousands + "{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "{% set ns = namespace(s='xx') %}" + kThousands + "{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{% set ns = namespace(l=[1]) %}" + kThousands + "{% set ns.l = ns.l + ns.l %}{% endfor %}",
        "{{ 'x' * 1000000000000 }}", "{{ ['x'] * 1000000000000 }}", "{{ 'x' * (2 ** 62) }}",
        "{{ '%1000000000d' % 1 * 1000 }}", "{{ 'x'.ljust(1000000000000) }}", "{{ 'x'.zfill(1000000000000) }}",
        "{{ '{:>1000000000}'.format(1) * 1000 }}", "{{ 'x'|center(1000000000000) }}",
        "{{ 'a\nb'|indent(1000000000000) }}", "{{ ('x' * 100000).replace('', 'y' * 100000) }}",
        "{{ ('x' * 100000)|list|join('y' * 100000) }}", kThousands + "{{ 'x' * 10000 }}{% endfor %}",
        "{% set ns = namespace(l=1) %}" + kThousands + "{% set ns.l = [ns.l] %}{% endfor %}",
        "{% set ns = namespace(l=1) %}" + kThousands + "{% set ns.l = ns.l|map('string') %}{% endfor %}{{ ns.l|list }}",
        "{% set ns = namespace(l=[1]) %}{% for a in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l }}",
        "{% set ns = namespace(l=[1]) %}{% for a in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ "
        "ns.l|tojson }}",
        "{% set ns = namespace(l=[1], m=[1]) %}{% for a in range(60) %}{% set ns.l = [ns.l, ns.l] %}"
        "{% set ns.m = [ns.m, ns.m] %}{% endfor %}{{ ns.l == ns.m }}",
        "{% set ns = namespace() %}{% set ns.self = ns %}{{ ns }}",
        "{% set ns = namespace() %}{% set ns.l = [ns] %}{{ ns.l|string }}",
        kThousands + kThousands + "{% set x = namespace(a=1) %}{% endfor %}{% endfor %}",
        kThousands + kThousands + "{% macro m() %}{% endmacro %}{% endfor %}{% endfor %}",
        "{{ " + repeated("(", 100000) + "1" + repeated(")", 100000) + " }}",
        "{{ " + repeated("[", 100000) + "1" + repeated("]", 100000) + " }}", "{{ " + repeated("not ", 100000) + "1 }}",
        "{{ " + repeated("-", 100000) + "1 }}", "{{ a" + repeated(".a", 100000) + " }}",
        "{{ a" + repeated("|list", 100000) + " }}", "{{ 1" + repeated(" - 1", 100000) + " }}",
        "{{ 1" + repeated(" and 1", 100000) + " }}", "{{ 1" + repeated(" if 1 else 1", 100000) + " }}",
        repeated("{% if 1 %}", 100000),
        "{% set ns = namespace(d={}) %}" + kThousands + "{% set ns.d = dict(ns.d, **{a ~ '': a}) %}{% endfor %}"));

TEST(HostileNamespaces, ChainsAndCyclesAreFreed) {
  const auto chat_template = ChatTemplate::parse(
      "{% set ns = namespace() %}{% set ns.head = ns %}{% for a in range(50000) %}{% set fresh = namespace() %}"
      "{% set fresh.next = ns.head %}{% set ns.head = fresh %}{% endfor %}ok",
      "t");
  EXPECT_EQ(chat_template->render(Json::object()), "ok");
}

TEST(HostileAccess, NothingOfTheHostIsReachable) {
  for (const std::string source :
       {"{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ range.__globals__ }}x{{ range.__globals__.os }}",
        "{{ namespace.__init__.__globals__ }}{{ namespace.__init__.__globals__.os }}", "{% include '/etc/passwd' %}",
        "{{ open('/etc/passwd').read() }}", "{{ os.environ }}{{ os.environ.x }}",
        "{{ '{0.__class__.__mro__}'.format(1) }}{{ x.y }}", "{{ lipsum.__globals__['os'].popen('id').read() }}",
        "{{ joiner.__init__.__globals__.os }}"}) {
    EXPECT_THROW((void)ChatTemplate::parse(source, "t")->render(Json::object()), DataError) << source;
  }
}

}  // namespace
}  // namespace qlora
