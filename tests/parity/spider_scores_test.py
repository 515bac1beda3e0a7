"""Spider's scores against what the official evaluator said of published systems, question by question: hardness,
parsed, exact, execution, and the partial scores of its example. With several databases a schema, execution is right
where it is right on each of them. Skips (77) without the test data."""
import json
import os
import pathlib
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile

BUILD = pathlib.Path(os.environ["QLORA_BUILD"])
DATA = pathlib.Path(os.environ.get("QLORA_TEST_DATA", pathlib.Path.home() / ".cache/qlora/test-data"))
PROBE = BUILD / "tests" / "probe_spider_score"
COLUMNS = ("hardness", "parsed", "exact", "execution")


def score(gold, predictions, seconds=30, flags=(), databases=DATA / "spider/database"):
    out = subprocess.run([PROBE, DATA / "spider/tables.json", databases, gold, predictions, str(seconds), *flags],
                         check=True, capture_output=True, text=True).stdout.splitlines()
    return [dict(zip(("index",) + COLUMNS + ("syntax",), line.split("\t"))) for line in out[:-1]], json.loads(out[-1])


def labels(path):
    lines = path.read_text(encoding="utf-8").splitlines()[1:]
    return [dict(zip(("index", "db_id") + COLUMNS, line.split("\t"))) for line in lines]


def compare_system(name, gold, predictions, flags=()):
    ours, rest = score(gold, predictions, flags=flags)
    theirs = labels(DATA / f"spider_preds/labels/{name}.tsv")
    assert len(ours) == len(theirs) == 1034, (len(ours), len(theirs))
    different = {}
    for column in COLUMNS:
        rows = [i for i, (a, b) in enumerate(zip(ours, theirs)) if a[column] != b[column]]
        different[column] = len(rows)
        for i in rows[:5]:
            print(f"  {name}, question {i}: {column} is {ours[i][column]}, official {theirs[i][column]}")
    print(f"{name}: 1034 questions in {rest['seconds']:.2f} s; differences {different}")
    return sum(different.values()), rest["partial"]


def with_rows_left_out(source, target, remainder):
    shutil.copy(source, target)
    database = sqlite3.connect(target)
    database.text_factory = bytes
    for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        if not table.startswith(b"sqlite_"):
            database.execute(f'DELETE FROM "{table.decode()}" WHERE rowid % 3 = {remainder}')
    database.commit()
    database.close()


def compare_several_databases(gold, predictions):
    """A suite of three databases a schema, and each of them alone: the official evaluator asks for all."""
    def executed(folder):
        return [row["execution"] == "1" for row in score(gold, predictions, databases=folder)[0]]

    with tempfile.TemporaryDirectory() as temporary:
        suite, alone = pathlib.Path(temporary) / "suite", []
        used = {line.split("\t")[1].strip() for line in gold.read_text().splitlines()}
        for number in range(3):
            folder = pathlib.Path(temporary) / str(number)
            for name in used:
                single, together = folder / name / f"{name}.sqlite", suite / name / f"{name}_{number}.sqlite"
                single.parent.mkdir(parents=True)
                together.parent.mkdir(parents=True, exist_ok=True)
                if number == 0:
                    together = suite / name / f"{name}.sqlite"
                with_rows_left_out(DATA / f"spider/database/{name}/{name}.sqlite", single, number)
                shutil.copy(single, together)
            alone.append(executed(folder))
        all_three = executed(suite)
    expected = [all(one) for one in zip(*alone)]
    wrong = sum(a != b for a, b in zip(all_three, expected))
    print(f"three databases a schema: right on each {[sum(one) for one in alone]}, on all {sum(all_three)}; {wrong} differ")
    assert sum(expected) < min(sum(one) for one in alone), "the databases must tell answers apart"
    return wrong


def compare_partial(partial, printed):
    """The columns of each line of the official tables, levels and all, to the three digits printed."""
    tables = re.split(r"PARTIAL MATCHING (?:ACCURACY|RECALL|F1)", printed)[1:]
    wrong = 0
    for table, key in zip(tables, ("accuracy", "recall", "f1")):
        for clause, scores in partial.items():
            line = next(l for l in table.splitlines() if l[:21].strip() == clause)
            levels = [scores["by"][level][key] for level in ("easy", "medium", "hard", "extra")] + [scores[key]]
            wrong += sum(f"{ours:.3f}" != official for ours, official in zip(levels, line[21:].split()[:4] + line.split()[-1:]))
    print(f"partial scores: {15 * len(partial)} numbers, {wrong} differ")
    return wrong


def main():
    if not (DATA / "spider_preds/labels").is_dir():
        print(f"skipped: no test data in {DATA}")
        return 77
    wrong = 0
    for system in ("din_sql_gpt4", "din_sql_codex"):
        folder = DATA / "spider_preds"
        wrong += compare_system(system, folder / f"{system}.gold.txt", folder / f"{system}.pred.txt")[0]
    folder = DATA / "spider_eval_examples"
    different, partial = compare_system("taoyds_pred_example", folder / "gold_example.txt", folder / "pred_example.txt")
    wrong += different
    wrong += compare_system("taoyds_pred_example.plug_value", folder / "gold_example.txt",
                            folder / "pred_example.txt", ("plug",))[0]
    wrong += compare_partial(partial, (folder / "peer_testsuite_goldexample_predexample_all.out").read_text())

    wrong += compare_several_databases(DATA / "spider_preds/din_sql_gpt4.gold.txt",
                                       DATA / "spider_preds/din_sql_gpt4.pred.txt")

    # All gold runs within the sandbox and scores 1 against itself.
    gold = DATA / "spider/dev_gold.sql"
    rows, _ = score(gold, gold)
    failed = [r["index"] for r in rows if (r["parsed"], r["exact"], r["execution"], r["syntax"]) != ("1",) * 4]
    print(f"dev gold against itself: {len(rows)} questions, {len(failed)} fail {failed[:5]}")
    wrong += len(failed)

    # The comparison can fail: every answer moved by one line.
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as moved:
        lines = (DATA / "spider_preds/din_sql_gpt4.pred.txt").read_text().splitlines()
        moved.write("\n".join(lines[1:] + lines[:1]) + "\n")
        moved.flush()
        rows, _ = score(DATA / "spider_preds/din_sql_gpt4.gold.txt", moved.name)
        assert sum(r["execution"] == "1" for r in rows) < 600
    return 1 if wrong else 0


sys.exit(main())
