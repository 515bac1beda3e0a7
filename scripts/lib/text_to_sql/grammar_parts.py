"""What questions are made of: columns, conditions and extremes, each as words and as SQL."""

from text_to_sql import phrases
from text_to_sql.query import literal
from text_to_sql.schema import is_plural, plural

ASK = "[what are|list|show|find|give me|give|return|tell me|display]"
ASK_ONE = "[what is|show|find|give me|give|return|tell me]"
AGGREGATES = {
    "avg": ("average", "mean"),
    "max": ("maximum", "highest", "largest"),
    "min": ("minimum", "lowest", "smallest"),
    "sum": ("total", "sum of the"),
}


class Parts:
    """Draws parts of questions over one schema. What the schema lacks is None."""

    def __init__(self, schema, rng):
        self.schema, self.rng = schema, rng

    def say(self, template, **slots):
        return phrases.expand(self.rng, template, **slots)

    def table(self):
        return self.rng.choice(self.schema.tables)

    def column(self, table, *kinds):
        """A column of one of the kinds, or None."""
        columns = table.of_kind(*kinds)
        return self.rng.choice(columns) if columns else None

    def shown(self, table, count=1, but=None):
        """Columns worth showing except `but`, the name first more often than not."""
        columns = [c for c in self.rng.shuffled(table.of_kind("name", "text", "number")) if c is not but]
        names = [c for c in columns if c.kind == "name"]
        if names and self.rng.chance(0.6):
            columns = names[:1] + [c for c in columns if c is not names[0]]
        return columns[:count]

    def label(self, table):
        """The column that tells the rows of a table apart for people."""
        names = table.of_kind("name")
        return names[0] if names else None

    def link(self):
        return self.rng.choice(self.schema.links) if self.schema.links else None

    def all_of(self, table):
        return self.say("[<es>|<es>|the <es>|all <es>|all the <es>|every <e>]", es=table.plural, e=table.singular)

    def columns_of(self, columns, many=True):
        words = [plural(c.phrase) if many and self.rng.chance(0.6) else c.phrase for c in columns]
        return phrases.spoken(words)

    def condition(self, table, alias="", skip=()):
        """A condition on one column: (phrase that follows the plural, SQL, column); None if there is none."""
        columns = [c for c in table.of_kind("text", "number", "name") if c.values and c not in skip]
        if not columns:
            return None
        column = self.rng.choice(columns)
        name = f"{alias}.{column.name}" if alias else column.name
        if column.kind == "number":
            phrase, test = self.number_test(column, name)
        else:
            phrase, test = self.text_test(column, name)
        return phrase, test, column

    @staticmethod
    def be(column):
        return "are" if is_plural(column.phrase) else "is"

    def value(self, column):
        return self.rng.choice(column.values)

    def text_test(self, column, name):
        value, rng = self.value(column), self.rng
        slots = {"c": column.phrase, "v": value, "is": self.be(column)}
        if column.kind == "name" and rng.chance(0.35):
            word = rng.choice(value.split(" "))
            end = self.rng.below(3) if " " not in value else 0
            if end:
                word = value[:2] if end == 1 else value[-2:]
            verb = ("[contains|includes|has] [the word|the text|]", "[starts|begins] with", "ends with")[end]
            phrase = self.say(f"[whose|where the] <c> {verb} <v>", c=column.phrase, v=f"'{word}'")
            return phrase, f"{name} LIKE " + literal(("%{}%", "{}%", "%{}")[end].format(word))
        if column.kind != "name" and rng.chance(0.12):
            phrase = self.say("[whose <c> <is> not|with a <c> other than|where the <c> <is> not] <v>", **slots)
            return phrase, f"{name} != {literal(value)}"
        if column.equal and rng.chance(0.55):
            return column.equal.format(value), f"{name} = {literal(value)}"
        phrase = self.say(
            "[whose <c> <is>|with [the |]<c>|with <c> equal to|that have [the |]<c>|where the <c> <is>] "
            "[<v>|<v>|<v>|'<v>']",
            **slots,
        )
        return phrase, f"{name} = {literal(value)}"

    def number_test(self, column, name):
        value, over, under = self.value(column), column.compare[0], column.compare[1]
        slots = {"c": column.phrase, "a": phrases.article(column.phrase), "v": str(value), "is": self.be(column)}
        kind = self.rng.weighted([(8, ">"), (7, "<"), (3, ">="), (3, "<="), (4, "="), (3, "BETWEEN")])
        if kind == ">" and over and self.rng.chance(0.6):
            return over.format(value), f"{name} > {value}"
        if kind == "<" and under and self.rng.chance(0.6):
            return under.format(value), f"{name} < {value}"
        if kind == "BETWEEN":
            low, high = sorted([value, self.value(column)])
            high += low == high
            slots |= {"v": str(low), "w": str(high)}
            phrase = self.say("[with <a>|whose <c> <is>|with <c>] between <v> and <w>", **slots)
            return phrase, f"{name} BETWEEN {low} AND {high}"
        words = {
            ">": "[with [<a>|<c>] |whose <c> <is> ][above|over|greater than|higher than|more than]",
            "<": "[with [<a>|<c>] |whose <c> <is> ][below|under|less than|lower than|smaller than]",
            ">=": "[with [<a>|<c>] of |whose <c> <is> ]at least",
            "<=": "[with [<a>|<c>] of |whose <c> <is> ]at most",
            "=": "[with [<a> of|<c>|<c> equal to]|whose <c> <is>|that have <c>]",
        }[kind]
        return self.say(words + " <v>", **slots), f"{name} {kind} {value}"

    def extreme(self, table, column):
        """(phrase for the rows at one end, as "oldest <e>", SQL direction)."""
        high = self.rng.chance(0.55)
        word = column.compare[2 if high else 3]
        direction = "DESC" if high else "ASC"
        if word and self.rng.chance(0.65):
            return f"{word} {{}}", direction
        size = self.rng.choice(
            ("highest", "largest", "greatest", "biggest") if high else ("lowest", "smallest", "least")
        )
        return f"{{}} with the {size} {column.phrase}", direction

    def aggregate(self, column):
        """A function that makes sense for the column (nobody adds up years), and a word for it."""
        sums = column.name.split("_")[-1] not in ("year", "age", "height", "rating", "speed")
        function = self.rng.choice(("avg", "max", "min", "avg", "max", "min", "sum")[: 7 if sums else 6])
        return function, self.rng.choice(AGGREGATES[function])

    def joined(self, link, first):
        """FROM of a link's two tables, `first` as T1."""
        second = link.parent if first is link.child else link.child
        key, identity = link.column.name, link.parent.id.name
        left, right = (key, identity) if first is link.child else (identity, key)
        return [(first.name, "T1", ""), (second.name, "T2", f"T1.{left} = T2.{right}")]

    def count_test(self):
        sign = self.rng.choice((">", ">=", "<", ">", ">="))
        words = {">": "[more than|over]", ">=": "at least", "<": "[fewer than|less than]"}[sign]
        return sign, words + " <v>", self.rng.between(2, 4 if sign != "<" else 5)
