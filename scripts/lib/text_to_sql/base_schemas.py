"""Random schemas of the base corpus, no two alike."""

from text_to_sql import base_words as words
from text_to_sql.demo_domains import DOMAINS
from text_to_sql.schema import Column, Link, Schema, Table

TAKEN = {label.partition(": ")[0] for tables in DOMAINS.values() for label in tables} | set(DOMAINS)
THINGS = [thing for thing in words.THINGS if thing not in TAKEN]


def _thing(rng):
    """The name of a table."""
    kind = rng.weighted([(9, "plain"), (4, "compound"), (8, "other"), (1, "half")])
    if kind == "other":
        word = words.name_word(rng)
        return word if word not in TAKEN else _thing(rng)
    thing = rng.choice(THINGS)
    if kind == "compound":
        return f"{rng.choice(words.QUALIFIERS)}_{thing}"
    return f"{words.name_word(rng)}_{thing}" if kind == "half" else thing


def _values(rng, place=False):
    """What conditions on a column of words may ask for: one word, a person, a place, two words, a code."""
    style = (
        "place"
        if place
        else rng.choice(("plain", "plain", "place", "person", "title", "word", "Word", "Words", "two", "code"))
    )
    draw = {
        "plain": lambda: rng.choice(words.PLAIN),
        "place": lambda: rng.choice(words.PLACES),
        "person": lambda: f"{rng.choice(words.GIVEN)} {rng.choice(words.FAMILY)}",
        "title": lambda: f"{rng.choice(words.PLAIN).title()} {rng.choice(words.THINGS).title().replace('_', ' ')}",
        "word": lambda: words.name_word(rng),
        "Word": lambda: words.name_word(rng).title(),
        "Words": lambda: f"{words.name_word(rng)} {words.name_word(rng)}".title(),
        "two": lambda: f"{rng.choice(words.PLAIN)} {words.name_word(rng)}",
        "code": lambda: (
            "".join(rng.choice("ABCDEFGHKLMNPRSTUVWXZ") for _ in range(rng.between(1, 2)))
            + (str(rng.below(1000)) if rng.chance(0.6) else "")
        ),
    }[style]
    return tuple(sorted({draw() for _ in range(5)}))


def _text_column(rng, table):
    name = rng.choice(words.WORDS)
    if rng.chance(0.45):
        name = words.name_word(rng)
    elif rng.chance(0.3):
        name = f"{rng.choice([rng.choice(words.QUALIFIERS), table.split('_')[-1], words.name_word(rng)])}_{name}"
    equal = words.EQUAL.get(name.split("_")[-1], ("",))
    place = equal[0] != "" and rng.chance(0.7)
    return Column(name, "text", equal=rng.choice(equal) if rng.chance(0.8) else "", values=_values(rng, place))


def _number_column(rng, table):
    name, low, high = rng.choice(words.NUMBERS).split(" ")
    compare = words.YEARS.get(name, ())
    if not compare and rng.chance(0.25):
        name, low, high = words.name_word(rng), "0", rng.choice(("20", "300", "5000", "90000"))
        name += rng.choice(("", "", "s", "_points", "_count", "_" + words.name_word(rng)))
    elif not compare and rng.chance(0.3):
        name = f"{rng.choice([rng.choice(words.MEASURED), words.name_word(rng), table.split('_')[-1]])}_{name}"
    values = tuple(sorted(_number(rng, int(low), int(high)) for _ in range(6)))
    return Column(name, "number", compare=compare, values=values)


def _number(rng, low, high):
    """A number as questions have it: now and then any, else a round one."""
    value = rng.between(low, high)
    step = 1 if high < 50 or low > 1000 or rng.chance(0.4) else 10 ** max(0, len(str(value)) - 2)
    return max(low, value // step * step)


def _table(rng, name):
    columns = [Column(f"{name}_id", "id")]
    if rng.chance(0.85):
        label = rng.choice(words.NAMES) if rng.chance(0.9) else f"{name}_name"
        columns.append(Column(label, "name", values=_values(rng)))
    makers = [_text_column, _number_column, *rng.sample([_text_column, _number_column, _number_column], rng.below(4))]
    taken = {column.name for column in columns}
    for make in rng.shuffled(makers):
        column = make(rng, name)
        if column.name not in taken | words.RESERVED and column.name != name:
            taken.add(column.name)
            columns.append(column)
    return Table(name, columns)


def draw(rng, db_id):
    """A schema of one to four tables, whose links point to earlier tables."""
    count = rng.weighted([(1, 1), (6, 2), (9, 3), (2, 4)])
    names = []
    while len(names) < count:
        name = _thing(rng)
        if name not in words.RESERVED and all(name not in other and other not in name for other in names):
            names.append(name)
    schema = Schema(db_id, [], [])
    for name in names:
        table = _table(rng, name)
        for parent in rng.sample(schema.tables, min(len(schema.tables), rng.weighted([(1, 0), (9, 1), (5, 2)]))):
            column = Column(parent.id.name, "key")
            table.columns.insert(rng.between(2, len(table.columns)) if rng.chance(0.3) else len(table.columns), column)
            schema.links.append(Link(table, parent, column, rng.choice(words.LINKS)))
        schema.tables.append(table)
    return schema
