"""`qlora eval` without a model: predictions against gold, its files, its exit codes. Standard library only."""
import json
import os
import pathlib
import sqlite3
import subprocess
import sys
import tempfile

QLORA = pathlib.Path(os.environ["QLORA_BUILD"]) / "qlora"
GOLD = [("SELECT count(*) FROM pet", "zoo"), ("SELECT name FROM pet WHERE age > 3 ORDER BY age DESC", "zoo"),
        ("SELECT name FROM pet WHERE age = (SELECT max(age) FROM pet)", "zoo")]
ANSWERS = ["SELECT COUNT(*) FROM pet;", "", "Here it is:\n```sql\nSELECT name FROM pet ORDER BY age DESC LIMIT 1\n```"]
TABLES = [{"db_id": "zoo", "table_names_original": ["pet"], "foreign_keys": [], "primary_keys": [1],
           "column_names_original": [[-1, "*"], [0, "id"], [0, "name"], [0, "age"]]}]


class Zoo:
    """A set in Spider's layout."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        (self.folder / "database/zoo").mkdir(parents=True)
        with sqlite3.connect(self.folder / "database/zoo/zoo.sqlite") as db:
            db.execute("CREATE TABLE pet (id INTEGER PRIMARY KEY, name TEXT, age INTEGER)")
            db.executemany("INSERT INTO pet VALUES (?, ?, ?)", [(1, "Ann", 3), (2, "Bo", 7), (3, "Cy", 5)])
        db.close()
        self.write("tables.json", json.dumps(TABLES))
        self.write("gold.sql", "".join(f"{sql}\t{db_id}\n" for sql, db_id in GOLD))
        self.write("plain.sql", "\n".join(a.splitlines()[0] if a else "" for a in ANSWERS) + "\n")
        runs = [("base", [ANSWERS[2], "", ""]), ("tuned", ANSWERS)]
        self.write("runs.jsonl", "".join(
            json.dumps({"run": run, "id": i, "prediction": a, "gold": GOLD[i][0], "db_id": "zoo"}) + "\n"
            for run, answers in runs for i, a in enumerate(answers)))

    def write(self, name, text):
        (self.folder / name).write_text(text, encoding="utf-8")

    def eval(self, *flags, predictions="plain.sql"):
        command = [QLORA, "eval", "--tasks", "spider", "--predictions", self.folder / predictions,
                   "--gold", self.folder / "gold.sql", *map(str, flags)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def check_reports(zoo):
    out = zoo.folder / "out"
    done = zoo.eval("--json", "--output_dir", out, "--per_row", zoo.folder / "rows.tsv", predictions="runs.jsonl")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report == json.loads((out / "report.json").read_text())
    tuned = report["runs"]["tuned"]["tasks"]["spider"]
    assert tuned["n"] == 3
    assert abs(tuned["overall"]["execution"] - 1 / 3) < 1e-9, tuned
    assert abs(tuned["extracted"]["execution"] - 2 / 3) < 1e-9, tuned
    assert tuned["by"]["easy"] == {"n": 1, **{k: v for k, v in tuned["by"]["easy"].items() if k != "n"}}
    pair = report["paired"]["tuned"]["spider"]["execution"]
    assert (pair["wins"], pair["losses"], pair["ties"]) == (1, 0, 2), pair
    rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert [r["run"] for r in rows] == ["base"] * 3 + ["tuned"] * 3
    assert rows[5]["prediction"] == ANSWERS[2] and rows[5]["extracted"].startswith("SELECT name")
    lines = (zoo.folder / "rows.tsv").read_text().splitlines()
    assert lines[0] == "index\thardness\tparsed\texact\texecution\trun", lines
    assert [line.split("\t")[-1] for line in lines[1:]] == ["base"] * 3 + ["tuned"] * 3, lines
    html = (out / "report.html").read_text()
    assert "Won: 1" in html and "http" not in html


def check_plain_file(zoo):
    done = zoo.eval("--per_row", zoo.folder / "plain.tsv")
    assert done.returncode == 0, done.stderr
    assert "predictions: spider, 3 rows" in done.stdout and "\x1b" not in done.stdout, done.stdout
    assert (zoo.folder / "plain.tsv").read_text().splitlines()[1:] == [
        "0\teasy\t1\t1\t1", "1\tmedium\t0\t0\t0", "2\thard\t0\t0\t0"]
    sql = zoo.eval("--json", "--extract", "sql", predictions="runs.jsonl")
    task = json.loads(sql.stdout)["runs"]["tuned"]["tasks"]["spider"]
    assert abs(task["overall"]["execution"] - 2 / 3) < 1e-9 and abs(task["raw"]["execution"] - 1 / 3) < 1e-9


def check_plugged_values(zoo):
    zoo.write("other.sql", "SELECT count(*) FROM pet\nSELECT Name FROM pet WHERE age > 1 ORDER BY age DESC\nSELECT 1\n")
    score = lambda *flags: json.loads(zoo.eval("--json", *flags, predictions="other.sql").stdout)["runs"]["predictions"][
        "tasks"]["spider"]["overall"]
    plain, plugged = score(), score("--plug_value", "true")
    assert abs(plain["execution"] - 1 / 3) < 1e-9, plain
    assert abs(plugged["execution"] - 2 / 3) < 1e-9, plugged
    assert {**plain, "execution": 0} == {**plugged, "execution": 0}, (plain, plugged)


def check_own_gold(zoo):
    """A predictions.jsonl brings its gold along."""
    command = [QLORA, "eval", "--tasks", "spider", "--predictions", zoo.folder / "runs.jsonl", "--json"]
    places = ["--tables", zoo.folder / "tables.json", "--db_dir", zoo.folder / "database"]
    done = subprocess.run(command + places, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    task = json.loads(done.stdout)["runs"]["tuned"]["tasks"]["spider"]
    assert task["n"] == 3 and abs(task["overall"]["execution"] - 1 / 3) < 1e-9, task
    assert task["answers"] == {"sql_alone": 1, "empty": 1, "no_query": 0, "prose_before": 1, "prose_after": 0,
                               "code_fence": 1, "other_language": 0}, task["answers"]
    assert set(task["partial"]["where"]["by"]) == {"easy", "medium", "hard", "extra"}, task["partial"]


def check_plan(zoo):
    flags = ("--dry_run", "true", "--limit", "2", "--quiet", "true")
    plan = json.loads(zoo.eval("--json", *flags, predictions="runs.jsonl").stdout)
    assert plan == {"rows": 2, "tasks": ["spider"],
                    "runs": [{"name": name, "adapter": None} for name in ("base", "tuned")]}, plan
    assert zoo.eval(*flags).stdout == "2 rows; tasks: spider; runs: predictions\n"


def check_exit_codes(zoo):
    assert zoo.eval("--require", "spider.execution:0.3").returncode == 0
    missed = zoo.eval("--require", "spider.execution:0.6")
    assert missed.returncode == 7 and "spider.execution is 0.3333, required 0.6" in missed.stderr, missed
    unknown = zoo.eval("--require", "spider.bleu:0.6", predictions="absent.sql")
    assert unknown.returncode == 2 and "token_match, syntax_valid" in unknown.stderr, unknown.stderr
    rows = zoo.eval("--per_row", zoo.folder / "rows.jsonl", predictions="absent.sql")
    assert rows.returncode == 2 and "perplexity" in rows.stderr, rows.stderr
    assert zoo.eval(predictions="absent.sql").returncode == 3
    zoo.write("short.sql", "SELECT 1\n")
    short = zoo.eval(predictions="short.sql")
    assert short.returncode == 3 and "1 predictions" in short.stderr and "3 gold" in short.stderr, short.stderr
    zoo.write("broken.jsonl", '{"prediction": "x"\n')
    assert zoo.eval(predictions="broken.jsonl").returncode == 3
    assert zoo.eval("--tables", zoo.folder / "absent.json").returncode == 3
    assert zoo.eval("--tasks", "perplexity").returncode == 2
    zoo.write("gold.sql", GOLD[0][0] + "\n")
    tabless = zoo.eval()
    assert tabless.returncode == 3 and "gold.sql:1" in tabless.stderr, tabless.stderr


def main():
    if not QLORA.exists():
        print(f"skipped: {QLORA} is not built")
        return 77
    for check in (check_reports, check_plain_file, check_plugged_values, check_own_gold, check_plan, check_exit_codes):
        with tempfile.TemporaryDirectory() as folder:
            check(Zoo(folder))
    print("eval of prediction files: reports, plain files, exit codes as documented")
    return 0


sys.exit(main())
