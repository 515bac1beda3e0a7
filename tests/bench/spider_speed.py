"""Wall time of one system's 1034 predictions on Spider, exact and execution together: `qlora eval --predictions` (whole:
start, sandbox, reports) against the official evaluator (evaluation.py --etype all), one after the other in each run.

usage: spider_speed.py OFFICIAL [RUNS]: OFFICIAL is a checkout of taoyds/test-suite-sql-eval; this Python needs nltk,
sqlparse and tqdm for it. QLORA_BUILD is the build folder. The labels of both are compared, too.
"""
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

DATA = pathlib.Path(os.environ.get("QLORA_TEST_DATA", pathlib.Path.home() / ".cache/qlora/test-data"))
BINARY = pathlib.Path(os.environ["QLORA_BUILD"]) / "qlora"
# A query is one sentence: nltk need not look for its end, for which it would need a file of its own.
OFFICIAL = """
import functools, runpy, sys, nltk, nltk.tokenize
nltk.word_tokenize = functools.partial(nltk.tokenize.word_tokenize, preserve_line=True)
sys.path.insert(0, sys.argv[1])
sys.argv = ["evaluation.py"] + sys.argv[2:]
runpy.run_path(sys.path[0] + "/evaluation.py", run_name="__main__")
"""


def cpu_seconds():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run(command, folder):
    start, used = time.time(), cpu_seconds()
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True, cwd=folder)
    seconds, used = time.time() - start, cpu_seconds() - used
    if result.returncode != 0:
        sys.exit(f"{command[:3]}: exit {result.returncode}\n{result.stderr[-2000:]}")
    return seconds, used, result.stdout


def total(printed, name):
    """The last column of a line that the official evaluator prints."""
    return float(next(line for line in printed.splitlines() if line.startswith(name)).split()[-1])


def main():
    if len(sys.argv) < 2 or not (DATA / "spider_preds").is_dir():
        print(__doc__, f"test data: {DATA}", file=sys.stderr)
        sys.exit(77)
    official = pathlib.Path(sys.argv[1]).resolve()
    spider, systems = DATA / "spider", DATA / "spider_preds"
    for number in range(int(sys.argv[2]) if len(sys.argv) > 2 else 3):
        for system in ("din_sql_gpt4", "din_sql_codex"):
            gold, predictions = systems / f"{system}.gold.txt", systems / f"{system}.pred.txt"
            with tempfile.TemporaryDirectory() as folder:
                ours, ours_cpu, _ = run([BINARY, "eval", "--tasks", "spider", "--predictions", predictions, "--gold", gold,
                                         "--tables", spider / "tables.json", "--db_dir", spider / "database",
                                         "--output_dir", "out", "--per_row", "rows.tsv", "--quiet", "true"], folder)
                rows = [line.split("\t") for line in (pathlib.Path(folder) / "rows.tsv").read_text().splitlines()[1:]]
                theirs, theirs_cpu, printed = run([sys.executable, "-c", OFFICIAL, official, "--gold", gold, "--pred",
                                                   predictions, "--db", spider / "database", "--table",
                                                   spider / "tables.json", "--etype", "all"], folder)
            for name, column in (("exact match", 3), ("execution", 4)):
                share = sum(row[column] == "1" for row in rows) / len(rows)
                assert abs(share - total(printed, name)) < 1e-3, (name, share, total(printed, name))
            print(f"{system}: {len(rows)} predictions: qlora {ours:.2f} s, official {theirs:.2f} s: {theirs / ours:.1f} "
                  f"times faster; processor time {ours_cpu:.2f} s and {theirs_cpu:.2f} s", flush=True)


main()
