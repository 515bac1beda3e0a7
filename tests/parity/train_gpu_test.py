"""Training on a GPU against transformers + PEFT + bitsandbytes there: the losses of fifty steps over 16 fixed rows, the
gradients of every A and B, every 4-bit weight, and planted defects that must not pass."""
import json
import os
import sys
import tempfile
from pathlib import Path

# First: it quietens the packages below.
from models import Comparison, encoded_rows, probe, relative, run_qlora, write_rows, TOKENIZER

import shutil

import bitsandbytes
import peft
import torch
import transformers
from transformers.models.qwen2 import modeling_qwen2

DEVICE, STEPS, RATE, PROBED = "cuda", 50, 2e-4, (1, 10, 50)
RANK, ALPHA = 16, 32
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def make_model(folder):
    torch.manual_seed(0)
    config = transformers.Qwen2Config(vocab_size=2048, hidden_size=512, intermediate_size=1408, num_hidden_layers=4, num_attention_heads=8,
                                      num_key_value_heads=2, max_position_embeddings=512, initializer_range=0.05, bos_token_id=0,
                                      eos_token_id=2, pad_token_id=0)
    transformers.AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(TOKENIZER / name, folder / name)
    return folder


def load_base(model, dtype):
    settings = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                                               bnb_4bit_compute_dtype=dtype)
    return transformers.AutoModelForCausalLM.from_pretrained(model, dtype=dtype, quantization_config=settings, device_map={"": DEVICE})


def initial_adapter(model, folder):
    """B is not zero, so that every gradient says something from the first step."""
    torch.manual_seed(1)
    config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(load_base(model, torch.float32), config)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.01)
    adapted.save_pretrained(folder)
    return folder


def with_adapter(base, adapter, adapter_dtype=torch.float32):
    model = peft.PeftModel.from_pretrained(base, adapter, is_trainable=True)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(adapter_dtype)
    return model


def padded(rows):
    length = max(len(ids) for ids, _ in rows)
    fill = lambda values, rest: torch.tensor([list(v) + [rest] * (length - len(v)) for v in values], device=DEVICE)
    return {"input_ids": fill([ids for ids, _ in rows], 0), "attention_mask": fill([[1] * len(ids) for ids, _ in rows], 0),
            "labels": fill([labels for _, labels in rows], -100)}


def add_gradients(model, rows, total):
    batch = padded(rows)
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1].float()
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=-100,
                                             reduction="sum") / total
    loss.backward()
    return loss.item()


def gradients(model):
    short = lambda name: name.removeprefix("base_model.model.").replace(".default", "")
    return {short(n): p.grad.float().cpu().clone() for n, p in model.named_parameters() if p.requires_grad}


def label_count(rows):
    return sum(sum(label != -100 for label in labels[1:]) for _, labels in rows)


