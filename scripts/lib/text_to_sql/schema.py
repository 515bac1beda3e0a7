"""Schemas as the generators see them: tables, columns with the words that questions use for them, links."""

import dataclasses

# Words for what is special about a numeric column: more than, less than, most, least. Keyed by a column's last word.
COMPARISONS = {
    "age": ("older than {}", "younger than {}", "oldest", "youngest"),
    "price": ("that cost more than {}", "that cost less than {}", "most expensive", "cheapest"),
    "fee": ("that cost more than {}", "that cost less than {}", "most expensive", "cheapest"),
    "height": ("taller than {}", "shorter than {}", "tallest", "shortest"),
    "weight": ("heavier than {}", "lighter than {}", "heaviest", "lightest"),
    "length": ("longer than {}", "shorter than {}", "longest", "shortest"),
    "duration": ("longer than {}", "shorter than {}", "longest", "shortest"),
    "depth": ("deeper than {}", "shallower than {}", "deepest", "shallowest"),
    "speed": ("faster than {}", "slower than {}", "fastest", "slowest"),
    "capacity": ("with room for more than {}", "with room for less than {}", "largest", "smallest"),
    "salary": ("who earn more than {}", "who earn less than {}", "best paid", "worst paid"),
    "area": ("larger than {}", "smaller than {}", "largest", "smallest"),
}


def is_plural(phrase):
    """Whether a phrase names several things already, as "pages" or "days at sea"."""
    head = phrase.split(" of ")[0].split(" at ")[0]
    return head.endswith("s") and not head.endswith(("ss", "us", "is"))


def plural(phrase):
    """The regular English plural of a phrase's last word."""
    if is_plural(phrase):
        return phrase
    if phrase.endswith("y") and phrase[-2:-1] not in "aeiou":
        return phrase[:-1] + "ies"
    if phrase.endswith(("s", "x", "ch", "sh", "z")):
        return phrase + "es"
    return phrase + "s"


@dataclasses.dataclass
class Column:
    """`kind`: id, key (refers to another table), name (tells rows apart), text (few values), number."""

    name: str
    kind: str
    phrase: str = ""
    equal: str = ""  # a phrase of its own for "has this value", as "from {}"
    compare: tuple = ()  # over, under, most, least; each may be empty
    values: tuple = ()  # what conditions may ask for

    def __post_init__(self):
        self.phrase = self.phrase or self.name.replace("_", " ")
        if self.kind == "number" and not self.compare:
            self.compare = COMPARISONS.get(self.name.split("_")[-1], ("", "", "", ""))

    @property
    def type(self):
        return "text" if self.kind in ("name", "text") else "number"


@dataclasses.dataclass
class Table:
    name: str
    columns: list
    singular: str = ""
    plural: str = ""

    def __post_init__(self):
        self.singular = self.singular or self.name.replace("_", " ")
        self.plural = self.plural or plural(self.singular)

    def of_kind(self, *kinds):
        return [column for column in self.columns if column.kind in kinds]

    @property
    def id(self):
        return self.columns[0]


@dataclasses.dataclass
class Link:
    """Each row of `child` names one row of `parent` through `column`, called as the parent's id."""

    child: Table
    parent: Table
    column: Column
    phrase: str  # "books written by authors"


@dataclasses.dataclass
class Schema:
    db_id: str
    tables: list
    links: list

    def link_of(self, table, column):
        for link in self.links:
            if link.child is table and link.column is column:
                return link
        return None


def create_table(schema, table, types=None):
    """One CREATE TABLE statement on one line; `types` maps text and number to other type names."""
    parts = []
    for column in table.columns:
        kind = (types or {}).get(column.type, column.type)
        link = schema.link_of(table, column)
        if column is table.id:
            kind += " primary key"
        if link:
            kind += f" references {link.parent.name}({link.parent.id.name})"
        parts.append(f"{column.name} {kind}")
    return f"CREATE TABLE {table.name} ({', '.join(parts)});"


def spider_entry(schema):
    """The schema as one entry of Spider's tables.json."""
    original, readable, types, primary, foreign = [[-1, "*"]], [[-1, "*"]], ["text"], [], []
    index = {}
    for number, table in enumerate(schema.tables):
        for column in table.columns:
            index[table.name, column.name] = len(original)
            original.append([number, column.name])
            readable.append([number, column.phrase])
            types.append(column.type)
        primary.append(index[table.name, table.id.name])
    for link in schema.links:
        foreign.append([index[link.child.name, link.column.name], index[link.parent.name, link.parent.id.name]])
    return {
        "column_names": readable,
        "column_names_original": original,
        "column_types": types,
        "db_id": schema.db_id,
        "foreign_keys": foreign,
        "primary_keys": primary,
        "table_names": [table.singular for table in schema.tables],
        "table_names_original": [table.name for table in schema.tables],
    }
