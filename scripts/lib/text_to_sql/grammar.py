"""Questions and their queries over any schema: the one grammar of the demo set and of the base corpus."""

from text_to_sql import phrases
from text_to_sql.grammar_links import LinkKinds
from text_to_sql.grammar_tables import TableKinds

# How often each kind is drawn.
KINDS = [
    (2, "count_rows"),
    (4, "count_where"),
    (3, "count_distinct"),
    (4, "show_columns"),
    (3, "show_distinct"),
    (9, "show_where"),
    (6, "show_two_conditions"),
    (3, "count_two_conditions"),
    (3, "either_value"),
    (5, "aggregate_column"),
    (4, "two_aggregates"),
    (5, "show_sorted"),
    (7, "show_extreme"),
    (5, "group_count"),
    (4, "group_aggregate"),
    (4, "group_having"),
    (4, "group_most"),
    (5, "above_average"),
    (4, "both_values"),
    (4, "without_children"),
    (2, "count_without_children"),
    (4, "with_no_such_child"),
    (7, "child_by_parent"),
    (3, "count_by_parent"),
    (3, "aggregate_by_parent"),
    (4, "parent_by_child"),
    (4, "parent_and_child"),
    (5, "children_per_parent"),
    (5, "parents_with_many"),
    (5, "parent_with_most"),
    (3, "shared_parents"),
    (3, "extreme_of_parent"),
    (6, "across"),
]


class Grammar(TableKinds, LinkKinds):
    """Draws (question, query) pairs over one schema. `draw` gives None where the schema lacks what a kind needs."""

    def draw(self, kinds):
        """One pair of a kind drawn from (weight, method name) pairs."""
        kind = self.rng.weighted(kinds)
        pair = getattr(self, kind)()
        return pair and (phrases.sentence(self.rng, pair[0]), pair[1])
