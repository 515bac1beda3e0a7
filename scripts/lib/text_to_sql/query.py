"""A query as clauses: its text in Spider's style and its hardness by Spider's rules."""

import dataclasses


@dataclasses.dataclass
class Query:
    select: list  # expressions
    tables: list  # (name, alias, join condition); alias "" and condition "" where there is but one table
    where: list = dataclasses.field(default_factory=list)  # condition, "AND" or "OR", condition, ...
    group: str = ""
    having: str = ""
    order: str = ""  # expression and direction
    limit: int = 0
    distinct: bool = False
    nested: int = 0  # queries inside `where`
    compound: tuple = ()  # (INTERSECT, UNION or EXCEPT; the other query)

    def __str__(self):
        parts = ["SELECT", "DISTINCT " * self.distinct + ", ".join(self.select), "FROM", self._from()]
        if self.where:
            parts += ["WHERE", *self.where]
        if self.group:
            parts += ["GROUP BY", self.group]
        if self.having:
            parts += ["HAVING", self.having]
        if self.order:
            parts += ["ORDER BY", self.order]
        if self.limit:
            parts += ["LIMIT", str(self.limit)]
        if self.compound:
            parts += [self.compound[0], str(self.compound[1])]
        return " ".join(parts)

    def _from(self):
        text = ""
        for name, alias, condition in self.tables:
            text += " JOIN " * bool(text) + name + (f" AS {alias}" if alias else "")
            text += f" ON {condition}" if condition else ""
        return text

    def hardness(self):
        """easy, medium, hard or extra, counted as Spider's evaluation does (having and inner queries do not count)."""
        conditions = [condition.partition("(SELECT")[0] for condition in self.where[::2]]
        first = sum(map(bool, (self.where, self.group, self.order, self.limit)))
        first += len(self.tables) - 1 + self.where.count("OR") + sum(" LIKE " in c for c in conditions)
        second = self.nested + bool(self.compound)
        aggregates = sum("(" in c for c in [*self.select, self.order]) + sum(" NOT IN " in c for c in conditions)
        others = (aggregates > 1) + (len(self.select) > 1) + (len(self.where) > 1)
        if first <= 1 and others == 0 and second == 0:
            return "easy"
        if second == 0 and (others <= 2 and first <= 1 or first <= 2 and others < 2):
            return "medium"
        if second == 0 and (others > 2 and first <= 2 or 2 < first <= 3 and others <= 2):
            return "hard"
        return "hard" if first <= 1 and others == 0 and second <= 1 else "extra"


def literal(value):
    """A value as SQL writes it."""
    return str(value) if isinstance(value, (int, float)) else "'" + value.replace("'", "''") + "'"
