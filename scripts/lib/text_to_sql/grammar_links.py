"""Kinds of questions over tables that are linked."""

from text_to_sql import phrases
from text_to_sql.grammar_parts import ASK, ASK_ONE, Parts
from text_to_sql.query import Query
from text_to_sql.schema import plural


class LinkKinds(Parts):
    """Each method draws a (question, query) pair, or None where the schema lacks what its kind needs."""

    def without_children(self):
        link = self.link()
        if not link:
            return None
        parent, child = link.parent, link.child
        columns = self.shown(parent, self.rng.weighted([(4, 1), (1, 2)]))
        text = self.say(
            ASK + " the <cs> of [the |all |]<ps> [that have no|without any|that do not have any|with no] <es>",
            cs=self.columns_of(columns),
            ps=parent.plural,
            es=child.plural,
        )
        test = f"{parent.id.name} NOT IN (SELECT {link.column.name} FROM {child.name})"
        return text, Query([c.name for c in columns], [(parent.name, "", "")], [test], nested=1)

    def count_without_children(self):
        link = self.link()
        if not link:
            return None
        text = self.say(
            "[how many <ps> [have no|do not have any]|count the <ps> [without any|that have no]] <es>",
            ps=link.parent.plural,
            es=link.child.plural,
        )
        test = f"{link.parent.id.name} NOT IN (SELECT {link.column.name} FROM {link.child.name})"
        return text, Query(["count(*)"], [(link.parent.name, "", "")], [test], nested=1)

    def with_no_such_child(self):
        """Parents none of whose children meet a condition, or some child of whom does."""
        link = self.link()
        condition = link and self.condition(link.child)
        if not condition:
            return None
        parent, child = link.parent, link.child
        columns = self.shown(parent, self.rng.weighted([(4, 1), (1, 2)]))
        none = self.rng.chance(0.6)
        text = self.say(
            ASK
            + " the <cs> of [the |]<ps> that "
            + ("[have no|do not have any]" if none else "have [some|at least one of the]")
            + " <es> <p>",
            cs=self.columns_of(columns),
            ps=parent.plural,
            es=child.plural,
            p=condition[0],
        )
        inner = f"(SELECT {link.column.name} FROM {child.name} WHERE {condition[1]})"
        test = f"{parent.id.name} {'NOT IN' if none else 'IN'} {inner}"
        return text, Query([c.name for c in columns], [(parent.name, "", "")], [test], nested=1)

    def child_by_parent(self):
        """Columns of children whose parent meets a condition."""
        link = self.link()
        condition = link and self.condition(link.parent, "T2")
        if not condition:
            return None
        child, parent = link.child, link.parent
        columns = self.shown(child, self.rng.weighted([(4, 1), (2, 2)]))
        slots = {
            "cs": self.columns_of(columns),
            "es": child.plural,
            "l": link.phrase,
            "ps": parent.plural,
            "pe": parent.singular,
            "ape": phrases.article(parent.singular),
            "p": condition[0],
        }
        text = self.say(ASK + " the <cs> of [the |all |]<es> <l> [<ps>|the <ps>|<ape>] <p>", **slots)
        label = self.label(parent)
        if condition[2] is label and " = " in condition[1] and self.rng.chance(0.5):
            slots["v"] = condition[1].split(" = ")[1][1:-1].replace("''", "'")
            text = self.say(ASK + " the <cs> of [the |all |]<es> <l> [the <pe> <v>|the <pe> named <v>|<v>]", **slots)
        query = Query([f"T1.{c.name}" for c in columns], self.joined(link, child), [condition[1]])
        return self.maybe_sorted(text, query, child, columns)

    def maybe_sorted(self, text, query, table, columns):
        """Sorts a join's rows now and then."""
        number = self.column(table, "number")
        if not number or number in columns or not self.rng.chance(0.2):
            return text, query
        down = self.rng.chance(0.5)
        text += self.say(
            ", [sorted|ordered] by <c> [from high to low|in descending order]"
            if down
            else ", [sorted|ordered] by <c> [from low to high|in ascending order]",
            c=number.phrase,
        )
        query.order = f"T1.{number.name} {'DESC' if down else 'ASC'}"
        return text, query

    def count_by_parent(self):
        link = self.link()
        condition = link and self.condition(link.parent, "T2")
        if not condition:
            return None
        text = self.say(
            "[how many <es> are <l> <ps> <p>|count the <es> <l> <ps> <p>|find the number of <es> <l> <ps> <p>]",
            es=link.child.plural,
            l=link.phrase,
            ps=link.parent.plural,
            p=condition[0],
        )
        return text, Query(["count(*)"], self.joined(link, link.child), [condition[1]])

    def aggregate_by_parent(self):
        link = self.link()
        number = link and self.column(link.child, "number")
        condition = number and self.condition(link.parent, "T2")
        if not condition:
            return None
        function, word = self.aggregate(number)
        text = self.say(
            ASK_ONE + " the <f> <c> of [the |all |]<es> <l> <ps> <p>",
            f=word,
            c=number.phrase,
            es=link.child.plural,
            l=link.phrase,
            ps=link.parent.plural,
            p=condition[0],
        )
        return text, Query([f"{function}(T1.{number.name})"], self.joined(link, link.child), [condition[1]])

    def parent_by_child(self):
        link = self.link()
        condition = link and self.condition(link.child, "T2")
        if not condition:
            return None
        columns = self.shown(link.parent, self.rng.weighted([(4, 1), (2, 2)]))
        text = self.say(
            ASK + " the [different |distinct |]<cs> of [the |]<ps> that have [<e>|<es>] <p>",
            cs=self.columns_of(columns),
            ps=link.parent.plural,
            e=phrases.article(link.child.singular),
            es=link.child.plural,
            p=condition[0],
        )
        return text, Query(
            [f"T1.{c.name}" for c in columns], self.joined(link, link.parent), [condition[1]], distinct=True
        )

    def parent_and_child(self):
        link = self.link()
        if not link:
            return None
        child, parent = self.shown(link.child)[0], self.shown(link.parent)[0]
        text = self.say(
            ASK + " [the <c> of [each|every] <e> [and|together with|along with] the <p> of its <pe>|"
            "<cs> of <es> [and|together with|along with] the <p> of their <pe>]",
            c=child.phrase,
            cs=plural(child.phrase),
            e=link.child.singular,
            es=link.child.plural,
            p=parent.phrase,
            pe=link.parent.singular,
        )
        query = Query([f"T1.{child.name}", f"T2.{parent.name}"], self.joined(link, link.child))
        if self.rng.chance(0.35):
            condition = self.condition(link.child, "T1", skip=(child,))
            if condition:
                text = self.say(
                    ASK + " <cs> of [the |]<es> <q> [and|together with|along with] the <p> of their <pe>",
                    cs=plural(child.phrase),
                    es=link.child.plural,
                    q=condition[0],
                    p=parent.phrase,
                    pe=link.parent.singular,
                )
                query.where = [condition[1]]
        return text, query

    def children_per_parent(self):
        link = self.link()
        label = link and self.label(link.parent)
        if not label:
            return None
        number = self.column(link.child, "number") if self.rng.chance(0.35) else None
        what, expression = "number of <es>", "count(*)"
        if number:
            function, word = self.aggregate(number)
            what, expression = f"{word} {number.phrase} of [the |its |]<es>", f"{function}(T2.{number.name})"
        text = self.say(
            "[" + ASK + " the <c> of each <p> and [the|its] " + what + "|"
            "for each <p>, [show|give|list|find] the <c> and the " + what + "]",
            c=label.phrase,
            p=link.parent.singular,
            es=link.child.plural,
        )
        return text, Query(
            [f"T1.{label.name}", expression], self.joined(link, link.parent), group=f"T1.{link.parent.id.name}"
        )

    def parents_with_many(self):
        link = self.link()
        if not link:
            return None
        columns = self.shown(link.parent, self.rng.weighted([(4, 1), (1, 2)]))
        sign, words, value = self.count_test()
        text = self.say(
            ASK + " the <cs> of [the |all |]<ps> [that have|with] " + words + " <es>",
            cs=self.columns_of(columns),
            ps=link.parent.plural,
            es=link.child.plural,
            v=str(value),
        )
        return text, Query(
            [f"T1.{c.name}" for c in columns],
            self.joined(link, link.parent),
            group=f"T1.{link.parent.id.name}",
            having=f"count(*) {sign} {value}",
        )

    def parent_with_most(self):
        link = self.link()
        if not link:
            return None
        columns = self.shown(link.parent, self.rng.weighted([(4, 1), (2, 2)]))
        most = self.rng.chance(0.7)
        condition = self.condition(link.child, "T2") if self.rng.chance(0.3) else None
        text = self.say(
            ASK_ONE
            + " the <cs> of the <p> [with|that has] the "
            + ("[most|largest number of]" if most else "[fewest|smallest number of]")
            + " <es> <q>",
            cs=self.columns_of(columns, False),
            p=link.parent.singular,
            es=link.child.plural,
            q=condition[0] if condition else "",
        )
        return text, Query(
            [f"T1.{c.name}" for c in columns],
            self.joined(link, link.parent),
            [condition[1]] if condition else [],
            f"T1.{link.parent.id.name}",
            order=f"count(*) {'DESC' if most else 'ASC'}",
            limit=1,
        )

    def shared_parents(self):
        """INTERSECT or EXCEPT over the parents of two kinds of children."""
        link = self.link()
        first = link and self.condition(link.child, "T2")
        second = first and self.condition(link.child, "T2", skip=(first[2],))
        if not second:
            return None
        column = self.label(link.parent) or self.shown(link.parent)[0]
        both = self.rng.chance(0.5)
        text = self.say(
            ASK + " the <cs> of [the |]<ps> that have <es> <a> " + ("and [also |]" if both else "but no ") + "<es> <b>",
            cs=plural(column.phrase),
            ps=link.parent.plural,
            es=link.child.plural,
            a=first[0],
            b=second[0],
        )
        halves = [
            Query([f"T1.{column.name}"], self.joined(link, link.parent), [test]) for test in (first[1], second[1])
        ]
        halves[0].compound = ("INTERSECT" if both else "EXCEPT", halves[1])
        return text, halves[0]

    def extreme_of_parent(self):
        """The child at one end among those whose parent meets a condition."""
        link = self.link()
        number = link and self.column(link.child, "number")
        condition = number and self.condition(link.parent, "T2")
        if not condition:
            return None
        columns = [c for c in self.shown(link.child, 2) if c is not number][:1]
        if not columns:
            return None
        phrase, direction = self.extreme(link.child, number)
        noun = phrase.format(link.child.singular)
        if not phrase.startswith("{}"):
            noun += f" {link.phrase}"
        else:
            noun = noun.replace(" with the", f" {link.phrase} <ps> <p> with the", 1)
        tail = "" if phrase.startswith("{}") else " <ps> <p>"
        text = self.say(
            ASK_ONE + " the <c> of the " + noun + tail, c=columns[0].phrase, ps=link.parent.plural, p=condition[0]
        )
        return text, Query(
            [f"T1.{columns[0].name}"],
            self.joined(link, link.child),
            [condition[1]],
            order=f"T1.{number.name} {direction}",
            limit=1,
        )

    def across(self):
        """Rows of one table that meet rows of another through a table between them."""
        middles = [t for t in self.schema.tables if sum(link.child is t for link in self.schema.links) > 1]
        if not middles:
            return None
        middle = self.rng.choice(middles)
        near, far = self.rng.sample([link for link in self.schema.links if link.child is middle], 2)
        condition = self.condition(far.parent, "T3")
        if not condition:
            return None
        columns = self.shown(near.parent)
        text = self.say(
            ASK + " the <cs> of [the |]<ps> that have <es> <l> <fs> <p>",
            cs=self.columns_of(columns),
            ps=near.parent.plural,
            es=middle.plural,
            l=far.phrase,
            fs=far.parent.plural,
            p=condition[0],
        )
        tables = self.joined(near, near.parent)
        tables.append((far.parent.name, "T3", f"T2.{far.column.name} = T3.{far.parent.id.name}"))
        return text, Query([f"T1.{c.name}" for c in columns], tables, [condition[1]], distinct=True)
