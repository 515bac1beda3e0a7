"""Template snippets over every statement, operator, filter, test and method, with the variables they are rendered with."""

from chat_template_statements import STATEMENTS, TESTS

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

SNIPPETS = expressions(OPERATORS) + expressions(METHODS) + expressions(FILTERS) + expressions(TESTS) + STATEMENTS
