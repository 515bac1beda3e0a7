"""Kinds of questions over one table."""

from text_to_sql import phrases
from text_to_sql.grammar_parts import AGGREGATES, ASK, ASK_ONE, Parts
from text_to_sql.query import Query, literal
from text_to_sql.schema import plural


class TableKinds(Parts):
    """Each method draws a (question, query) pair, or None where the schema lacks what its kind needs."""

    def count_rows(self):
        table = self.table()
        text = self.say(
            "[how many <es> are there|how many <es> do we have|count the [number of |]<es>|"
            "what is the [total |]number of <es>|find the number of <es>|give the number of <es>]",
            es=table.plural,
        )
        return text, Query(["count(*)"], [(table.name, "", "")])

    def count_where(self):
        table = self.table()
        condition = self.condition(table)
        if not condition:
            return None
        text = self.say(
            "[how many <es> [are there |]<p>|count the [number of |]<es> <p>|what is the number of <es> <p>|"
            "find the number of <es> <p>]",
            es=table.plural,
            p=condition[0],
        )
        return text, Query(["count(*)"], [(table.name, "", "")], [condition[1]])

    def count_distinct(self):
        table = self.table()
        column = self.column(table, "text")
        if not column:
            return None
        text = self.say(
            "[how many [different|distinct] <cs> [do [the |]<es> have|are there among the <es>]|"
            "count the [different|distinct] <cs> of [the |]<es>|"
            "find the number of [different|distinct] <cs> of <es>]",
            cs=plural(column.phrase),
            es=table.plural,
        )
        return text, Query([f"count(DISTINCT {column.name})"], [(table.name, "", "")])

    def show_columns(self):
        table = self.table()
        columns = self.shown(table, self.rng.weighted([(5, 1), (4, 2), (2, 3)]))
        text = self.say(ASK + " the <cs> of <es>", cs=self.columns_of(columns), es=self.all_of(table))
        return text, Query([c.name for c in columns], [(table.name, "", "")])

    def show_distinct(self):
        table = self.table()
        column = self.column(table, "text")
        if not column:
            return None
        text = self.say(
            "[" + ASK + " the [different|distinct|unique] <cs> of [the |all |]<es>|"
            "what [different|distinct] <cs> [do the <es> have|are there among the <es>]]",
            cs=plural(column.phrase),
            es=table.plural,
        )
        return text, Query([column.name], [(table.name, "", "")], distinct=True)

    def show_where(self):
        table = self.table()
        condition = self.condition(table)
        columns = condition and self.shown(table, self.rng.weighted([(6, 1), (3, 2), (1, 3)]), condition[2])
        if not columns:
            return None
        text = self.say(
            ASK + " the <cs> of [the |all |]<es> <p>", cs=self.columns_of(columns), es=table.plural, p=condition[0]
        )
        label = self.label(table)
        if label in columns and len(columns) == 1 and self.rng.chance(0.3):
            text = self.say(
                "which <es> [are there |]<p>[ (give the <c>)|; give the <c>|, by <c>]",
                es=table.plural,
                p=condition[0],
                c=label.phrase,
            )
        return text, Query([c.name for c in columns], [(table.name, "", "")], [condition[1]])

    def two_conditions(self):
        """(phrase, [condition, connector, condition]) on two columns of a table."""
        table = self.table()
        first = self.condition(table)
        second = first and self.condition(table, skip=(first[2],))
        if not second:
            return None
        either = self.rng.chance(0.35)
        phrase = self.say("<p> [or|or else] <q>" if either else "<p> [and|and also] <q>", p=first[0], q=second[0])
        return table, phrase, [first[1], "OR" if either else "AND", second[1]]

    def show_two_conditions(self):
        drawn = self.two_conditions()
        if not drawn:
            return None
        table, phrase, where = drawn
        columns = self.shown(table, self.rng.weighted([(5, 1), (2, 2)]))
        text = self.say(
            ASK + " the <cs> of [the |all |]<es> <p>", cs=self.columns_of(columns), es=table.plural, p=phrase
        )
        return text, Query([c.name for c in columns], [(table.name, "", "")], where)

    def count_two_conditions(self):
        drawn = self.two_conditions()
        if not drawn:
            return None
        table, phrase, where = drawn
        text = self.say(
            "[how many <es> [are there |]|count the <es> |find the number of <es> ]<p>", es=table.plural, p=phrase
        )
        return text, Query(["count(*)"], [(table.name, "", "")], where)

    def either_value(self):
        table = self.table()
        column = self.column(table, "text")
        if not column or len(column.values) < 2:
            return None
        columns = [c for c in self.shown(table, 2) if c is not column][:1]
        first, second = self.rng.sample(column.values, 2)
        if not columns:
            return None
        text = self.say(
            ASK + " the <cs> of [the |]<es> [whose <c> <is_> [either |]<v> or <w>|with <c> <v> or <w>]",
            cs=self.columns_of(columns),
            es=table.plural,
            c=column.phrase,
            v=first,
            w=second,
            is_=self.be(column),
        )
        where = [f"{column.name} = {literal(first)}", "OR", f"{column.name} = {literal(second)}"]
        return text, Query([columns[0].name], [(table.name, "", "")], where)

    def aggregate_column(self):
        table = self.table()
        column = self.column(table, "number")
        if not column:
            return None
        function, word = self.aggregate(column)
        condition = self.condition(table, skip=(column,)) if self.rng.chance(0.45) else None
        text = self.say(
            ASK_ONE + " the <f> <c> of [the |all |all the |]<es> <p>",
            f=word,
            c=column.phrase,
            es=table.plural,
            p=condition[0] if condition else "",
        )
        return text, Query([f"{function}({column.name})"], [(table.name, "", "")], [condition[1]] if condition else [])

    def two_aggregates(self):
        table = self.table()
        column = self.column(table, "number")
        if not column:
            return None
        functions = self.rng.sample(["avg", "max", "min"], self.rng.weighted([(4, 2), (1, 3)]))
        words = phrases.spoken([self.rng.choice(AGGREGATES[f]) for f in functions])
        condition = self.condition(table, skip=(column,)) if self.rng.chance(0.35) else None
        text = self.say(
            ASK_ONE + " the <f> <c> of [the |all |all the |]<es> <p>",
            f=words,
            c=column.phrase,
            es=table.plural,
            p=condition[0] if condition else "",
        )
        select = [f"{f}({column.name})" for f in functions]
        return text, Query(select, [(table.name, "", "")], [condition[1]] if condition else [])

    def show_sorted(self):
        table = self.table()
        column = self.column(table, "number", "name")
        columns = [c for c in self.shown(table, self.rng.between(1, 2)) if c is not column or c.kind == "name"]
        if not column or not columns:
            return None
        down = self.rng.chance(0.5)
        words = "[from high to low|in descending order]" if down else "[from low to high|in ascending order]"
        if column.kind == "name":
            words = "in reverse alphabetical order" if down else "[in alphabetical order|alphabetically]"
        text = self.say(
            ASK + " the <cs> of <es>[, | ][sorted|ordered] by <c> " + words,
            cs=self.columns_of(columns),
            es=self.all_of(table),
            c=column.phrase,
        )
        order = f"{column.name} {'DESC' if down else 'ASC'}"
        return text, Query([c.name for c in columns], [(table.name, "", "")], order=order)

    def show_extreme(self):
        table = self.table()
        column = self.column(table, "number")
        columns = [c for c in self.shown(table, self.rng.weighted([(4, 1), (2, 2)])) if c is not column]
        if not column or not columns:
            return None
        phrase, direction = self.extreme(table, column)
        limit = self.rng.weighted([(5, 1), (1, 2), (2, 3), (1, 5)])
        condition = self.condition(table, skip=(column,)) if self.rng.chance(0.3) else None
        if condition and "{} with" in phrase:
            condition = None
        number = {1: "", 2: "two ", 3: "three ", 5: "five "}[limit]
        noun = phrase.format(table.singular if limit == 1 else table.plural)
        text = self.say(
            ASK_ONE + " the <cs> of the <n><e> <p>",
            cs=self.columns_of(columns, limit > 1),
            n=number,
            e=noun,
            p=condition[0] if condition else "",
        )
        if limit == 1 and len(columns) == 1 and columns[0] is self.label(table) and self.rng.chance(0.4):
            text = self.say(
                "which <e> [has the|is the one with the] <s> <c>[; give its <l>|, by <l>]",
                e=table.singular,
                c=column.phrase,
                l=columns[0].phrase,
                s="highest" if direction == "DESC" else "lowest",
            )
            condition = None
        return text, Query(
            [c.name for c in columns],
            [(table.name, "", "")],
            [condition[1]] if condition else [],
            order=f"{column.name} {direction}",
            limit=limit,
        )

    def group_count(self):
        table = self.table()
        column = self.column(table, "text")
        if not column:
            return None
        text = self.say(
            "[how many <es> are there [for|in] each <c>|how many <es> does each <c> have|"
            "for each <c>, [count the|how many|find the number of] <es>|"
            + ASK_ONE
            + " the number of <es> [for|of|in] each <c>|"
            "[show|list|give] each <c> [and the|with its] number of <es>]",
            es=table.plural,
            c=column.phrase,
        )
        return text, Query([column.name, "count(*)"], [(table.name, "", "")], group=column.name)

    def group_aggregate(self):
        table = self.table()
        column, number = self.column(table, "text"), self.column(table, "number")
        if not column or not number:
            return None
        function, word = self.aggregate(number)
        text = self.say(
            "[" + ASK_ONE + " the <f> <n> of [the |]<es> [for|of|in] each <c>|"
            "for each <c>, [show|find|give|what is] the <f> <n> of [the|its] <es>|"
            "[show|list|give] each <c> [and the|with the] <f> <n> of its <es>]",
            es=table.plural,
            c=column.phrase,
            f=word,
            n=number.phrase,
        )
        return text, Query([column.name, f"{function}({number.name})"], [(table.name, "", "")], group=column.name)

    def group_having(self):
        table = self.table()
        column = self.column(table, "text")
        if not column:
            return None
        sign, words, value = self.count_test()
        text = self.say(
            "[which <cs> have|" + ASK + " the <cs> [with|that have|shared by]] " + words + " <es>",
            cs=plural(column.phrase),
            es=table.plural,
            v=str(value),
        )
        return text, Query([column.name], [(table.name, "", "")], group=column.name, having=f"count(*) {sign} {value}")

    def group_most(self):
        table = self.table()
        column = self.column(table, "text")
        if not column:
            return None
        most = self.rng.chance(0.7)
        words = ("most", "most common", "largest") if most else ("fewest", "least common", "smallest")
        condition = self.condition(table, skip=(column,)) if self.rng.chance(0.25) else None
        text = self.say(
            "[which <c> has the <m> [number of |]<es>|[what is|find|show] the <k> <c> [of|among] the <es>|"
            "[find|give|show] the <c> with the <l> number of <es>]"
            if not condition
            else "[what is|find|show|give] the <k> <c> [of|among] the <es> <p>",
            c=column.phrase,
            es=table.plural,
            m=words[0],
            k=words[1],
            l=words[2],
            p=condition[0] if condition else "",
        ).replace("most number of", "largest number of")
        return text, Query(
            [column.name],
            [(table.name, "", "")],
            [condition[1]] if condition else [],
            column.name,
            order=f"count(*) {'DESC' if most else 'ASC'}",
            limit=1,
        )

    def above_average(self):
        table = self.table()
        number = self.column(table, "number")
        columns = [c for c in self.shown(table, self.rng.weighted([(3, 1), (1, 2)])) if c is not number]
        if not number or not columns:
            return None
        over = self.rng.chance(0.6)
        condition = self.condition(table, skip=(number,)) if self.rng.chance(0.3) else None
        words = "[above|higher than|greater than|over]" if over else "[below|lower than|less than|under]"
        text = self.say(
            ASK + " the <cs> of [the |]<es> <p>[whose <n> <be>|with <a>] " + words + " [the |]average [<n>|]",
            cs=self.columns_of(columns),
            es=table.plural,
            n=number.phrase,
            a=phrases.article(number.phrase),
            be=self.be(number),
            p=condition[0] + " and " if condition else "",
        )
        test = f"{number.name} {'>' if over else '<'} (SELECT avg({number.name}) FROM {table.name})"
        where = [condition[1], "AND", test] if condition else [test]
        return text, Query([c.name for c in columns], [(table.name, "", "")], where, nested=1)

    def both_values(self):
        """INTERSECT, UNION or EXCEPT of two conditions on one table."""
        table = self.table()
        column = self.column(table, "text")
        if not column:
            return None
        first = self.condition(table, skip=(column,))
        second = first and self.condition(table, skip=(column, first[2]))
        if not second:
            return None
        word = self.rng.choice(("INTERSECT", "EXCEPT", "UNION"))
        joint = {
            "INTERSECT": "<cs> [shared by|of both] <es> <p> and <es> <q>",
            "EXCEPT": "<cs> of <es> <p> but [not of|of no] <es> <q>",
            "UNION": "<cs> of [either |]<es> <p> or <es> <q>, [together|combined]",
        }[word]
        text = self.say(ASK + " the " + joint, cs=plural(column.phrase), es=table.plural, p=first[0], q=second[0])
        return text, Query(
            [column.name],
            [(table.name, "", "")],
            [first[1]],
            compound=(word, Query([column.name], [(table.name, "", "")], [second[1]])),
        )
