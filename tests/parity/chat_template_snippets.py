"""Template snippets over every statement, operator, filter, test and method, with the variables they are rendered with."""

VARIABLES = {
    "n": 7, "neg": -7, "zero": 0, "f": 2.5, "big": 1e20, "small": 1.5e-7, "t": True, "no": False, "nil": None, "s": "hello world",
    "pad": "  x y \n", "empty": "", "u": "Straße ΑΣ İx éÉ 日本 😀", "html": "<a href='x'>&\"</a>", "csv": "a,b,,c", "lines": "a\nb\r\nc\n\nd",
    "list": [3, 1, 2], "words": ["b", "A", "c", "a"], "nested": [[1, 2], [3]], "mixed": [1, "a", None, 2.5, True],
    "d": {"b": 1, "a": "x", "items": "shadow", "nested": {"k": [1, {"z": None}]}},
    "people": [{"name": "Bo", "age": 3, "tag": "x"}, {"name": "al", "age": 1, "tag": "y"}, {"name": "Cy", "age": 2, "tag": "x"}],
    "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}, {"role": "assistant", "content": "A"}],
    "floats": [0.1, 1.0, 1e16, 1e15, 123456789.123, 1e-5, 0.0001, 1e22, 5e-324, 0.30000000000000004],
    "_private": 5, "ctl": "a\x00b\x1f\x7f\u2028é", "docs": [],
}


def expressions(text):
    return ["{{ " + line.strip() + " }}" for line in text.strip().split("\n") if line.strip()]


OPERATORS = """
1 + 2 * 3
(1 + 2) * 3
2 ** 3 ** 2
-2 ** 2
2 ** -1
7 // 2
-7 // 2
7 // -2
-7 % 3
7 % -3
7.5 % 2
-7.5 // 2
7 / 2
6 / 2
1 / 0
1 % 0
1 // 0
1.0 / 0
0 ** -1
2 ** 0.5
10 ** 15
t + t
t + 1
-t
+no
- f
not 0
not not s
not nil == none
1 < 2 < 3
1 < 3 < 2
3 > 2 >= 2
1 == 1.0
1 == true
"a" < "b"
"a" == 'a'
[1, 2] == [1, 2]
[1, 2] == (1, 2)
(1, 2) < (1, 3)
{"a": 1} == {"a": 1.0}
"1" < 2
nil < 1
missing == missing2
missing == none
missing != 1
missing < 1
missing + 1
1 + missing
missing ~ "x"
"a" ~ 1 ~ none ~ true ~ 1.5 ~ [1, "b"]
"a" + 1
1 + "a"
"a" + "b" + s + "c"
"a" + s|upper + "c"
"a" * 3
3 * "ab"
"a" * -1
"a" * t
[1] * 2
[1] + [2, 3]
(1,) + (2,)
[1] + (2,)
list + nested
"a" in s
"hello" not in s
"" in s
1 in list
5 not in list
"b" in d
"zz" in d
1 in 5
1 in nil
1 in "a"
missing in list
"a" in missing
[1,2] in nested
[1] in d
true and false
1 and 2
0 and 1
0 or "x"
"" or nil
nil or missing
1 or (1 / 0)
not t and no
t or no and no
1 if t else 2
1 if no else 2
1 if no
(1 if no) is undefined
1 if t else 2 if no else 3
s[0]
s[-1]
s[99]
s[1:4]
s[::-1]
s[-3:]
s[:-3]
s[::2]
s[5:1:-1]
s[10:2:-3]
u[6:9]
u[-1]
u[::-1]
list[0]
list[-1]
list[3]
list[1:]
list[::-1]
list[::-2]
list[5:]
list[:100]
list[1:2]
list["x"]
list[1.0]
list[true]
nested[0][1]
list[::0]
nil[1:]
missing[1:]
d[1:]
(1,2,3)[1:]
d.b
d["b"]
(d.items) is callable
d["items"]
d.nested.k[1].z
d.nope
d.nope.x
d["nope"]
d["nope"]["x"]
nil.x
nil.x.y
nil["x"]
missing.x
missing["x"]
n.x
f.real
n.imag
people[0].name
people.0.name
s.nope
s["upper"]()
d["keys"]()|list
messages[0]['role']
messages[-1].content
{"a": 1, "b": [1, 2]}["b"][0]
{"a": 1, "a": 2}
{1: "x", 1.0: "y", true: "z"}
{[1]: 2}
{}
[]
()
(1,)
(1, 2)
1, 2
[1, "a", none, true, 2.5, missing]
{"k": "it's", 'q': 'say "x"', "both": "'\\""}
"\\n\\t\\\\ \\x41 \\u00e9 \\101 \\q"
'single \\' quote'
"a" "b" 'c'
0x1F
0b101
0o17
1_000
1e3
1.5E-3
1.0
100000000000000000000.0
true
True
none
None
False
loop
range(5)|list
range(2, 8, 3)|list
range(5, 0, -2)|list
range(0)
range(3)
range(1, 4, 2)
range(5)[2]
range(5)[1:3]
range(100001)
range(1, 2, 0)
range("a")
range(10)|length
3 in range(5)
dict(a=1, b="x")
dict({"a": 1}, c=2)
dict([["a", 1], ["b", 2]])
dict(a=1).a
namespace(a=1).a
namespace(a=1)
namespace({"x": 1}, y=2).x
namespace(_x=1)
raise_exception("boom")
raise_exception("it's " ~ n)
raise_exception()
_private
s.__class__
s.__class__.__mro__
d.__class__
[].__class__
"".__init__.__globals__
s|attr("__class__")
list.append(1)
list.pop()
list.sort()
d.update({"x": 1})
d.pop("a")
d.setdefault("q", 1)
d.clear()
list.append
(list.append) is defined
s()
nil()
missing()
missing.x()
5()
d.get()
d.get("b")
d.get("zz")
d.get("zz", "dflt")
d.get("b", 5)
d.get([1])
d.keys()
d.values()
{"a": 1}.items()
{"a": 1}.items()|list
d.copy() == d
d.keys()|list
{"b":1,"a":2}.values()|list
list.index(2)
list.index(9)
list.count(1)
(1,2,1).count(1)
(1,2,1).index(2)
list.copy()
(joiner) is callable
(cycler) is callable
floats
floats|join(" ")
big
small
-0.0
1e400
mixed
u
ctl
[ctl, u, html]
"%s" % "a"
"%s and %s" % ("a", 1)
"%d %5d|%-5d|%05d" % (1, 2, 3, 4)
"%5.2f %e %g" % (3.14159, 12345.678, 0.0001)
"%x %X %o" % (255, 255, 8)
"%r %s" % ("a", none)
"%c%c" % ("a", 66)
"%%" % ()
"100%" % ()
"%s" % ()
"%s" % (1, 2)
"%(a)s-%(b)d" % {"a": "x", "b": 3}
"%+d % d" % (5, 5)
"%.3s|%10s|%-10s|" % ("abcdef", "r", "l")
"%d" % "x"
"%d" % 3.7
"%s" % [1, 2]
"%*d" % (5, 42)
"%#x" % 255
"%q" % 1
"x" % 1
"""

