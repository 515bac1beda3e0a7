#!/usr/bin/env python3
"""Encoding speed beside the package tokenizers, in turns on the same cores: 50 MB of text and the rows of Spider, one
thread and all, ids compared. Run with tests/parity/with-referees; QLORA_BUILD names the build (build/cpu).

Theirs is encode_batch_fast, which makes no offsets; ours makes them.
"""
import json
import os
import pathlib
import struct
import subprocess
import sys

BUILD = pathlib.Path(os.environ.get("QLORA_BUILD", "build/cpu"))
PROBE = next(p for p in (BUILD / "probe_tokenize", BUILD / "tests/probe_tokenize") if p.exists())
DATA = pathlib.Path(os.environ.get("QLORA_TEST_DATA", pathlib.Path.home() / ".cache/qlora/test-data"))
MEGABYTES = int(os.environ.get("QLORA_BENCH_MEGABYTES", "50"))

# What the child runs, with the package's threads set before it starts: best of three, and the ids' checksum.
THEIRS = """
import json, sys, time
from tokenizers import Tokenizer
texts = json.load(open(sys.argv[2]))
tokenizer = Tokenizer.from_file(sys.argv[1])
tokenizer.no_truncation()
best = 1e9
for _ in range(3):
    start = time.perf_counter()
    encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    best = min(best, time.perf_counter() - start)
total = 0
for encoding in encodings:
    for i in encoding.ids:
        total = (total * 31 + i + 1) & 0xFFFFFFFFFFFFFFFF
print(best, total)
"""


def text_paragraphs():
    """Prose, plays and SQL in turns, in paragraphs of about 2 kB, until there are enough bytes."""
    whole = "".join((DATA / "text" / name).read_text() for name in ("wikitext2_train_5k.txt", "tinyshakespeare.txt", "gsm8k_test.jsonl"))
    parts = [whole[i:i + 2000] for i in range(0, len(whole), 2000)]
    out, size = [], 0
    while size < MEGABYTES * 1_000_000:
        # Moved along, so that no paragraph comes twice.
        part = parts[len(out) % len(parts)]
        out.append(part[len(out) // len(parts):])
        size += len(out[-1].encode())
    return out


def spider_rows():
    rows = json.loads((DATA / "spider/train_spider.min.json").read_text())
    return [f"{row['question']}\n{row['query']}" for row in rows]


def theirs(tokenizer, texts_file, threads):
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "true" if threads > 1 else "false", "RAYON_NUM_THREADS": str(threads)}
    done = subprocess.run([sys.executable, "-c", THEIRS, tokenizer, texts_file], capture_output=True, text=True, check=True, env=environment)
    seconds, total = done.stdout.split()
    return float(seconds), int(total)


def main():
    different = 0
    for name, texts in (("text", text_paragraphs()), ("Spider", spider_rows())):
        texts_file = BUILD / "tokenizer_speed.json"
        texts_file.write_text(json.dumps(texts))
        request = b"".join(struct.pack("<I", len(t.encode())) + t.encode() for t in texts)
        for folder in ("qwen2.5", "llama3.1_hf", "llama2_hf"):
            path = DATA / "tokenizers" / folder / "tokenizer.json"
            one, every, threads, ours = subprocess.run([str(PROBE), str(path), "--time"], input=request, capture_output=True,
                                                       check=True).stdout.split()
            single, first = theirs(str(path), str(texts_file), 1)
            batch, second = theirs(str(path), str(texts_file), int(threads))
            different += (int(ours) != first) + (int(ours) != second)
            size = sum(len(t.encode()) for t in texts) / 1e6
            print(f"{name}, {folder}: one thread {size / float(one):.1f} MB/s beside {size / single:.1f}: {single / float(one):.1f}x; {int(threads)} "
                  f"threads {size / float(every):.1f} beside {size / batch:.1f}: {batch / float(every):.1f}x; ids "
                  f"{'equal' if int(ours) == first == second else 'DIFFERENT'}", flush=True)
        texts_file.unlink()
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
