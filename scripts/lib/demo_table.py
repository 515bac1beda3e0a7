"""The table at the end of scripts/demo, read from the report.json files.

usage: demo_table.py DATA OUTPUT
"""
import json
import pathlib
import sys

ROWS = [  # what the table calls it, the evaluation's folder, the run in its report
    ("base", "eval", "base"),
    ("adapter", "eval", "adapter"),
    ("merged into the dequantized base", "merged-eval", "base"),
    ("merged into the original base", "merged-original-eval", "base"),
]


def load_rows(data, pattern):
    """All questions of the files that match, in the order of the files' names."""
    return [row for path in sorted(data.glob(pattern)) for row in json.loads(path.read_text(encoding="utf-8"))]


def percent(value):
    return "-" if value is None else f"{100 * value:.1f} %"


def execution_over(task, databases):
    """Execution accuracy over the questions of these databases; None where there are none."""
    scores = [score for database, score in task["by_database"].items() if database in databases]
    n = sum(score["n"] for score in scores)
    return sum(score["n"] * score["execution"] for score in scores) / n if n else None


def print_table(header, rows):
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, ["-" * width for width in widths], *rows]:
        print("  ".join(cell.ljust(width) if i == 0 else cell.rjust(width)
                        for i, (cell, width) in enumerate(zip(row, widths))))


def main(data, output):
    questions = load_rows(data, "dev*.json")
    trained = {row["db_id"] for row in load_rows(data, "train*.json")}
    unseen = {row["db_id"] for row in questions} - trained
    table = []
    for name, folder, run in ROWS:
        report = json.loads((output / folder / "report.json").read_text(encoding="utf-8"))
        task = report["runs"][run]["tasks"]["spider"]
        if task["n"] != len(questions):
            sys.exit(f"demo_table.py: {folder}/report.json scores {task['n']} of {len(questions)} held-out questions")
        scores = task["overall"]
        table.append([name, str(task["n"]), percent(scores["execution"]), percent(execution_over(task, trained)),
                      percent(execution_over(task, unseen)), percent(task["extracted"]["execution"]),
                      percent(scores["exact_normalized"]), percent(scores["syntax_valid"])])
    print()
    print_table(["step", "seconds"],
                [line.split("\t") for line in (output / "times.tsv").read_text(encoding="utf-8").splitlines()])
    print(f"\nExecution accuracy over the held-out questions ({len(unseen)} databases were never trained on):\n")
    print_table(["model", "questions", "raw answer", "seen dbs", "unseen dbs", "SQL extracted", "exact normalized",
                 "valid SQL"], table)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
