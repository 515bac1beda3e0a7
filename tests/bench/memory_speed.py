#!/usr/bin/env python3
"""Steps in little memory on this machine's GPU, a row each: tokens/s, GiB planned, allocated and lost by the card, gradient
norms. A row that fails is named, and the others go on.

usage: memory_speed.py [--build build/cuda] [--only TEXT] [--dry-run] [KEY=VALUE ...]
  TEXT: the rows whose title begins so. --dry-run: the plans alone, which need no GPU. KEY=VALUE goes to every row's
  step_speed (see step_speed.cpp)."""
import argparse
import json
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
EIGHT, SMALL, LARGE = "Llama-3.1-8B", "Qwen1.5-1.8B", "Llama-2-70B"
# Limits are half a GiB above what tensors may take: that much is CUDA's own.
ROWS = [
    ("8B, 2 x 2048, recomputing", EIGHT, "keep=input"),
    ("8B, 2 x 2048, recomputing, table on the host", EIGHT, "keep=input embedding=host"),
    ("8B, 2 x 2048, recomputing, inputs on the host", EIGHT, "keep=host"),
    ("8B, 2 x 2048, recomputing, all three on the host", EIGHT, "keep=host embedding=host optimizer=paged"),
    ("8B, 2 x 2048, planned for 7.0 GiB", EIGHT, "plan=auto max_memory_gib=7.5"),
    ("8B, 4 x 2048, planned for 8.8 GiB", EIGHT, "plan=auto tokens=8192 accumulation=2 max_memory_gib=9.3"),
    ("1.8B, 2 x 2048, recomputing", SMALL, "keep=input"),
    ("1.8B, 2 x 2048, planned for 2.5 GiB", SMALL, "plan=auto max_memory_gib=3.0"),
    ("1.8B, 2 x 2048, all three on the host", SMALL, "keep=host embedding=host optimizer=paged"),
    ("70B, 1 x 2048, planned for 42 GiB", LARGE, "plan=auto codes=random tokens=2048 accumulation=1 steps=3 max_memory_gib=42.5"),
]


def measured(build, shape, settings):
    """(standard output, its last JSON object or what went wrong) of one run."""
    done = subprocess.run([build / "tests/step_speed", shape, *settings], capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode != 0 or not lines:
        return done.stdout, f"ended with {done.returncode}: {done.stderr.strip()[-300:]}"
    return done.stdout, json.loads(lines[-1])


def main():
    parser = argparse.ArgumentParser(usage=__doc__.split("usage: ")[1])
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build/cuda")
    parser.add_argument("--only", default="")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_intermixed_args()
    if not options.dry_run:
        print(f"{'row':50} {'tokens/s':>8} {'planned':>8} {'alloc.':>8} {'card':>8}  gradient norms", flush=True)
    for title, shape, settings in ROWS:
        if not title.startswith(options.only) or (options.dry_run and "plan=" not in settings):
            continue
        output, row = measured(options.build, shape, [*settings.split(), *options.settings, *["dry_run=1"] * options.dry_run])
        if options.dry_run:
            print(f"{title}: {output.strip() or row}", flush=True)
        elif isinstance(row, str):
            print(f"{title:50} {row}", flush=True)
        else:
            norms = " ".join(f"{norm:.4f}" for norm in row["grad_norm"][:4])
            print(f"{title:50} {row['tokens_per_second']:>8} {row['planned_gib']:>8.3f} {row['peak_gib']:>8.3f} {row['used_gib']:>8.3f}  {norms}", flush=True)


if __name__ == "__main__":
    main()
