"""Wall time of `qlora prepare` on the 7,000 questions of Spider against `datasets` and the tokenizer of transformers.

Both read the JSON file, render ChatML, tokenize, mask the prompt and write the result to disk, one after the other in
this run, with the same number of processes and threads. usage: prepare_speed.py [RUNS]; QLORA_BUILD is the build folder.
"""
import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile
import time

DATA = pathlib.Path(os.environ.get("QLORA_TEST_DATA", pathlib.Path.home() / ".cache/qlora/test-data"))
BINARY = pathlib.Path(os.environ["QLORA_BUILD"]) / "qlora"
ROWS = DATA / "spider/train_spider.min.json"
SYSTEM = "You are an SQL expert. You translate questions about a database into SQL queries that answer them."

# Imports and all: a user of either waits for its start, too. The second figure leaves them out.
PEER = """
import json, sys, time
start = time.time()
from datasets import load_dataset
from transformers import PreTrainedTokenizerFast
imported = time.time()
folder, rows, out = sys.argv[1:]
config = json.load(open(folder + "/tokenizer_config.json"))
tokenizer = PreTrainedTokenizerFast(tokenizer_file=folder + "/tokenizer.json", eos_token=config["eos_token"],
                                    chat_template=config["chat_template"])

def chat(row):
    prompt = [{"role": "system", "content": SYSTEM},
              {"role": "user", "content": f"Database: {row['db_id']}\\nQuestion: {row['question']}\\nAnswer with the SQL query only."}]
    whole = prompt + [{"role": "assistant", "content": row["query"]}]
    return {"prompt": tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True),
            "text": tokenizer.apply_chat_template(whole, tokenize=False)}

def encode(batch):
    encoded = tokenizer(batch["text"], add_special_tokens=False)["input_ids"]
    prompts = tokenizer(batch["prompt"], add_special_tokens=False)["input_ids"]
    labels = [[-100] * len(p) + ids[len(p):] for p, ids in zip(prompts, encoded)]
    return {"input_ids": encoded, "labels": labels}

data = load_dataset("json", data_files=rows, split="train", cache_dir=out + "/cache")
data = data.map(chat).map(encode, batched=True, remove_columns=data.column_names + ["prompt", "text"])
data.save_to_disk(out + "/set")
print(json.dumps({"rows": len(data), "tokens": sum(map(len, data["input_ids"])), "without_imports": time.time() - imported}))
"""


def cpu_seconds():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run(command):
    start, used = time.time(), cpu_seconds()
    result = subprocess.run(command, capture_output=True, text=True)
    seconds = time.time() - start
    if result.returncode != 0:
        sys.exit(f"{command[:3]}: exit {result.returncode}\n{result.stderr[-2000:]}")
    return seconds, cpu_seconds() - used, json.loads(result.stdout.strip().split("\n")[-1])


def main():
    if not ROWS.exists():
        print(f"SKIPPED: no {ROWS}", file=sys.stderr)
        sys.exit(77)
    with tempfile.TemporaryDirectory() as root:
        folder = root + "/qwen"
        shutil.copytree(DATA / "tokenizers/qwen2.5", folder)
        shutil.copy(DATA / "model_configs/Qwen--Qwen2.5-0.5B-Instruct/config.json", folder)
        for number in range(int(sys.argv[1]) if len(sys.argv) > 1 else 3):
            out = f"{root}/out{number}"
            ours, ours_cpu, manifest = run([str(BINARY), "prepare", "--model_name_or_path", folder, "--dataset", str(ROWS),
                                  "--output_dir", out + "-ours", "--json"])
            pathlib.Path(out).mkdir()
            peer, peer_cpu, result = run([sys.executable, "-c", f"SYSTEM = {SYSTEM!r}\n" + PEER, folder, str(ROWS), out])
            assert (manifest["rows_kept"], manifest["tokens"]) == (result["rows"], result["tokens"]), (manifest, result)
            print(f"{manifest['rows_kept']} rows, {manifest['tokens']} tokens: qlora {ours:.2f} s, datasets + tokenizers "
                  f"{peer:.2f} s (without imports {result['without_imports']:.2f} s): {peer / ours:.1f} times faster "
                  f"({result['without_imports'] / ours:.1f}); processor time {ours_cpu:.2f} s and {peer_cpu:.2f} s",
                  flush=True)


main()
