#!/usr/bin/env python3
"""A whole run of `qlora train` over random weights in a real model's shape: wall time from start to end, peak memory beside
the plan, and beside the one that a dry run makes where no GPU can be seen.

usage: run_speed.py SHAPE [--qlora BINARY] [--work FOLDER] [--rows N] [--lengths FILE.json | --mean TOKENS] [KEY=VALUE ...]
  KEY=VALUE goes to qlora train; the defaults are 5 epochs of 8 rows x 2, r 16 on q, k, v, o, dropout 0.05, bfloat16.
  FILE.json is a list of token counts, a row each; without it they spread about the mean as questions and queries do.
  The model is written to FOLDER once and found there again. Needs Python with torch (a GPU makes the weights faster)."""
import argparse
import json
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEMO = ROOT / "data/base-model"  # its tokenizer: a letter or a space is a token
SHAPES = {  # type, hidden, layers, heads, kv heads, head width, intermediate, vocabulary, tied
    "Tiny": ("qwen2", 128, 2, 4, 2, 32, 256, 4096, True),
    "Qwen1.5-1.8B": ("qwen2", 2048, 24, 16, 16, 128, 5504, 151936, False),
    "Llama-3.1-8B": ("llama", 4096, 32, 32, 8, 128, 14336, 128256, False),
}
DEFAULTS = {"num_train_epochs": 5, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "lora_r": 16, "lora_alpha": 32,
            "lora_dropout": 0.05, "lora_target_modules": "[q_proj, k_proj, v_proj, o_proj]", "learning_rate": 2e-4,
            "lr_scheduler_type": "cosine", "warmup_ratio": 0.05, "weight_decay": 0.01, "dtype": "bfloat16", "logging_steps": 1,
            "save_strategy": "no"}


def make_model(shape, folder):
    import torch
    from safetensors.torch import save_file
    kind, hidden, layers, heads, kv_heads, width, intermediate, vocabulary, tied = SHAPES[shape]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    random_weight = lambda *size: (torch.randn(*size, device=device) * 0.02).to(torch.bfloat16).cpu()
    linears = {"self_attn.q_proj": (heads * width, hidden), "self_attn.k_proj": (kv_heads * width, hidden),
               "self_attn.v_proj": (kv_heads * width, hidden), "self_attn.o_proj": (hidden, heads * width),
               "mlp.gate_proj": (intermediate, hidden), "mlp.up_proj": (intermediate, hidden), "mlp.down_proj": (hidden, intermediate)}
    ones = lambda: torch.ones(hidden, dtype=torch.bfloat16)
    tensors = {"model.embed_tokens.weight": random_weight(vocabulary, hidden), "model.norm.weight": ones()}
    if not tied:
        tensors["lm_head.weight"] = random_weight(vocabulary, hidden)
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        for name, size in linears.items():
            tensors[f"{prefix}{name}.weight"] = random_weight(*size)
            if kind == "qwen2" and name[-6] in "qkv":
                tensors[f"{prefix}{name}.bias"] = random_weight(size[0])
        tensors[prefix + "input_layernorm.weight"], tensors[prefix + "post_attention_layernorm.weight"] = ones(), ones()
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = {"model_type": kind, "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
              "num_key_value_heads": kv_heads, "head_dim": width, "intermediate_size": intermediate, "vocab_size": vocabulary,
              "tie_word_embeddings": tied, "max_position_embeddings": 8192, "hidden_act": "silu", "rms_norm_eps": 1e-6,
              "rope_theta": 10000.0, "torch_dtype": "bfloat16", "eos_token_id": 2}
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(DEMO / name, folder)


def letters(count):
    return "".join(random.choice("abcdefghijklmnopqrstuvwxyz") if i % 2 == 0 else " " for i in range(count))


def write_rows(path, lengths):
    """Rows of exactly so many tokens, the end token among them; a third of each is the answer."""
    with path.open("w") as file:
        for length in lengths:
            prompt = letters(length * 2 // 3 // 2 * 2)
            file.write(json.dumps({"prompt": prompt, "completion": letters(length - len(prompt) - 1)}) + "\n")


def main():
    parser = argparse.ArgumentParser(usage=__doc__.split("usage: ")[1])
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--qlora", type=pathlib.Path, default=ROOT / "build/cuda/qlora")
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("/tmp/qlora-run-speed"))
    parser.add_argument("--rows", type=int, default=3500)
    parser.add_argument("--lengths", type=pathlib.Path)
    parser.add_argument("--mean", type=int, default=80)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_intermixed_args()
    random.seed(1)
    model, data, out = options.work / options.shape, options.work / "rows.jsonl", options.work / "run"
    if not model.exists():
        make_model(options.shape, model)
    if options.lengths:
        lengths = random.sample(json.loads(options.lengths.read_text()), options.rows)
    else:
        lengths = [max(16, round(options.mean * random.lognormvariate(-0.03, 0.25))) for _ in range(options.rows)]
    write_rows(data, lengths)
    shutil.rmtree(out, ignore_errors=True)
    given = {**DEFAULTS, **dict(setting.split("=", 1) for setting in options.settings)}
    command = [options.qlora, "train", f"--model_name_or_path={model}", f"--dataset={data}", f"--output_dir={out}",
               *(f"--{key}={value}" for key, value in given.items())]
    blind = subprocess.run([str(word) for word in [*command, "--device=cuda", "--dry-run", "--json"]], capture_output=True, text=True,
                           env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}, check=False)
    foreseen = json.loads(blind.stdout)["bytes"]["total"] / 2**30 if blind.returncode == 0 else None
    start = time.time()
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    seconds = time.time() - start
    if done.returncode != 0:
        sys.exit(done.stderr[-2000:])
    steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [step for step in steps if "loss" in step]
    times = sorted(step["step_ms"] for step in steps)
    plan = re.search(r"memory: .* total ([\d.]+) GiB", done.stderr)
    print(json.dumps({"shape": options.shape, "seconds": round(seconds, 2), "steps": len(steps), "steps_seconds": round(sum(times) / 1e3, 2),
                      "median_step_ms": times[len(times) // 2], "tokens": sum(step["input_tokens"] for step in steps),
                      "foreseen_gib": foreseen, "planned_gib": float(plan[1]) if plan else None, "allocated_gib": steps[-1]["memory_allocated_gib"],
                      "used_gib": steps[-1]["memory_used_gib"], "loss": [steps[0]["loss"], steps[-1]["loss"]],
                      "grad_norm": [steps[0]["grad_norm"], steps[-1]["grad_norm"]]}))


if __name__ == "__main__":
    main()
