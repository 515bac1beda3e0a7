"""Training steps against transformers + PEFT + bitsandbytes: same weights, rows, order, initial A and B."""
import json
import sys
import tempfile
from pathlib import Path

import peft
import torch
import transformers

from models import encoded_rows, load_model, make_model, relative, run_qlora, write_rows

STEPS = 30
RATE, DECAY, CLIP, WARMUP = 2e-3, 0.01, 1.0, 3
TARGETS = ["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"]


def initial_adapter(model_folder, folder):
    """A PEFT adapter whose B is not zero, so that every gradient says something from the first step."""
    torch.manual_seed(1)
    config = peft.LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules=TARGETS, task_type="CAUSAL_LM")
    model = peft.get_peft_model(load_model(model_folder), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.05)
    model.save_pretrained(folder)
    return folder


def reference(model, rows, batch, accumulation, steps=STEPS, gradients_at=()):
    """The training loop as transformers' Trainer runs it; the loss is the mean over the effective batch's labels."""
    parameters = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    groups = [{"params": [p for n, p in parameters if p.dim() > 1], "weight_decay": DECAY},
              {"params": [p for n, p in parameters if p.dim() == 1], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE)
    schedule = transformers.get_scheduler("cosine", optimizer, WARMUP, steps)
    history, gradients = [], {}
    effective = batch * accumulation
    for step in range(steps):
        begin = step * effective % len(rows)
        chosen = rows[begin:begin + effective]
        total = sum(sum(label != -100 for label in labels[1:]) for _, labels in chosen)
        loss_sum = 0.0
        for ids, labels in chosen:
            logits = model(input_ids=torch.tensor([ids])).logits[0, :-1].float()
            loss = torch.nn.functional.cross_entropy(logits, torch.tensor(labels[1:]), ignore_index=-100, reduction="sum")
            (loss / total).backward()
            loss_sum += loss.item() / total
        if step + 1 in gradients_at:
            gradients[step + 1] = {n: p.grad.clone() for n, p in parameters}
        norm = torch.nn.utils.clip_grad_norm_([p for _, p in parameters], CLIP).item()
        history.append((loss_sum, norm, schedule.get_last_lr()[0]))
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return history


def ours(model, data, output, **keys):
    settings = {"model_name_or_path": model, "dataset": data, "output_dir": output, "max_steps": STEPS, "learning_rate": RATE,
                "weight_decay": DECAY, "max_grad_norm": CLIP, "lr_scheduler_type": "cosine", "warmup_steps": WARMUP,
                "logging_steps": 1, "shuffle": "false", "lora_dropout": 0, "dtype": "float32", "save_strategy": "no",
                "quiet": "true", "device": "cpu", **keys}
    run_qlora("train", *[f"--{key}={value}" for key, value in settings.items()])
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [(line["loss"], line["grad_norm"], line["learning_rate"]) for line in lines]


class Comparison:
    def __init__(self):
        self.failed = 0

    def check(self, name, got, want, loss_limit, norm_limit):
        assert len(got) == len(want) == STEPS, (name, len(got), len(want))
        loss = max(relative(g[0], w[0]) for g, w in zip(got, want))
        norm = max(relative(g[1], w[1]) for g, w in zip(got, want))
        rate = max(abs(g[2] - w[2]) for g, w in zip(got, want))
        good = loss <= loss_limit and norm <= norm_limit and rate < 1e-12
        self.failed += not good
        print(f"{'ok  ' if good else 'FAIL'} {name:36} loss {want[0][0]:.4f} -> {want[-1][0]:.4f}; largest difference: "
              f"loss {loss:.1e} (limit {loss_limit:.0e}), gradient norm {norm:.1e} (limit {norm_limit:.0e}), rate {rate:.1e}")


def compare_model(kind, folder, compare):
    model = make_model(folder / kind, kind)
    data = write_rows(folder / "rows.jsonl")
    rows = encoded_rows(model, data, 64)
    adapter = initial_adapter(model, folder / f"{kind}-adapter")
    start = {"method": "lora", "adapter_name_or_path": adapter}
    with_adapter = lambda base: peft.PeftModel.from_pretrained(base, adapter, is_trainable=True)

    want = reference(load_model(model), rows, 4, 1)
    compare.check(f"{kind} full", ours(model, data, folder / f"{kind}-full", method="full", per_device_train_batch_size=4),
                  want, 1e-5, 1e-3)
    want = reference(with_adapter(load_model(model)), rows, 4, 1)
    lora = ours(model, data, folder / f"{kind}-lora", per_device_train_batch_size=4, **start)
    compare.check(f"{kind} lora", lora, want, 1e-5, 1e-3)
    compare.check(f"{kind} lora, accumulation 2 x 2",
                  ours(model, data, folder / f"{kind}-accumulated", per_device_train_batch_size=2,
                       gradient_accumulation_steps=2, **start), want, 1e-5, 1e-3)
    compare.check(f"{kind} lora, gradient checkpointing",
                  ours(model, data, folder / f"{kind}-recomputed", per_device_train_batch_size=4,
                       gradient_checkpointing="true", **start), want, 1e-5, 1e-3)
    # Planted defects must be told apart by the same limits.
    wrong = ours(model, data, folder / f"{kind}-wrong", per_device_train_batch_size=4, **{**start, "dtype": "bfloat16"})
    if max(relative(g[0], w[0]) for g, w in zip(wrong, want)) <= 1e-5:
        compare.failed += 1
        print(f"FAIL {kind}: rounding to bfloat16 went unnoticed")

    # qlora: the reference computes with our dequantized weights, which merging an adapter of zeros gives.
    quantized = ours(model, data, folder / f"{kind}-qlora", per_device_train_batch_size=4, method="qlora",
                     adapter_name_or_path=adapter)
    zero = folder / f"{kind}-zero"
    config = peft.LoraConfig(r=1, target_modules=["q_proj"], task_type="CAUSAL_LM")
    peft.get_peft_model(load_model(model), config).save_pretrained(zero)
    run_qlora("merge", "--model_name_or_path", model, "--adapter", zero, "--merge_into", "dequantized", "--dtype", "float32",
              "--output_dir", folder / f"{kind}-dequantized", "--quiet")
    want = reference(with_adapter(load_model(folder / f"{kind}-dequantized")), rows, 4, 1)
    compare.check(f"{kind} qlora, our dequantized weights", quantized, want, 1e-5, 1e-3)
    bnb = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                                          bnb_4bit_compute_dtype=torch.float32)
    base = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, quantization_config=bnb, device_map="cpu")
    want = reference(with_adapter(base), rows, 4, 1)
    compare.check(f"{kind} qlora, bitsandbytes", quantized, want, 1e-3, 2e-2)


def main():
    compare = Comparison()
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("qwen2", "llama"):
            compare_model(kind, Path(folder), compare)
    if compare.failed:
        sys.exit(f"{compare.failed} comparisons failed")


main()