METHODS = """
s.upper()
s.title()
s.capitalize()
u.upper()
u.lower()
u.title()
u.capitalize()
u.swapcase()
u.casefold()
"ΌΣΟΣ ΣΑΣ Σ".lower()
"ǆ ﬁ ŉ".title()
"ǆ ﬁ ŉ".upper()
"they're bill's".title()
pad.strip()
pad.lstrip()
pad.rstrip()
"xxhixx".strip("x")
"xyhiyx".strip("xy")
"\u00a0\u2003x\u3000".strip()
s.strip(none)
s.strip(1)
s.split()
s.split(" ")
s.split("l", 1)
s.split("l", maxsplit=1)
s.split(sep="o")
s.split("")
csv.split(",")
csv.rsplit(",", 1)
"  a  b c ".split(none, 1)
"  a  b c ".rsplit(none, 1)
"  a  b c ".split(maxsplit=0)
"".split()
"".split(",")
lines.splitlines()
lines.splitlines(true)
"a\x0bb\x85c\u2028d".splitlines()
s.startswith("he")
s.startswith(("x", "he"))
s.startswith("l", 2)
s.endswith("ld")
s.endswith(("x", "ld"))
s.endswith("lo", 0, 5)
s.startswith(1)
s.startswith("")
s.startswith(["he"])
s.replace("l", "L")
s.replace("l", "L", 1)
s.replace("", "-")
"".replace("", "-")
s.replace("o", "", -1)
s.replace("a")
s.find("o")
s.find("o", 5)
s.find("zz")
s.rfind("o")
s.index("w")
s.index("zz")
s.rindex("l")
u.find("日")
s.count("l")
s.count("")
s.count("l", 4)
"-".join(["a", "b"])
", ".join(words)
"".join([1])
"-".join("abc")
"-".join([])
"-".join(d)
"-".join(missing)
"-".join(5)
s.center(21, "*")
s.center(20)
"ab".center(5)
s.ljust(15) ~ "|"
s.rjust(15, ".")
"42".zfill(5)
"-42".zfill(5)
s.partition(" ")
s.partition("zz")
s.rpartition("o")
s.rpartition("zz")
"a\tb".expandtabs(4)
s.removeprefix("hello ")
s.removesuffix("world")
"abc1".isalnum()
"abc".isalpha()
"日本".isalpha()
"12".isdigit()
"²".isdigit()
"²".isdecimal()
"½".isnumeric()
"一".isnumeric()
"".isdigit()
"abc".islower()
"aBc".islower()
"ABC1".isupper()
"Ab Cd".istitle()
" \t".isspace()
"abc".isascii()
"é".isascii()
"a b".isprintable()
"a\n".isprintable()
"a1".isidentifier()
"1a".isidentifier()
"{} {}".format(1, "a")
"{0} {1} {0}".format("a", "b")
"{x} {y!r}".format(x=1, y="q")
"{:>5}|{:<5}|{:^5}|".format("a", "b", "c")
"{:05d} {:,} {:x} {:+}".format(42, 1234567, 255, 3)
"{:.2f} {:e} {:g} {:%}".format(3.14159, 1234.5, 0.1, 0.25)
"{0.name} {1[0]}".format(people[0], list)
"{0[name]}".format(people[0])
"{:*^9}".format("mid")
"{:>{w}}".format("a", w=4)
"{{}}".format()
"{}".format()
"{a}".format()
"{".format()
"}".format()
"{0.__class__}".format(1)
"{a}".format_map({"a": 1})
"{}".format(none)
"{}".format(1.0)
"{:d}".format(1.5)
"{:s}".format("x")
"{:5}".format(1) ~ "|"
"{:5}".format(none)
"abc".nope()
"abc".upper(1)
("abc".encode) is callable
(s.title) is callable
2.0.is_integer()
f.is_integer()
"""

