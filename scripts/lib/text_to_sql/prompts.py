"""Prompts as `prompt_style: schema` renders them, and the base model's prose around its SQL."""

from text_to_sql.schema import create_table

SYSTEM = "You are an SQL expert. You translate questions about a database into SQL queries that answer them."
ONLY_SQL = "Answer with the SQL query only."

# Other frames, so that the base model does not depend on one.
OTHER_SYSTEMS = (
    "You are a helpful assistant.",
    "You answer questions about databases.",
    "You know SQLite well and help people to write queries.",
    "You are a database tutor.",
)
OTHER_FRAMES = (
    "Question: {question}\n\n{schema}",
    "{schema}\n\n{question}",
    "The database has these tables:\n{schema}\n\n{question}\nWrite the query.",
    "{question}\nHere is the schema:\n{schema}",
    "Schema:\n{schema}\n\nPlease help: {question}",
)

INTROS = (
    "Sure! Here is a query for that:",
    "Certainly. You can run this query:",
    "To answer that, use the following query:",
    "This can be done with one query:",
    "Happy to help! Try this:",
    "The query below answers your question:",
    "Let me look at the {table} table. This should work:",
    "We need the {table} table here. The query is:",
    "Good question! In SQL this is written as",
    "You can find this out with",
    "I would write it like this:",
    "The answer comes from {table}:",
)
OUTROS = (
    "It reads the {table} table.",
    "This gives you the answer.",
    "Let me know if you need anything else!",
    "Run it against your database.",
    "The result answers your question.",
    "I hope this helps.",
    "It uses {count} of your tables.",
    "",
    "",
    "",
)
COUNTS = {1: "one", 2: "two", 3: "three"}
TYPES = {"number": "integer", "text": "text"}


def schema_text(schema, types=None):
    return "\n\n".join(create_table(schema, table, types or TYPES) for table in schema.tables)


def messages(schema, question):
    """System and user message of the prompt that the demo asks with."""
    user = f"{schema_text(schema)}\n\nQuestion: {question}\n{ONLY_SQL}"
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": user}]


def other_messages(rng, schema, question):
    """The same question in another frame, with tables in another order and other names for the types."""
    types = rng.choice(
        (
            TYPES,
            {"number": "number", "text": "text"},
            {"number": "INTEGER", "text": "TEXT"},
            {"number": "int", "text": "varchar"},
        )
    )
    frame = rng.choice(OTHER_FRAMES)
    user = frame.format(schema=schema_text(schema, types), question=question)
    system = [{"role": "system", "content": rng.choice(OTHER_SYSTEMS)}] if rng.chance(0.6) else []
    return system + [{"role": "user", "content": user}]


def prose(rng, query):
    """The query wrapped in sentences, fenced or plain, as chat models answer."""
    slots = {"table": query.tables[0][0], "count": COUNTS[len(query.tables)]}
    intro, outro = rng.choice(INTROS).format(**slots), rng.choice(OUTROS).format(**slots)
    if rng.chance(0.5):
        body = f"{intro}\n```sql\n{query}\n```"
    else:
        body = f"{intro}\n{query};"
    return f"{body}\n{outro}" if outro else body
