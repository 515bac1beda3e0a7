"""modules_to_save, adapters on embedding and output head, DoRA: against PEFT, in both directions, merged, with gradients."""
import json
import tempfile
from pathlib import Path

# First: it quietens the packages below.
from models import (Comparison, encoded_rows, load_model, logits_difference, logits_of, make_model, probe, random_rows,
                    reference_logits, run_qlora, write_rows)

import peft
import safetensors.torch
import torch

LENGTHS = [1, 4, 17, 40, 9]
LINEARS = ["q_proj", "v_proj", "down_proj"]
VARIANTS = {
    "modules_to_save lm_head": dict(target_modules=LINEARS, modules_to_save=["lm_head"]),
    "modules_to_save embed_tokens": dict(target_modules=LINEARS, modules_to_save=["embed_tokens"]),
    "modules_to_save both and norms": dict(target_modules=LINEARS, modules_to_save=["embed_tokens", "lm_head", "norm"]),
    "lm_head adapted": dict(target_modules=[*LINEARS, "lm_head"]),
    "embed_tokens adapted": dict(target_modules=[*LINEARS, "embed_tokens"]),
    "both adapted": dict(target_modules=[*LINEARS, "embed_tokens", "lm_head"], use_rslora=True),
    "DoRA": dict(target_modules="all-linear", use_dora=True),
    "DoRA and modules_to_save": dict(target_modules=LINEARS, use_dora=True, modules_to_save=["lm_head"]),
}


def write_adapter(base, folder, seed, **config):
    """A PEFT adapter whose every trained value is random."""
    torch.manual_seed(seed)
    model = peft.get_peft_model(load_model(base), peft.LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=6, **config))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_magnitude" in name:
                parameter.mul_(torch.empty_like(parameter).uniform_(0.5, 1.5))
            elif "lora_" in name:
                parameter.normal_(0, 0.08)
            elif parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
    model.save_pretrained(folder)
    return folder


def with_adapter(base, adapter, **options):
    return peft.PeftModel.from_pretrained(load_model(base), adapter, **options).eval()


def our_name(name):
    """PEFT's name of a parameter as our parameters have it."""
    for old, new in (("base_model.model.", ""), (".default", ""), (".modules_to_save", ""), (".base_layer", "")):
        name = name.replace(old, new)
    return name.removesuffix(".weight") if ".lora_magnitude_vector" in name else name


def compare_gradients(compare, name, model, adapter, rows):
    reference = with_adapter(model, adapter, is_trainable=True)  # eval(): no dropout
    count = sum(label >= 0 for _, labels in rows for label in labels[1:])
    for ids, labels in rows:
        logits = reference(input_ids=torch.tensor([ids])).logits[0, :-1].float()
        (torch.nn.functional.cross_entropy(logits, torch.tensor(labels[1:]), ignore_index=-100, reduction="sum") / count).backward()
    want = {our_name(n): p.grad for n, p in reference.named_parameters() if p.requires_grad}
    ours = probe("gradients", model, adapter=str(adapter), rows=rows)
    compare.check(ours.keys() == want.keys(), f"{name}: {len(want)} trained tensors, as in PEFT {sorted(ours.keys() ^ want.keys())[:4]}")
    worst = max(((ours[n] - g).norm() / g.norm()).item() for n, g in want.items())
    compare.within(f"{name}: gradients", worst, 1e-4)


def compare_variant(compare, name, model, adapter, rows, encoded, folder):
    want = reference_logits(with_adapter(model, adapter), rows)
    compare.check(logits_difference(want, reference_logits(load_model(model), rows)) > 1e-2, f"{name}: it changes the logits")
    compare.within(f"{name}: PEFT's adapter here", logits_difference(logits_of(model, rows, adapter=str(adapter)), want), 1e-5)
    compare_gradients(compare, name, model, adapter, encoded)
    merged = folder / "merged"
    run_qlora("merge", "--model_name_or_path", model, "--adapter", adapter, "--output_dir", merged, "--quiet")
    compare.within(f"{name}: merged, in transformers", logits_difference(reference_logits(load_model(merged), rows), want), 1e-5)
    compare.within(f"{name}: merged, here", logits_difference(logits_of(merged, rows), want), 1e-5)


