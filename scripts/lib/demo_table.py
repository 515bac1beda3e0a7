"""The table at the end of scripts/demo, read from the report.json files and the predictions beside them.

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


def mean(values):
    values = list(values)
    return sum(values) / len(values) if values else None


class Evaluation:
    """One run of one report, with the predictions of its rows."""

    def __init__(self, folder, run):
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        task = report["runs"][run]["tasks"]["spider"]
        self.n, self.overall = task["n"], task["overall"]
        lines = (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
        self.rows = [row for row in map(json.loads, lines) if row["run"] == run]

    def over(self, databases, questions):
        """Execution accuracy over the questions of these databases."""
        if len(self.rows) != len(questions):
            sys.exit(f"demo_table.py: {len(self.rows)} predictions, but {len(questions)} questions")
        return mean(row["execution"] for row, question in zip(self.rows, questions) if question["db_id"] in databases)


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
        evaluation = Evaluation(output / folder, run)
        overall = evaluation.overall
        table.append([name, str(evaluation.n), percent(overall["execution"]),
                      percent(evaluation.over(trained, questions)), percent(evaluation.over(unseen, questions)),
                      percent(overall.get("extracted_execution")), percent(overall["exact_normalized"]),
                      percent(overall["syntax_valid"])])
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
