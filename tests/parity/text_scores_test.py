"""BLEU and chrF against sacrebleu, ROUGE against rouge-score, to 1e-6: over SQL, over prose, over texts made to meet
every rule of their tokenizers; row by row and over whole sets."""
import json
import os
import pathlib
import random
import subprocess
import sys

import sacrebleu
from rouge_score import rouge_scorer

PROBE = pathlib.Path(os.environ["QLORA_BUILD"]) / "tests" / "probe_text_score"
DATA = pathlib.Path(os.environ.get("QLORA_TEST_DATA", pathlib.Path.home() / ".cache/qlora/test-data"))
ROUGE = ("rouge1", "rouge2", "rougeL")
PIECES = ["a", "the", "Singer", "count(*)", "3.14", "1,000", "5-6", "-", "x.", ".5", "well-", "-\n", "\n", "\n\n", "&quot;",
          "&amp;lt;", "&lt;", "<skipped>", "don't", "\u212a", "\u0130st", "caf\u00e9", "\u00a0", "\u3000", "\u200b",
          "\u4f60\u597d", "\U0001f600", "...", ",,", "3.", ",7", "\t", "\x1c", "\x85", "{}", "[1]", "`b`", "a_b", "@",
          "9-", "~", "'", "\"q\"", "\r\n", "\u0660", "\u00df", "SELECT", "FROM", "*", "=", "&", "e\u0301", "\ufffd"]


def made_up(seed, count):
    draw = random.Random(seed)
    text = lambda most: "".join(draw.choice(PIECES) + draw.choice(["", " ", " ", "  "])
                                for _ in range(draw.randrange(most)))
    for _ in range(count):
        gold = text(25)
        kept = [word for word in gold.split(" ") if draw.random() < 0.8]
        yield draw.choice([gold, " ".join(kept), " ".join(kept) + text(4), text(25)]), gold


def corpora():
    yield "made up", list(made_up(1, 4000))
    yield "short", [(p[:12], g[:12]) for p, g in made_up(2, 2000)]
    yield "nothing equal", [("x y", "a b c"), ("z", "d")]
    yield "one row", [("the cat sat on the mat", "the cat is on the mat")]
    for line in ("", "a", "a b c", "a b c d"):
        yield f"as short as {line!r}", [(line, "a b c d e")]
    folder = DATA / "spider_preds"
    if folder.is_dir():
        gold = [line.split("\t")[0] for line in (folder / "din_sql_gpt4.gold.txt").read_text().splitlines()]
        yield "SQL", list(zip((folder / "din_sql_gpt4.pred.txt").read_text().splitlines(), gold))
    if (DATA / "text/gsm8k_test.jsonl").exists():
        rows = [json.loads(line) for line in (DATA / "text/gsm8k_test.jsonl").read_text().splitlines()]
        yield "prose", [(row["question"], row["answer"]) for row in rows]


def theirs(pairs):
    predictions, golds = [p for p, _ in pairs], [g for _, g in pairs]
    scorer = rouge_scorer.RougeScorer(ROUGE, use_stemmer=False)
    rows = []
    for prediction, gold in pairs:
        rouge = scorer.score(gold, prediction)
        rows.append({"bleu": sacrebleu.sentence_bleu(prediction, [gold]).score,
                     "chrf": sacrebleu.sentence_chrf(prediction, [gold]).score,
                     **{name: rouge[name].fmeasure for name in ROUGE}})
    overall = {name: sum(row[name] for row in rows) / len(rows) for name in ROUGE}
    overall["bleu"] = sacrebleu.corpus_bleu(predictions, [golds], force=True).score
    overall["chrf"] = sacrebleu.corpus_chrf(predictions, [golds]).score
    return rows + [overall]


def compare(name, pairs):
    pairs = [(p, g) for p, g in pairs if g]  # a row without an answer has no score
    lines = "".join(json.dumps({"prediction": p, "gold": g}) + "\n" for p, g in pairs)
    out = subprocess.run([PROBE], input=lines, capture_output=True, text=True, check=True).stdout.splitlines()
    ours = [json.loads(line) for line in out]
    expected = theirs(pairs)
    assert len(ours) == len(expected), (len(ours), len(expected))
    worst, wrong = 0.0, 0
    for i, (a, b) in enumerate(zip(ours, expected)):
        for score, value in b.items():
            difference = abs(a[score] - value)
            worst = max(worst, difference)
            if not difference <= 1e-6:
                wrong += 1
                if wrong < 5:
                    print(f"  {name}, row {i}: {score} is {a[score]}, expected {value}: {pairs[i:i + 1]}")
    print(f"{name}: {len(pairs)} rows, largest difference {worst:.1e}, {wrong} differ; "
          + ", ".join(f"{k} {v:.4f}" for k, v in ours[-1].items()))
    return wrong


sys.exit(1 if sum(compare(*corpus) for corpus in corpora()) else 0)