def train(model, data, folder, *arguments):
    run_qlora("train", "--model_name_or_path", model, "--dataset", data, "--output_dir", folder, "--max_steps", 6, "--method",
              "lora", "--per_device_train_batch_size", 4, "--learning_rate", 1e-2, "--lora_r", 4, "--lora_alpha", 6, "--dtype",
              "float32", "--save_strategy", "no", "--device", "cpu", "--quiet", *arguments)
    return folder


def flags(config):
    keys = {"target_modules": "lora_target_modules"}
    for key, value in config.items():
        yield f"--{keys.get(key, key)}"
        yield ",".join(value) if isinstance(value, list) else str(value).lower()


def compare_ours(compare, name, model, data, config, rows, folder):
    """Trained here, with dropout, and loaded by PEFT; written again by PEFT with the same tensors and settings."""
    ours = train(model, data, folder / "ours", *flags(config))
    reference = with_adapter(model, ours)
    want = reference_logits(reference, rows)
    compare.within(f"{name}: ours in PEFT", logits_difference(logits_of(model, rows, adapter=str(ours)), want), 1e-5)
    reference.save_pretrained(folder / "again")
    before, after = (safetensors.torch.load_file(f / "adapter_model.safetensors") for f in (ours, folder / "again"))
    after = {k: v for k, v in after.items() if "base_layer" not in k}
    compare.check(before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before),
                  f"{name}: PEFT writes the same {len(before)} tensors {sorted(before.keys() ^ after.keys())[:3]}")
    first, second = (json.loads((f / "adapter_config.json").read_text()) for f in (ours, folder / "again"))
    keys = ["modules_to_save", "use_dora", "r", "lora_alpha", "use_rslora"]
    compare.check(all(first[k] == second[k] for k in keys) and set(first["target_modules"]) == set(second["target_modules"]),
                  f"{name}: and the same settings")


def compare_start(compare, model, data, rows, folder):
    """Before the first step an adapter changes nothing; a gaussian start is normal with deviation 1 / r."""
    base = reference_logits(load_model(model), rows)
    for name, arguments in (("DoRA", ["--use_dora", "true"]), ("embedding and head", ["--lora_target_modules", "embed_tokens,lm_head,q_proj"]),
                            ("modules_to_save", ["--modules_to_save", "embed_tokens,lm_head"])):
        start = train(model, data, folder / name, "--learning_rate", 0, *arguments)
        compare.within(f"start, {name}: nothing changes", logits_difference(logits_of(model, rows, adapter=str(start)), base), 1e-5)
    gaussian = train(model, data, folder / "gaussian", "--learning_rate", 0, "--init_lora_weights", "gaussian")
    tensors = safetensors.torch.load_file(gaussian / "adapter_model.safetensors")
    values = torch.cat([v.flatten() for k, v in tensors.items() if "lora_A" in k])
    compare.check(abs(values.std().item() * 4 - 1) < 0.03 and abs(values.mean().item()) < 0.01 and values.abs().max() > 0.75,
                  f"gaussian: deviation {values.std().item():.4f} of {values.numel()} values")


def main():
    compare = Comparison()
    rows = random_rows(LENGTHS)
    with tempfile.TemporaryDirectory() as temporary:
        data = write_rows(Path(temporary) / "rows.jsonl", 24)
        for kind in ("qwen2", "llama", "gemma2"):  # tied, apart, tied with scaled embeddings and capped logits
            folder = Path(temporary) / kind
            model = make_model(folder / "model", kind)
            encoded = encoded_rows(model, data, 6)
            for number, (variant, config) in enumerate(VARIANTS.items()):
                place = folder / str(number)
                adapter = write_adapter(model, place / "peft", number, **config)
                compare_variant(compare, f"{kind}, {variant}", model, adapter, rows, encoded, place)
                if kind != "gemma2":
                    compare_ours(compare, f"{kind}, {variant}", model, data, config, rows, place)
            compare_start(compare, model, data, rows, folder)
    compare.finish()


main()