FILTERS = """
pad|trim
"xxaxx"|trim("x")
nil|trim
5|trim
s|upper
u|upper
nil|upper
s|lower
s|title
"foo-bar (baz) [qux] {x} <y>"|title
u|title
"they're HERE"|title
s|capitalize
"ABC def"|capitalize
s|replace("l", "L")
s|replace("l", "L", 1)
s|replace("l")
5|replace(5, 6)
s|length
u|length
list|length
d|length
missing|length
5|length
nil|length
range(4)|length
(list|map("string"))|length
list|count
missing|default("x")
missing|default
nil|default("x")
nil|default("x", true)
""|d("e", true)
s|d("x")
0|default(5, boolean=true)
missing|default(default_value="q")
missing.x|default("q")
d.zz.y|default("q")
list|first
s|first
empty|first
docs|first
missing|first
5|first
list|last
s|last
docs|last
missing|last
(list|map("string"))|last
list|join
list|join(", ")
list|join(d="-")
people|join(", ", attribute="name")
s|join("-")
missing|join(",")
5|join
mixed|join("|")
d|join(",")
s|list
d|list
list|list
missing|list
nil|list
list|sort
words|sort
words|sort(case_sensitive=true)
list|sort(reverse=true)
people|sort(attribute="age")|map(attribute="name")|list
people|sort(attribute="tag,age")|map(attribute="name")|list
people|sort(attribute="tag,age", reverse=true)|map(attribute="name")|list
mixed|sort
d|sort
words|unique|list
["a", "A", "b"]|unique|list
["a", "A", "b"]|unique(case_sensitive=true)|list
[1, 1.0, true, 2]|unique|list
people|unique(attribute="tag")|map(attribute="name")|list
[[1]]|unique|list
list|reverse|list
s|reverse
u|reverse
d|reverse|list
(list|map("abs"))|reverse
5|reverse
missing|reverse|list
list|map("string")|list
words|map("upper")|join
people|map(attribute="name")|list
people|map(attribute="zz", default="?")|list
people|map(attribute="zz")|list
people|map(attribute="name.0")|list
nested|map("first")|list
nested|map("join", "-")|list
words|map("replace", "a", "z")|list
words|map("nope")|list
words|map|list
words|map(foo="x")|list
nil|map("upper")|list
5|map("upper")|list
missing|map("upper")|list
list|select|list
mixed|select|list
list|select("odd")|list
list|select("greaterthan", 1)|list
list|select(">", 1)|list
list|reject("odd")|list
list|select("nope")|list
mixed|select("string")|list
mixed|reject("none")|list
people|selectattr("age", "gt", 1)|map(attribute="name")|list
people|selectattr("tag", "equalto", "x")|list|length
people|selectattr("zz")|list
people|selectattr("zz", "undefined")|list|length
people|rejectattr("tag", "eq", "x")|map(attribute="name")|join
people|selectattr("tag", "in", ["y", "z"])|map(attribute="name")|join
people|selectattr|list
(people|selectattr("zz")) and "truthy"
messages|selectattr("role", "equalto", "user")|list|first
d|items|list
{"x": 1}|items|list
missing|items|list
5|items|list
{"b": 1, "A": 2, "c": 0}|dictsort
{"b": 1, "A": 2, "c": 0}|dictsort(true)
{"b": 1, "A": 2, "c": 0}|dictsort(by="value")
{"b": 1, "A": 2, "c": 0}|dictsort(reverse=true)
{"b": 1}|dictsort(by="zz")
list|dictsort
missing|dictsort
"42"|int
"42.7"|int
"x"|int
"x"|int(5)
"0x1f"|int(base=16)
"1f"|int(0, 16)
"0b11"|int(base=0)
" 12 "|int
"1_000"|int
"-7"|int
"1e3"|int
"inf"|int
2.9|int
-2.9|int
nil|int
true|int
list|int
missing|int
"3.5"|float
"x"|float
"x"|float(1.5)
"1e3"|float
" inf "|float
"nan"|float
nil|float
3|float
missing|float
5|string
nil|string
list|string
missing|string
2.0|string
-5|abs
-2.5|abs
"x"|abs
missing|abs
2.5|round
3.5|round
2.567|round(2)
2.5|round(0, "floor")
2.1|round(0, "ceil")
2.345|round(2, "floor")
1234|round(-2)
1250|round(-2)
1350.0|round(-2)
5|round
0.5|round|int
2.675|round(2)
1e300|round(5)
2.5|round(method="zz")
"x"|round
list|sum
people|sum(attribute="age")
people|sum("age", 10)
nested|sum(start=[])
words|sum
[]|sum
[1, 2.5]|sum
list|min
list|max
words|min
words|max
words|max(case_sensitive=true)
people|min(attribute="age")
people|max(attribute="name")
docs|min
docs|max
mixed|max
lines|indent
lines|indent(2)
lines|indent(2, true)
lines|indent(2, first=true, blank=true)
lines|indent("> ")
lines|indent(width="--", blank=true)
empty|indent
5|indent
d|tojson
mixed|tojson
u|tojson
u|tojson(ensure_ascii=true)
ctl|tojson
ctl|tojson(true)
html|tojson
d|tojson(indent=2)
nested|tojson(indent=4)
[]|tojson(indent=2)
{}|tojson(indent=2)
d|tojson(separators=(",", ":"))
d|tojson(separators=[",", ": "], indent=1)
d|tojson(sort_keys=true)
d|tojson(indent="\t")
d|tojson(indent=0)
floats|tojson
(1, 2)|tojson
{1: "a", none: "b", true: "c", 2.5: "d"}|tojson
missing|tojson
range(3)|tojson
{(1,2): 3}|tojson
(list|map("abs"))|tojson
[missing]|tojson
1e400|tojson
{"b": 1, 1: 2}|tojson(sort_keys=true)
html|safe
html|safe ~ html
html|safe + html
html + html|safe
html|escape
html|e
html|e|e
html|forceescape
5|e
nil|e
html|e + "<"
"<" + html|e
("<"|safe) * 2
("<b>"|safe).upper() + "&"
("a&b"|safe).replace("b", "<")
("a-b"|safe).split("-")
("<"|safe)|string + "<"
(html|safe)|replace("<", "[")
(html|safe)|length
(html|safe)|tojson
(html|safe)|join("-")
["<", "<"|safe]|join("&")
("&"|safe).join(["<", ">"])
("<x>"|safe)[0] + "<"
("<x>"|safe)[1:] + "<"
[("x"|safe)]
(" x "|safe)|trim + "<"
"a" in ("abc"|safe)
("abc"|safe) == "abc"
list|batch(2)|list
list|batch(2, 0)|list
list|slice(2)|list
list|slice(2, "f")|list
list|batch(0)|list
people|groupby("tag")
people|groupby("tag")|map(attribute="grouper")|list
people|groupby("tag")|map("last")|map("length")|list
people|groupby("zz", default="none")|length
people|groupby("zz")|length
s|wordcount
u|wordcount
"a_b c-d"|wordcount
s|center(21)
"x"|center(4) ~ "|"
(s ~ " and more words to come")|truncate(15)
(s ~ " and more words to come")|truncate(15, true)
(s ~ " and more words to come")|truncate(15, false, "!")
(s ~ " and more words to come")|truncate(15, leeway=0)
s|truncate(9)
s|truncate(2)
"%s-%s"|format("a", 1)
"%(x)s"|format(x=2)
"%s"|format("a", x=1)
"a b&c/d?é"|urlencode
{"a b": "c&d", "e": 1}|urlencode
d|attr("b")
(d|attr("keys")) is callable
(s|attr("upper")) is callable
s|attr("nope") is undefined
missing|attr("x")
s|upper|lower|title
s | replace("o", "0") | upper ~ "!"
-5|abs
- 5|abs + 1
2 ** 3|string
s|nope
s|length > 5
list|first + 1
s|upper(1)
s|default(1, 2, 3)
s|replace(old="l", new="1")
s|replace("l", **{"new": "2"})
s|replace(*["l", "3"])
"""

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

SNIPPETS = expressions(OPERATORS) + expressions(METHODS) + expressions(FILTERS) + expressions(TESTS) + STATEMENTS
