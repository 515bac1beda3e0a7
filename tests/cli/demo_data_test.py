"""The embedded demo set and the base model's corpus: reproducible bytes, sound queries, levels, nothing leaked."""

import collections
import json
import os
import pathlib
import sqlite3
import subprocess
import sys
import tempfile
import unittest

SOURCE = pathlib.Path(os.environ.get("QLORA_SOURCE", pathlib.Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(SOURCE / "scripts" / "lib"))

from text_to_sql import base_schemas, demo_domains, demo_set, prompts, schema  # noqa: E402
from text_to_sql.grammar import KINDS, Grammar  # noqa: E402
from text_to_sql.query import Query, literal  # noqa: E402
from text_to_sql.rng import Rng  # noqa: E402

DEMO = SOURCE / "data" / "demo"


def script(name, *arguments):
    subprocess.run([sys.executable, SOURCE / "scripts" / name, *map(str, arguments)], check=True)


def load(name):
    return json.loads((DEMO / name).read_text(encoding="utf-8"))


def files(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


class DemoFiles(unittest.TestCase):
    def test_made_again_byte_for_byte(self):
        with tempfile.TemporaryDirectory() as folder:
            made = pathlib.Path(folder)
            script("make-demo-data", made)
            self.assertEqual(files(made), [path for path in files(DEMO) if path.name != "README.md"])
            for path in files(made):
                self.assertEqual((made / path).read_bytes(), (DEMO / path).read_bytes(), path)

    def test_another_seed_makes_other_rows(self):
        one, two = (demo_set.make(seed) for seed in (1, 2))
        self.assertNotEqual(one.dev, two.dev)
        self.assertNotEqual(one.databases["library"], two.databases["library"])

    def test_databases_are_sound_and_as_tables_json_has_them(self):
        for entry in load("tables.json"):
            path = DEMO / "database" / entry["db_id"] / f"{entry['db_id']}.sqlite"
            connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
            self.assertEqual(connection.execute("PRAGMA integrity_check").fetchall(), [("ok",)], path)
            self.assertEqual(connection.execute("PRAGMA foreign_key_check").fetchall(), [], path)
            for number, table in enumerate(entry["table_names_original"]):
                columns = [name for owner, name in entry["column_names_original"] if owner == number]
                self.assertEqual([row[1] for row in connection.execute(f"PRAGMA table_info({table})")], columns)
                self.assertGreaterEqual(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0], 18)
            connection.close()


class Questions(unittest.TestCase):
    def setUp(self):
        self.train, self.dev = load("train.json"), load("dev.json")

    def test_counts_and_databases(self):
        self.assertEqual((len(self.train), len(self.dev)), (1500, 200))
        seen = {row["db_id"] for row in self.train}
        held_out = {row["db_id"] for row in self.dev} - seen
        self.assertEqual(held_out, set(demo_domains.UNSEEN))
        self.assertGreaterEqual(len(seen), 12)
        self.assertEqual(sum(row["db_id"] in held_out for row in self.dev), 80)

    def test_every_query_finds_something(self):
        connections = {}
        for row in self.train + self.dev:
            path = DEMO / "database" / row["db_id"] / f"{row['db_id']}.sqlite"
            if row["db_id"] not in connections:
                connections[row["db_id"]] = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
            result = connections[row["db_id"]].execute(row["query"]).fetchall()
            self.assertTrue(result and result != [(0,)], row)
            self.assertFalse(any(value is None for values in result for value in values), row)
        for connection in connections.values():
            connection.close()

    def test_every_level_in_its_share(self):
        """Counted from the texts alone, by another road than the generator's."""
        for rows, shares in ((self.train, demo_set.TRAIN), (self.dev[-40:], demo_set.DEV_UNSEEN)):
            levels = collections.Counter(level_of(row["query"]) for row in rows)
            share = len(rows) // sum(shares.values())
            self.assertEqual(dict(levels), {level: share * count for level, count in shares.items()})
        self.assertEqual(set(map(level_of, (row["query"] for row in self.dev))), {"easy", "medium", "hard", "extra"})

    def test_nothing_leaks(self):
        asked = {demo_set.normal(row["question"]) for row in self.train}
        queries = {(row["db_id"], row["query"]) for row in self.train}
        for row in self.dev:
            self.assertNotIn(demo_set.normal(row["question"]), asked)
            self.assertNotIn((row["db_id"], row["query"]), queries)
        self.assertEqual(len({(row["db_id"], demo_set.normal(row["question"])) for row in self.dev}), 200)
        self.assertEqual(len({(row["db_id"], demo_set.normal(row["question"])) for row in self.train}), 1500)


def level_of(text):
    """Spider's hardness of a query in the demo's style, read off its words."""
    outer, _, _ = min(
        (text.partition(f" {word} SELECT ") for word in ("INTERSECT", "UNION", "EXCEPT")), key=lambda p: len(p[0])
    )
    compound = outer != text
    flat = outer
    while "(SELECT" in flat:
        start = flat.index("(SELECT")
        depth, end = 0, start
        while True:
            depth += {"(": 1, ")": -1}.get(flat[end], 0)
            end += 1
            if depth == 0:
                break
        flat = flat[:start] + "nested" + flat[end:]
    where = flat.partition(" WHERE ")[2].partition(" GROUP BY ")[0].partition(" ORDER BY ")[0]
    where = between(where)
    first = sum(word in flat for word in (" WHERE ", " GROUP BY ", " ORDER BY ", " LIMIT "))
    first += flat.count(" JOIN ") + where.count(" OR ") + where.count(" LIKE ")
    second = flat.count("nested") + compound
    select = flat.partition(" FROM ")[0]
    order = flat.partition(" ORDER BY ")[2]
    aggregates = select.count("(") + order.count("(") + where.count(" NOT IN ")
    others = (aggregates > 1) + ("," in select) + (" & " in where or " OR " in where)
    if second == 0 and first <= 1 and others == 0:
        return "easy"
    if second == 0 and (first <= 1 and others <= 2 or first <= 2 and others < 2):
        return "medium"
    if (
        second == 0
        and (first <= 2 and others > 2 or first == 3 and others <= 2)
        or second == 1
        and first <= 1
        and not others
    ):
        return "hard"
    return "extra"


def between(where):
    """`where` with " & " for each AND but that of BETWEEN."""
    head, *rest = where.split(" BETWEEN ")
    return head.replace(" AND ", " & ") + "".join(
        " " + part.replace(" AND ", " TO ", 1).replace(" AND ", " & ") for part in rest
    )


class BaseCorpus(unittest.TestCase):
    def test_the_same_bytes_however_it_is_cut(self):
        with tempfile.TemporaryDirectory() as folder:
            whole, part = pathlib.Path(folder) / "whole", pathlib.Path(folder) / "part"
            script("make-base-corpus", whole, "--rows", 400)
            script("make-base-corpus", part, "--first", 101, "--rows", 150)
            lines = whole.read_bytes().splitlines()
            self.assertEqual(part.read_bytes().splitlines(), lines[101:251])
            self.assertEqual(len(set(lines)), 400)

    def test_answers_are_prose_around_sql(self):
        for number in range(100):
            rng = Rng(3, number)
            query = Query(["name"], [("ship", "", "")], [f"name = {literal(str(number))}"])
            answer = prompts.prose(rng, query)
            self.assertFalse(answer.startswith("SELECT"))
            self.assertIn(str(query), answer)

    def test_no_table_of_the_demo_and_no_question_of_it(self):
        demo_tables = {name for entry in load("tables.json") for name in entry["table_names_original"]}
        asked = {demo_set.normal(row["question"]) for row in load("dev.json")}
        for number in range(1500):
            rng = Rng(1, "base", number)
            drawn = base_schemas.draw(rng, "base")
            self.assertFalse(demo_tables & {table.name for table in drawn.tables})
            grammar = Grammar(drawn, rng)
            pairs = filter(None, (grammar.draw(KINDS) for _ in range(8)))
            self.assertFalse(asked & {demo_set.normal(question) for question, _ in pairs})

    def test_every_query_runs_on_its_schema(self):
        for number in range(400):
            rng = Rng(2, "base", number)
            drawn = base_schemas.draw(rng, "base")
            connection = sqlite3.connect(":memory:")
            for table in drawn.tables:
                connection.execute(schema.create_table(drawn, table, prompts.TYPES))
            grammar = Grammar(drawn, rng)
            for _ in range(6):
                pair = grammar.draw(KINDS)
                if pair:
                    connection.execute(str(pair[1]))
            connection.close()


class BaseModel(unittest.TestCase):
    def test_initial_weights_fit_the_config(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "model.safetensors"
            script("make-base-init", SOURCE / "data" / "base-model", path)
            content = path.read_bytes()
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        header.pop("__metadata__")
        numbers = sum(entry["data_offsets"][1] - entry["data_offsets"][0] for entry in header.values()) // 4
        self.assertEqual(len(content), 8 + length + 4 * numbers)
        self.assertTrue(2e6 <= numbers <= 3e6, numbers)

    def test_the_folder_is_small_enough(self):
        size = sum(
            (SOURCE / "data" / "base-model" / path).stat().st_size for path in files(SOURCE / "data" / "base-model")
        )
        self.assertLessEqual(size, 8 << 20)


if __name__ == "__main__":
    unittest.main()
