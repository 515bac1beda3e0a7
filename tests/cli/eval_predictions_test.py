"""`qlora eval` without a model: predictions against gold, its files, its exit codes. Standard library only."""
import csv
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


def check_files_side_by_side(zoo):
    """Earlier predictions of the same rows, paired with the run called base, else with the first."""
    out = zoo.folder / "out"
    for name in ("before", "after"):
        (zoo.folder / name).mkdir()
    lines = lambda run, answers: "".join(
        json.dumps({"run": run, "id": i, "prediction": a, "gold": GOLD[i][0], "db_id": "zoo"}) + "\n"
        for i, a in enumerate(answers))
    zoo.write("before/predictions.jsonl", lines("tuned", ["", "", ""]))
    zoo.write("after/predictions.jsonl", lines("tuned", ANSWERS))
    zoo.write("third.jsonl", lines("base", [gold for gold, _ in GOLD]))
    def paired(first, *more, flags=()):
        others = [part for name in more for part in ("--predictions", zoo.folder / name)]
        done = zoo.eval(*others, "--json", "--output_dir", out, *flags, predictions=first)
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        pairs = {name: pair["spider"]["execution"] for name, pair in report["paired"].items()}
        return report, {name: (p["wins"], p["losses"], p["ties"]) for name, p in pairs.items()}
    report, pairs = paired("before/predictions.jsonl", "after/predictions.jsonl")
    assert list(report["runs"]) == ["tuned", "after"] and report["paired_with"] == "tuned", report["runs"].keys()
    assert report["runs"]["after"]["predictions"] == str(zoo.folder / "after/predictions.jsonl")
    assert pairs == {"after": (1, 0, 2)}, pairs
    page = (out / "report.html").read_text()
    assert "after against tuned" in page and "<dt>tuned</dt>" in page and "<dt>after</dt>" in page
    report, pairs = paired("before/predictions.jsonl", "third.jsonl", "plain.sql")
    assert report["paired_with"] == "base" and pairs == {"tuned": (0, 3, 0), "plain": (0, 2, 1)}, pairs
    again, pairs = paired("out/predictions.jsonl")  # what was written is read as it was
    assert again["paired"] == report["paired"] and again["paired_with"] == "base"
    zoo.write("two.jsonl", lines("x", ["", "", ""]) + lines("y", ANSWERS))
    assert paired("two.jsonl")[0]["paired_with"] is None
    assert paired("two.jsonl", flags=("--baseline",))[1] == {"y": (1, 0, 2)}
    zoo.write("short.jsonl", lines("short", ANSWERS[:2]))
    short = zoo.eval("--predictions", zoo.folder / "short.jsonl", predictions="plain.sql")
    assert short.returncode == 3 and "short.jsonl: 2 predictions" in short.stderr, short.stderr


def check_generated_answers(zoo):
    """Answers of the task generate are scored again from their file; no gold file, no databases."""
    out = zoo.folder / "out"
    zoo.write("chat.jsonl", "".join(
        json.dumps({"run": run, "task": "generate", "id": i, "prompt": "p", "prediction": p, "gold": "a b c d e"}) + "\n"
        for run, answers in (("base", ["a b", "x"]), ("tuned", ["a b c d e", "x"])) for i, p in enumerate(answers)))
    command = [QLORA, "eval", "--tasks", "generate", "--predictions", zoo.folder / "chat.jsonl", "--json", "--output_dir", out]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    pair = report["paired"]["tuned"]["generate"]["rougeL"]
    assert (pair["wins"], pair["losses"], pair["ties"]) == (1, 0, 1), pair
    assert report["runs"]["tuned"]["tasks"]["generate"]["overall"]["exact_string"] == 0.5
    absent = subprocess.run([*command[:3], "perplexity", *command[4:]], capture_output=True, text=True, timeout=120, check=False)
    assert absent.returncode == 2 and "needs a model" in absent.stderr, absent.stderr


def check_blind_ratings(zoo):
    """A sheet without names, filled in as its answers are, becomes a paired score."""
    sheet, out = zoo.folder / "sheet.csv", zoo.folder / "judged"
    done = zoo.eval("--blind", sheet, predictions="runs.jsonl")
    assert done.returncode == 0, done.stderr
    text = sheet.read_text()
    assert "base" not in text and "tuned" not in text
    with open(sheet, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["row", "id", "question", "a", "b", "preference"], rows[0]
    for row, tuned in zip(rows, ANSWERS):
        assert tuned in (row["a"], row["b"]), row
        if row["preference"] == "":
            row["preference"] = "a" if row["a"] == tuned else "b"
    assert [row["preference"] == "tie" for row in rows] == [False, True, False], rows
    with open(sheet, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(reversed(rows))
    again = zoo.eval("--blind", sheet, predictions="runs.jsonl")
    assert again.returncode == 2 and "people may have worked on it" in again.stderr, again.stderr
    one = zoo.eval("--blind", zoo.folder / "one.csv")
    assert one.returncode == 2 and "there is 1" in one.stderr and not (zoo.folder / "one.csv").exists(), one.stderr

    command = [QLORA, "eval", "--ratings", sheet, "--json", "--output_dir", out]
    run = lambda *flags: subprocess.run([*command, *flags], capture_output=True, text=True, timeout=120, check=False)
    alone = run("--require", "ratings.preferred:0.8")
    assert alone.returncode == 0, alone.stderr
    assert run("--require", "ratings.preferred:0.9").returncode == 7
    pair = json.loads(alone.stdout)["paired"]["tuned"]["ratings"]["preferred"]
    assert (pair["wins"], pair["losses"], pair["ties"], pair["p_value"]) == (2, 0, 1, 0.5), pair
    assert abs(pair["tuned"] - 5 / 6) < 1e-9 and abs(pair["base"] - 1 / 6) < 1e-9, pair
    assert "ratings" in (out / "report.html").read_text()
    beside = zoo.eval("--ratings", sheet, "--json", predictions="runs.jsonl")
    paired = json.loads(beside.stdout)["paired"]["tuned"]
    assert paired["ratings"]["preferred"] == pair and paired["spider"]["execution"]["wins"] == 1, paired
    (zoo.folder / "sheet.key.json").unlink()
    keyless = run()
    assert keyless.returncode == 3 and "sheet.key.json" in keyless.stderr, keyless.stderr
    assert run("--dry_run").returncode == 3


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
    for check in (check_reports, check_plain_file, check_plugged_values, check_own_gold, check_files_side_by_side,
                  check_generated_answers, check_blind_ratings, check_plan, check_exit_codes):
        with tempfile.TemporaryDirectory() as folder:
            check(Zoo(folder))
    print("eval of prediction files: reports, plain files, exit codes as documented")
    return 0


sys.exit(main())