def train(model, rows, keep=None, steps=STEPS):
    """Losses, and the gradients at the steps of PROBED; keep: the folder for the adapters that these were taken at."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=RATE, weight_decay=0.0)
    losses, taken = [], {}
    for step in range(1, steps + 1):
        if keep and step in PROBED:
            model.save_pretrained(keep / str(step))
        losses.append(add_gradients(model, rows, label_count(rows)))
        if step in PROBED:
            taken[step] = gradients(model)
        optimizer.step()
        optimizer.zero_grad()
    return losses, taken


def ours(model, data, adapter, output, dtype):
    keys = {"model_name_or_path": model, "dataset": data, "output_dir": output, "adapter_name_or_path": adapter, "max_steps": STEPS,
            "learning_rate": RATE, "max_grad_norm": 0, "lr_scheduler_type": "constant", "logging_steps": 1, "shuffle": "false",
            "lora_dropout": 0, "dtype": dtype, "save_strategy": "no", "quiet": "true", "device": DEVICE, "weight_decay": 0,
            "per_device_train_batch_size": 8, "gradient_accumulation_steps": 2}
    run_qlora("train", *[f"--{key}={value}" for key, value in keys.items()])
    return [json.loads(line)["loss"] for line in (output / "metrics.jsonl").read_text().splitlines()]


def worst(got, want):
    return max(relative(g, w) for g, w in zip(got, want, strict=True))


def distances(got, want):
    """Of each gradient, by relative norm."""
    assert got.keys() == want.keys()
    return {name: ((got[name] - want[name]).norm() / want[name].norm()).item() for name in want}


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def compare_gradients(compare, model, rows, folder, want):
    for step in PROBED:
        adapter = folder / str(step)
        command = {"rows": rows, "adapter": str(adapter), "quantize": True, "device": DEVICE}
        exact = distances(probe("gradients", model, **command), want[step])
        compare.within(f"step {step}: gradients in float32", max(exact.values()), 1e-3)
        mine = distances(probe("gradients", model, **command, dtype="bfloat16"), want[step])
        for name, adapter_dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
            theirs = with_adapter(load_base(model, torch.bfloat16), adapter, adapter_dtype)
            add_gradients(theirs, rows, label_count(rows))
            other = distances(gradients(theirs), want[step])
            farther = sum(mine[n] > other[n] for n in mine)
            text = (f"step {step}: gradients in bfloat16 lie {mean(mine.values()):.2e} from float32 (worst {max(mine.values()):.2e}); PEFT's, "
                    f"adapters in {name}, {mean(other.values()):.2e} ({max(other.values()):.2e}); ours farther in {farther} of {len(mine)}")
            compare.check(mean(mine.values()) <= 1.05 * mean(other.values()), text) if name == "bfloat16" else print("    " + text)


def linears(base):
    return {n: m for n, m in base.named_modules() if isinstance(m, bitsandbytes.nn.Linear4bit)}


def differing_weights(base, values):
    """Linears whose decoded weights are not ours to the bit."""
    decode = lambda m: bitsandbytes.functional.dequantize_4bit(m.weight.data, m.weight.quant_state).float().cpu()
    return [n for n, m in linears(base).items() if not torch.equal(decode(m), values[n + ".weight"].to(decode(m).dtype))]


def compare_weights(compare, model, folder):
    config = peft.LoraConfig(r=1, target_modules="all-linear", task_type="CAUSAL_LM")
    dense = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
    peft.get_peft_model(dense, config).save_pretrained(folder / "zero")
    run_qlora("merge", "--model_name_or_path", model, "--adapter", folder / "zero", "--merge_into", "dequantized", "--dtype", "bfloat16",
              "--output_dir", folder / "dequantized", "--quiet", "--device", DEVICE)
    values = transformers.AutoModelForCausalLM.from_pretrained(folder / "dequantized", dtype=torch.bfloat16).state_dict()
    values = {name: value.float() for name, value in values.items()}
    base = load_base(model, torch.bfloat16)
    compare.check(not differing_weights(base, values), f"{len(linears(base))} weights decode to the bits of bitsandbytes")
    name, module = next(iter(linears(base).items()))
    packed = module.weight.data.view(-1)
    byte = next(i for i in range(packed.numel()) if packed[i] // 16 != packed[i] % 16)
    packed[byte] = packed[byte] % 16 * 16 + packed[byte] // 16
    compare.check(differing_weights(base, values) == [name], "planted defect is seen: one swapped nibble")


def compare_defects(compare, model, rows, adapter, losses, want):
    """The reference with a defect must lie farther from the right one than the limits allow."""
    fresh = lambda: with_adapter(load_base(model, torch.float32), adapter)
    right, defects = modeling_qwen2.rotate_half, {}
    modeling_qwen2.rotate_half = lambda x: -right(x)
    try:
        defects["the sign of RoPE"] = train(fresh(), rows, steps=2)
    finally:
        modeling_qwen2.rotate_half = right
    scaled = fresh()
    for module in scaled.modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            module.scaling["default"] = ALPHA / RANK ** 0.5
    defects["alpha / sqrt(r)"] = train(scaled, rows, steps=2)
    half = fresh()
    missed = [add_gradients(half, rows[:8], label_count(rows))]
    defects["a missed micro-batch"] = missed, {1: gradients(half)}
    for name, (wrong, taken) in defects.items():
        loss = worst(losses[:len(wrong)], wrong)
        gradient = max(distances(taken[1], want[1]).values())
        compare.check(loss > 1e-4 and gradient > 1e-3, f"planted defect is seen: {name} (loss {loss:.1e}, gradient {gradient:.1e})")


def main():
    if not torch.cuda.is_available():
        print("SKIPPED: no GPU that this Python's torch can use", file=sys.stderr)
        sys.exit(1 if os.environ.get("QLORA_REQUIRE_GPU") == "1" else 77)
    compare = Comparison()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, data = make_model(folder / "model"), write_rows(folder / "rows.jsonl", 16)
        rows = encoded_rows(model, data, 16)
        adapter = initial_adapter(model, folder / "adapter")
        compare_weights(compare, model, folder)
        wanted, taken, got = {}, {}, {}
        for dtype, torch_dtype in DTYPES.items():
            wanted[dtype], taken[dtype] = train(with_adapter(load_base(model, torch_dtype), adapter), rows, folder / dtype)
            got[dtype] = ours(model, data, adapter, folder / f"ours-{dtype}", dtype)
            limit = 1e-4 if dtype == "float32" else 5e-3
            compare.within(f"{dtype}: {STEPS} losses, {got[dtype][0]:.4f} -> {got[dtype][-1]:.4f}", worst(got[dtype], wanted[dtype]), limit)
        print(f"    PEFT's losses in bfloat16 differ from its own in float32 by {worst(wanted['bfloat16'], wanted['float32']):.1e}")
        compare.check(got["float32"][-1] < 3, "the loss falls below 3")
        compare_gradients(compare, model, rows, folder / "float32", taken["float32"])
        compare_defects(compare, model, rows, adapter, got["float32"], taken["float32"])
    compare.finish()


main()
