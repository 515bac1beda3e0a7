"""Tests and statements among the snippets of chat_template_snippets.py."""

TESTS = """
s is defined
missing is defined
missing is undefined
missing is not defined
d.zz is defined
d.zz.y is defined
nil is none
missing is none
s is string
(s|safe) is string
n is string
n is number
t is number
f is number
s is number
n is integer
t is integer
f is float
n is float
t is boolean
n is boolean
t is true
n is true
no is false
zero is false
d is mapping
list is mapping
list is iterable
s is iterable
n is iterable
missing is iterable
nil is iterable
(list|map("abs")) is iterable
(list|map("abs")) is sequence
list is sequence
s is sequence
d is sequence
n is sequence
missing is sequence
range(3) is sequence
d.keys() is sequence
n is odd
n is even
zero is even
s is odd
nil is odd
f is even
n is divisibleby 7
n is divisibleby(3)
n is divisibleby 0
n is divisibleby
n is eq 7
n is equalto 7
n is == 7
n is ne 7
n is != 7
n is gt 5
n is greaterthan 5
n is ge 7
n is lt 5
n is lessthan 8
n is le 7
s is lt 5
1 is in list
9 is not in list
"a" is in "abc"
1 is in 5
s is lower
s is upper
"ABC" is upper
"123" is lower
5 is lower
s.upper is callable
s is callable
range is callable
missing is callable
namespace() is callable
raise_exception is callable
t is sameas true
1 is sameas true
nil is sameas none
s is escaped
(s|safe) is escaped
"upper" is filter
"nope" is filter
"odd" is test
s is nope
s is defined and n is odd
s is not none and s is string
not s is string
s is string if t else 5
n is divisibleby 7 and t
n is defined == true
s is defined is defined
s is defined(1)
n is eq
[1, 2] is eq [1, 2]
s is not nope
"""

