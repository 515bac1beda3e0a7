"""Speed of a CPU training step against transformers + PEFT: the same rows, adapters and threads, in one run.

Shapes: the 260K model's, the demo's base model, and two layers of Qwen2.5-0.5B. Tokens are real tokens. The peer pads a
batch to its longest row, as its collator does. usage: train_speed.py [STEPS]; QLORA_BUILD is the build folder.
"""
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "parity"))
import peft
import torch
import transformers

from models import TOKENIZER, encoded_rows, load_model, run_qlora, write_rows

STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 12
BATCH = 8
SHAPES = {
    "260K": dict(hidden_size=64, intermediate_size=172, num_hidden_layers=5, num_attention_heads=8, num_key_value_heads=4),
    "2.5M": dict(hidden_size=256, intermediate_size=640, num_hidden_layers=3, num_attention_heads=8, num_key_value_heads=2),
    "Qwen2.5-0.5B, 2 layers": dict(hidden_size=896, intermediate_size=4864, num_hidden_layers=2, num_attention_heads=14,
                                   num_key_value_heads=2),
}


def make(folder, shape):
    torch.manual_seed(0)
    vocabulary = 151936 if shape["hidden_size"] == 896 else 2048
    config = transformers.Qwen2Config(vocab_size=vocabulary, max_position_embeddings=1024, tie_word_embeddings=True,
                                      bos_token_id=0, eos_token_id=2, **shape)
    transformers.Qwen2ForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(TOKENIZER / name, folder / name)


def theirs(folder, rows, targets):
    model = load_model(folder)
    config = peft.LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules=targets, task_type="CAUSAL_LM")
    model = peft.get_peft_model(model, config).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    rates = []
    for step in range(STEPS):
        chosen = [rows[(step * BATCH + i) % len(rows)] for i in range(BATCH)]
        width = max(len(ids) for ids, _ in chosen)
        pad = lambda values, fill: values + [fill] * (width - len(values))
        start = time.perf_counter()
        out = model(input_ids=torch.tensor([pad(ids, 0) for ids, _ in chosen]),
                    attention_mask=torch.tensor([pad([1] * len(ids), 0) for ids, _ in chosen]),
                    labels=torch.tensor([pad(labels, -100) for _, labels in chosen]))
        out.loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        rates.append(sum(len(ids) for ids, _ in chosen) / (time.perf_counter() - start))
    return statistics.median(rates[2:]), norm.item()


def ours(folder, data, output):
    run_qlora("train", "--model_name_or_path", folder, "--dataset", data, "--method", "lora", "--lora_r", "16", "--lora_alpha", "32",
              "--lora_dropout", "0", "--per_device_train_batch_size", BATCH, "--max_steps", STEPS, "--learning_rate", "1e-4",
              "--lr_scheduler_type", "constant", "--shuffle", "false", "--logging_steps", "1", "--save_strategy", "no",
              "--dtype", "float32", "--device", "cpu", "--output_dir", output, "--quiet")
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return statistics.median(line["tokens_per_second"] for line in lines[2:]), lines[-1]["grad_norm"]


def main():
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    print(f"{'shape':24} {'ours tokens/s':>14} {'peer tokens/s':>14} {'ratio':>6}   gradient norms")
    for name, shape in SHAPES.items():
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            (folder / "model").mkdir()
            make(folder / "model", shape)
            data = write_rows(folder / "rows.jsonl", 96)
            rows = encoded_rows(folder / "model", data, 96)
            first, norm = ours(folder / "model", data, folder / "a")
            peer, peer_norm = theirs(folder / "model", rows, targets)
            second, _ = ours(folder / "model", data, folder / "b")
            mine = statistics.mean([first, second])
            print(f"{name:24} {mine:14.0f} {peer:14.0f} {mine / peer:6.2f}   {norm:.4f} {peer_norm:.4f}", flush=True)


main()
