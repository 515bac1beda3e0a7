"""Small random models in Hugging Face layout, and the rows that parity tests run on."""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch
import transformers

SOURCE = Path(os.environ.get("QLORA_SOURCE", Path(__file__).resolve().parents[2]))
BUILD = Path(os.environ.get("QLORA_BUILD", SOURCE / "build" / "cpu"))
TOKENIZER = SOURCE / "data" / "base-model"
torch.set_num_threads(2)
transformers.utils.logging.set_verbosity_error()


def run_qlora(*arguments, expect=0):
    """Runs the binary; returns what it printed on stdout."""
    command = [str(BUILD / "qlora"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != expect:
        sys.exit(f"{' '.join(command)}\nended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done.stdout


def make_model(folder, kind, seed=0):
    """A random model of 3 layers with grouped queries: qwen2 (tied, biases) or llama (untied, llama3 RoPE scaling)."""
    torch.manual_seed(seed)
    # Widths are multiples of 64: bitsandbytes' CPU back end decodes blocks that straddle rows wrongly.
    shape = dict(vocab_size=2048, hidden_size=64, intermediate_size=192, num_hidden_layers=3, num_attention_heads=4,
                 num_key_value_heads=2, max_position_embeddings=512, initializer_range=0.08,
                 bos_token_id=0, eos_token_id=2, pad_token_id=0)
    if kind == "qwen2":
        config = transformers.Qwen2Config(tie_word_embeddings=True, **shape)
        model = transformers.Qwen2ForCausalLM(config)
    else:
        scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                   "original_max_position_embeddings": 64, "rope_theta": 500000.0}
        config = transformers.LlamaConfig(tie_word_embeddings=False, rope_parameters=scaling, **shape)
        model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # biases and norms that say something
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(TOKENIZER / name, folder / name)
    return folder


def load_model(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def write_rows(path, count=64):
    """Rows of varied lengths: prompt and completion."""
    subjects = ["authors", "ships", "rooms", "flights", "plants", "teams", "books", "orders"]
    rows = []
    for i in range(count):
        subject = subjects[i % len(subjects)]
        rows.append({"prompt": f"Question {i}: how many {subject} are there with a number above {i * 7 % 50}?"
                               + " Count each once." * (i % 4) + "\n",
                     "completion": f"SELECT count(*) FROM {subject} WHERE number > {i * 7 % 50}"
                                   + f" AND name LIKE '%{subject[0]}%'" * (i % 3)})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def encoded_rows(model, data, count):
    """What qlora trains on: a list of (ids, labels)."""
    text = run_qlora("prepare", "--model_name_or_path", model, "--dataset", data, "--preview", count, "--json", "--quiet")
    rows = [json.loads(line) for line in text.splitlines()]
    return [(row["input_ids"], row["labels"]) for row in rows]


def relative(a, b):
    return abs(a - b) / max(abs(b), 1e-12)