STATEMENTS = [
    "{% if t %}a{% elif no %}b{% else %}c{% endif %}",
    "{% if no %}a{% elif t %}b{% else %}c{% endif %}",
    "{% if no %}a{% elif no %}b{% else %}c{% endif %}",
    "{% if no %}{{ s|nope }}{% endif %}ok",
    "{% if t %}{{ s|nope }}{% endif %}ok",
    "{{ s|nope if no else 'fine' }}",
    "{% if no %}{% for x in list %}{{ x|nope }}{% endfor %}{% endif %}",
    "{% for x in list %}{{ x }}{% endfor %}",
    "{% for x in list %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }}{{ loop.depth0 }};{% endfor %}",
    "{% for x in list %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }} {% endfor %}",
    "{% for x in list %}{{ loop.previtem is defined }}{{ loop.nextitem is defined }}{% endfor %}",
    "{% for x in list %}{{ loop.cycle('a', 'b') }}{% endfor %}",
    "{% for x in [1,1,2,2,1] %}{{ loop.changed(x) }}{% endfor %}",
    "{% for x in list %}{{ loop }}{% endfor %}",
    "{% for x in list %}{{ loop|length }}{{ loop.nope }}{{ loop['index'] }}{% endfor %}",
    "{% for x in docs %}{{ x }}{% else %}none{% endfor %}",
    "{% for x in list %}{{ x }}{% else %}none{% endfor %}",
    "{% for x in missing %}{{ x }}{% else %}none{% endfor %}",
    "{% for x in nil %}{{ x }}{% endfor %}",
    "{% for x in 5 %}{{ x }}{% endfor %}",
    "{% for x in list if x > 1 %}{{ loop.index }}:{{ x }}/{{ loop.length }}{{ loop.last }} {% endfor %}",
    "{% for x in list if x > 2 %}{{ loop.last }}{{ loop.nextitem is defined }}{{ loop.length }}{% endfor %}",
    "{% for x in list if x > 5 %}{{ x }}{% else %}none{% endfor %}",
    "{% for x in list if loop.index %}{{ x }}{% endfor %}",
    "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}",
    "{% for k, v in d|dictsort %}{{ k }}={{ v }};{% endfor %}",
    "{% for a, b in nested %}{{ a }}{% endfor %}",
    "{% for (a, b), c in [[[1, 2], 3]] %}{{ a }}{{ b }}{{ c }}{% endfor %}",
    "{% for k in d %}{{ k }}{% endfor %}",
    "{% for c in 'héy' %}[{{ c }}]{% endfor %}",
    "{% for x in range(10) %}{% if x == 3 %}{% continue %}{% endif %}{% if x == 6 %}{% break %}{% endif %}{{ x }}{% endfor %}",
    "{% for x in list %}{% continue %}{% else %}else{% endfor %}",
    "{% for x in list %}{{ x }}{% break %}{% else %}else{% endfor %}",
    "{% for x in list %}{% if loop.last %}{% continue %}{% endif %}{{ x }}{% else %}else{% endfor %}",
    "{% break %}",
    "{% for x in list %}{% macro m() %}{% break %}{% endmacro %}{% endfor %}",
    "{% for x in list %}{% generation %}{% break %}{% endgeneration %}{% endfor %}",
    "{% for x in list %}{% for y in list %}{{ loop.index }}{{ x * y }} {% endfor %}{{ loop.index }}|{% endfor %}",
    "{% for x in [{'n': 1, 'c': [{'n': 2, 'c': []}, {'n': 3, 'c': [{'n': 4, 'c': []}]}]}] recursive %}{{ loop.depth }}:{{ x.n }}({{ loop(x.c) }}){% endfor %}",
    "{% for x in list recursive %}{{ x }}{% if loop.depth < 3 %}[{{ loop(list) }}]{% endif %}{% else %}E{% endfor %}",
    "{% for x in list %}{{ loop(list) }}{% endfor %}",
    "{% for x in list %}{% set y = x %}{% endfor %}{{ y }}",
    "{% set y = 0 %}{% for x in list %}{% set y = y + x %}{{ y }}{% endfor %}={{ y }}",
    "{% set ns = namespace(y=0) %}{% for x in list %}{% set ns.y = ns.y + x %}{% endfor %}{{ ns.y }}",
    "{% set ns = namespace() %}{% set ns._x = 1 %}",
    "{% set ns = namespace(a=1) %}{{ ns.a }}{{ ns.b }}{{ ns['a'] }}{{ ns.b is defined }}{{ ns.items }}",
    "{% set ns = namespace(a=1) %}{{ 'a' in ns }}",
    "{% set ns = namespace(a=1) %}{% set ns.b, c = 2, 3 %}{{ ns.b }}{{ c }}",
    "{% set d.x = 1 %}",
    "{% set nope.x = 1 %}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}",
    "{% set a, b = list %}{{ a }}",
    "{% set a, b = 1 %}{{ a }}",
    "{% set a = 1, 2 %}{{ a }}",
    "{% set true = 1 %}",
    "{% set x %}a{{ n }}b{% endset %}[{{ x }}]{{ x is string }}",
    "{% set x|upper %}a{{ n }}b{% endset %}{{ x }}",
    "{% set x|replace('a', 'z')|upper %}a{{ n }}b{% endset %}{{ x }}",
    "{% set x %}{% set inner = 5 %}{{ inner }}{% endset %}{{ x }}{{ inner }}",
    "{% if t %}{% set z = 5 %}{% endif %}{{ z }}",
    "{% if no %}{% set z = 5 %}{% endif %}{{ z }}|{{ z is defined }}",
    "{% if no %}{% set n = 5 %}{% endif %}{{ n }}",
    "{{ n }}{% set n = 5 %}{{ n }}",
    "{% for x in list %}{{ n }}{% set n = x %}{{ n }}{% endfor %}{{ n }}",
    "{% for x in list %}{% if loop.first %}{% set q = 'f' %}{% endif %}{{ q }}{% endfor %}",
    "{% set q = 'out' %}{% for x in list %}{% if loop.first %}{% set q = 'f' %}{% endif %}{{ q }}{% endfor %}{{ q }}",
    "{% for x in list %}{% set loop = 1 %}{% endfor %}",
    "{% for loop in list %}{% endfor %}",
    "{% for n in list %}{{ n }}{% endfor %}{{ n }}",
    "{% macro m(a, b=2) %}{{ a }}-{{ b }}{% endmacro %}{{ m(1) }} {{ m(1, 3) }} {{ m(b=5, a=4) }} {{ m() }}",
    "{% macro m(a, b=a) %}{{ a }}-{{ b }}{% endmacro %}{{ m(1) }}",
    "{% macro m(a) %}{{ a is defined }}{% endmacro %}{{ m() }}{{ m(1) }}",
    "{% macro m(a) %}x{% endmacro %}{{ m(1, 2) }}",
    "{% macro m(a) %}x{% endmacro %}{{ m(zz=2) }}",
    "{% macro m(a) %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, 3, x=4) }}",
    "{% macro m(a=1, b) %}{% endmacro %}",
    "{% macro m() %}{{ n }}{{ late }}{% endmacro %}{% set late = 'L' %}{{ m() }}",
    "{% macro m() %}{% set n = 9 %}{{ n }}{% endmacro %}{{ m() }}{{ n }}",
    "{% macro fact(k) %}{% if k <= 1 %}1{% else %}{{ k * (fact(k - 1)|int) }}{% endif %}{% endmacro %}{{ fact(10) }}",
    "{% macro m() %}<{{ caller() }}>{% endmacro %}{% call m() %}in {{ n }}{% endcall %}",
    "{% macro m(l) %}{% for x in l %}{{ caller(x, 2) }}{% endfor %}{% endmacro %}{% call(a, b=1) m(list) %}[{{ a }}{{ b }}]{% endcall %}",
    "{% macro m() %}x{% endmacro %}{% call m() %}in{% endcall %}",
    "{% macro m() %}{{ caller() }}{% endmacro %}{{ m() }}",
    "{% macro m() %}{{ caller is defined }}{% endmacro %}{{ m() }}",
    "{% call 5 %}x{% endcall %}",
    "{% macro m() %}a{% endmacro %}{{ m()|upper }}{{ m() ~ 'b' }}{{ m().upper() }}{{ m }}",
    "{% macro m() %}{% endmacro %}{{ m.name }}{{ m is callable }}",
    "{% for x in list %}{% macro m() %}{{ x }}{% endmacro %}{{ m() }}{% endfor %}",
    "{{ m(1) }}{% macro m(a) %}{{ a }}{% endmacro %}",
    "{% macro outer() %}{% macro inner() %}{{ n }}{% endmacro %}{{ inner() }}{% endmacro %}{{ outer() }}",
    "{% macro m(x) %}{{ x }}{% endmacro %}{% for x in list %}{{ m(x * 2) }}{% endfor %}",
    "{% macro m(loop) %}{{ loop }}{% endmacro %}{{ m(5) }}",
    "{% filter upper %}a{{ s }}b{% endfilter %}",
    "{% filter replace('a', 'b')|upper %}a{{ s }}b{% endfilter %}",
    "{% filter indent(2) %}a\nb{% endfilter %}",
    "{% filter upper %}{% set fx = 1 %}{{ fx }}{% endfilter %}{{ fx }}",
    "{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}{{ a }}",
    "{% with a = n, n = 1 %}{{ a }}{{ n }}{% endwith %}{{ n }}",
    "{% with %}{% set w = 1 %}{{ w }}{% endwith %}{{ w }}",
    "{% generation %}text {{ n }}{% set g = 1 %}{% endgeneration %}{{ g }}",
    "{% for m in messages %}{% generation %}{{ m.content }}{{ loop.index }}{% endgeneration %}{% endfor %}",
    "{% generation %}{{ loop }}{% endgeneration %}",
    "{% print n, s %}",
    "{% raw %}{{ x }}{% if %}{% endraw %}!",
    "a {%- raw -%} {{ x }} {%- endraw -%} b",
    "{% raw %}\n x\n{% endraw %}\ny",
    "{# comment #}a{#- c -#} b {#+ c +#}\n c",
    "a{# unfinished",
    "{#",
    "a\n{# c #}\nb",
    "  {# c #}\nb",
    "  {% if t %}\n  x\n  {% endif %}\ny\n",
    "  {%- if t %}\n  x\n  {%- endif %}\ny\n\n",
    "  {%+ if t %}\n  x\n  {%+ endif +%}\ny",
    "a  {{- n -}}  b",
    "a  {{ n }}  \n b",
    "\n\n{% if t -%}\n\n  x {% endif %}\n\n",
    "{% set x = 1 -%}\n   {{ x }}",
    "x {% if t %} y {% endif %} z",
    "\t{% if t %}\t\n\ty{% endif %}",
    "line\r\nnext\r{% if t %}\r\nx{% endif %}\r\n",
    "trailing\n",
    "trailing\n\n",
    "\u00a0{%- if t %}x{% endif -%}\u2003y",
    "{{ 'a\nb' }}",
    "{{ '}}' }}{{ '%}' }}{{ {'a': {'b': 1}}['a']['b'] }}",
    "{{ {'a': 1}}}",
    "{{ [1, 2, ] }}{{ {'a': 1, } }}{{ (1, 2, ) }}",
    "{{ n ",
    "{{ }}",
    "{% %}",
    "{% if %}",
    "{% if t %}",
    "{% endif %}",
    "{% for x in list %}",
    "{% nope %}",
    "{% if t %}{% endfor %}",
    "{{ 'unterminated }}",
    "{{ a b }}",
    "{{ a. }}",
    "{{ a[ }}",
    "{{ a] }}",
    "{{ (1 }}",
    "{{ 1 ! 2 }}",
    "{{ a & b }}",
    "{{ f(a=1, 2) }}",
    "{{ f(a=1, a=2) }}",
    "{{ '\\x4' }}",
    "{{ 5 is }}",
    "{{ 5| }}",
    "{{ x.y.1.z }}",
    "{% include 'x' %}",
    "{% extends 'x' %}",
    "{% import 'x' as y %}",
    "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}{{ c.reset() }}{{ c.current }}",
    "{% set j = joiner('|') %}{% for x in list %}{{ j() }}{{ x }}{% endfor %}",
    "{% set g = list|map('string') %}{{ g|list }}{{ g|list }}",
    "{% set g = list|select('odd') %}{{ g|first }}{{ g|list }}",
    "{% for x in list|map('string') %}{{ loop.length }}{{ loop.last }}{% endfor %}",
    "{% for x in list|map('string') %}{{ x }}{{ loop.last }}{{ loop.length }}{% endfor %}",
    "{% for g in people|groupby('tag') %}{{ g.grouper }}:{{ g.list|length }} {% endfor %}",
    "{% for k, l in people|groupby('tag') %}{{ k }}{{ l|map(attribute='name')|join }} {% endfor %}",
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}bad{% else %}{{ m.role }}{% endif %}{% endfor %}",
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set sys = messages[0].content %}{% else %}{% set loop_messages = messages %}{% endif %}{{ sys }}{% for m in loop_messages %}{{ m.role }}{% endfor %}",
    "{% if not tools is defined %}{% set tools = none %}{% endif %}{{ tools }}",
    "{% set content = 'a</think>b' %}{{ content.split('</think>')[-1].lstrip('\\n') }}{{ content.split('</think>')[0].rstrip('\\n').split('<think>')[-1] }}",
    "{{ strftime_now('%Y-%m-%d') == strftime_now('%Y-%m-%d') }}{{ strftime_now('') }}{{ strftime_now('%d %b %Y')|length }}",
    "{%- for message in messages[::-1] %}{{ messages|length - 1 - loop.index0 }}{{ message.role }}{% endfor %}",
    "{% set x = [1, 2] %}{% set x = x + [3] %}{{ x }}{{ x == [1, 2, 3] }}",
    "{% set a = {'x': 1} %}{{ a.x }}{{ a['x'] }}{{ a.get('y', {}).get('z') }}",
    "{{ messages|map(attribute='role')|join(',') }}{{ messages|map('items')|map('list')|list|length }}",
    "{{ caller }}{{ kwargs }}{{ varargs }}",
    "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}B{% endmacro %}{{ a() }}",
    "{% for x in list %}{% set s = s ~ x %}{{ s }};{% endfor %}{{ s }}",
    "{% set f2 = s.upper %}{{ f2() }}{% set g2 = d.get %}{{ g2('b') }}",
    "{% if messages and messages[0].role == 'system' and messages[0].content is string %}y{% endif %}",
    "{{ 'a' if missing else 'b' }}{{ missing or 'dflt' }}{{ not missing }}",
    "{% set ns = namespace(l=[]) %}{% for x in list %}{% set ns.l = ns.l + [x * 2] %}{% endfor %}{{ ns.l }}",
    "{{ (messages|last).content }}{{ (messages|first)['role'] }}{{ messages[-1:]|first }}",
]
