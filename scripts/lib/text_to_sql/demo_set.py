"""The demo set: SQLite files with stable bytes, and questions in equal shares of databases and hardness levels."""

import dataclasses
import pathlib
import sqlite3
import tempfile

from text_to_sql import demo_domains
from text_to_sql.grammar import KINDS, Grammar
from text_to_sql.prompts import TYPES
from text_to_sql.rng import Rng
from text_to_sql.schema import create_table, spider_entry

# Questions of one database by hardness.
TRAIN = {"easy": 38, "medium": 49, "hard": 21, "extra": 17}
DEV_SEEN = {"easy": 3, "medium": 4, "hard": 2, "extra": 1}
DEV_UNSEEN = {"easy": 12, "medium": 16, "hard": 7, "extra": 5}

SQLITE_VERSION = 3037000  # what every file says it was written by
PAGE = 4096  # each table fits in one: how a table is spread over pages differs between versions of SQLite


@dataclasses.dataclass
class Demo:
    tables: list
    train: list
    dev: list
    databases: dict  # db_id: bytes of the SQLite file


def fill(connection, schema, rows):
    for table in schema.tables:
        connection.execute(create_table(schema, table, TYPES))
        marks = ", ".join("?" * len(table.columns))
        connection.executemany(f"INSERT INTO {table.name} VALUES ({marks})", rows[table.name])


def sqlite_bytes(schema, rows):
    """A SQLite file, its header freed of what depends on the library that wrote it."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "database.sqlite"
        connection = sqlite3.connect(path, isolation_level=None)
        for pragma in (f"page_size = {PAGE}", "encoding = 'UTF-8'", "auto_vacuum = NONE", "journal_mode = DELETE"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("BEGIN")
        fill(connection, schema, rows)
        connection.execute("COMMIT")
        connection.close()
        content = bytearray(path.read_bytes())
    if len(content) != PAGE * (1 + len(schema.tables)):
        raise ValueError(f"{schema.db_id}: a table does not fit in one page of {PAGE} bytes")
    content[24:28] = content[92:96] = (1).to_bytes(4, "big")  # change counter, and the one the version is valid for
    content[96:100] = SQLITE_VERSION.to_bytes(4, "big")
    return bytes(content)


def has_answer(connection, query):
    """Whether the query finds something: rows, and neither NULL nor a bare count of nothing."""
    result = connection.execute(str(query)).fetchall()
    return bool(result) and all(value is not None for row in result for value in row) and result != [(0,)]


class Questions:
    """Draws different questions of one database until each hardness level has what is asked for."""

    def __init__(self, schema, rows, rng):
        self.schema, self.connection = schema, sqlite3.connect(":memory:")
        fill(self.connection, schema, rows)
        self.grammar = Grammar(schema, rng)
        self.questions, self.held_out = set(), set()

    def draw(self, wanted):
        left, result = dict(wanted), []
        while any(left.values()):
            pair = self.grammar.draw(KINDS)
            if pair is None:
                continue
            question, query = pair
            level = query.hardness()
            if left[level] and self.is_new(question, query) and has_answer(self.connection, query):
                left[level] -= 1
                self.questions.add(normal(question))
                result.append({"db_id": self.schema.db_id, "query": str(query), "question": question})
        return result

    def is_new(self, question, query):
        return normal(question) not in self.questions and str(query) not in self.held_out

    def hold_out(self, wanted):
        """Like draw; the queries are never drawn again."""
        rows = self.draw(wanted)
        self.held_out.update(row["query"] for row in rows)
        return rows


def normal(question):
    """What two questions have in common that differ in case and marks alone."""
    return question.lower().rstrip("?.")


def make(seed):
    """The whole set; train.json is shuffled, dev.json lies by database."""
    demo = Demo([], [], [], {})
    for db_id in demo_domains.DOMAINS:
        schema, rows = demo_domains.build(db_id, Rng(seed, "rows", db_id))
        demo.tables.append(spider_entry(schema))
        demo.databases[db_id] = sqlite_bytes(schema, rows)
        questions = Questions(schema, rows, Rng(seed, "questions", db_id))
        if db_id in demo_domains.UNSEEN:
            demo.dev += questions.hold_out(DEV_UNSEEN)
        else:
            demo.dev += questions.hold_out(DEV_SEEN)
            demo.train += questions.draw(TRAIN)
    demo.train = Rng(seed, "order").shuffled(demo.train)
    return demo
