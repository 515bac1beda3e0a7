"""Adapters between qlora and PEFT, in both directions, and merged models loaded by transformers."""
import json
import tempfile
from pathlib import Path

# First: it quietens the packages below.
from models import (ARCHITECTURES, Comparison, encoded_rows, load_model, logits_difference, logits_of, make_model, our_row_losses, probe,
                    random_rows, reference_logits, row_losses, run_qlora, train_adapter, worst_relative, write_rows)

import experts
import peft
import safetensors.torch
import torch

LENGTHS = [1, 4, 17, 40, 9]
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
VARIANTS = {
    "a list of names": dict(r=8, lora_alpha=12, target_modules=["q_proj", "v_proj", "down_proj"]),
    "all-linear": dict(r=4, lora_alpha=8, target_modules="all-linear"),
    "rank and alpha patterns": dict(r=4, lora_alpha=8, target_modules=ALL, alpha_pattern={"o_proj": 3, "1.mlp.up_proj": 32},
                                    rank_pattern={"q_proj": 2, "layers.1.mlp.up_proj": 7, "down_proj": 9}),
    "rank-stabilized": dict(r=9, lora_alpha=6, target_modules=ALL, use_rslora=True),
    "a regular expression": dict(r=4, lora_alpha=8, target_modules=r".*\.[02]\.self_attn\.(q|o)_proj"),
    "some layers": dict(r=4, lora_alpha=8, target_modules=["k_proj", "up_proj"], layers_to_transform=[0, 2]),
}


def write_adapter(base, folder, seed, **config):
    """A PEFT adapter with random A and B."""
    torch.manual_seed(seed)
    model = peft.get_peft_model(load_model(base), peft.LoraConfig(task_type="CAUSAL_LM", **config))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.08)
            elif parameter.requires_grad:  # of modules_to_save
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
    model.save_pretrained(folder)
    return folder


def with_adapter(base, adapter):
    return peft.PeftModel.from_pretrained(load_model(base), adapter).eval()


def merge(model, output, adapters, *arguments):
    flags = [part for adapter in adapters for part in ("--adapter", adapter)]
    run_qlora("merge", "--model_name_or_path", model, *flags, "--output_dir", output, "--quiet", *arguments)
    return output


def compare_ours(compare, name, model, data, folder):
    """Adapters that qlora trained, loaded by PEFT."""
    rows = random_rows(LENGTHS)
    encoded = encoded_rows(model, data, 24)
    lora = train_adapter(model, data, folder / "lora", "--method", "lora")
    reference = with_adapter(model, lora)
    base = reference_logits(load_model(model), rows)
    want = reference_logits(reference, rows)
    compare.check(logits_difference(want, base) > 1e-2, f"{name}: training moved the logits by {logits_difference(want, base):.2f}")
    compare.within(f"{name}: our adapter in PEFT, logits", logits_difference(logits_of(model, rows, adapter=str(lora)), want), 1e-5)
    losses = our_row_losses(model, data, folder, "--adapter", lora)
    compare.within(f"{name}: our adapter in PEFT, eval's losses", worst_relative(losses, row_losses(reference, encoded)), 1e-5)
    some = train_adapter(model, data, folder / "some", "--method", "lora", "--lora_target_modules", "o_proj,up_proj")
    compare.within(f"{name}: our adapter of two linears in PEFT",
                   logits_difference(logits_of(model, rows, adapter=str(some)), reference_logits(with_adapter(model, some), rows)), 1e-5)
    return lora


def compare_peft(compare, name, model, folder):
    """Adapters that PEFT wrote, loaded by qlora; and merged, the folder loaded by transformers."""
    rows = random_rows(LENGTHS)
    for number, (variant, config) in enumerate(VARIANTS.items()):
        adapter = write_adapter(model, folder / f"peft-{number}", number, **config)
        want = reference_logits(with_adapter(model, adapter), rows)
        compare.within(f"{name}: PEFT's adapter, {variant}", logits_difference(logits_of(model, rows, adapter=str(adapter)), want), 1e-5)
        merged = merge(model, folder / f"merged-{number}", [adapter])
        compare.within(f"{name}: merged folder, {variant}", logits_difference(reference_logits(load_model(merged), rows), want), 1e-5)


def compare_architecture(compare, kind, model, data, folder):
    """all-linear: trained here and loaded by PEFT, made by PEFT and loaded here, merged and loaded by transformers."""
    rows = random_rows(LENGTHS)
    lora = train_adapter(model, data, folder / "lora", "--method", "lora")
    want = reference_logits(with_adapter(model, lora), rows)
    compare.within(f"{kind}: our adapter in PEFT, logits", logits_difference(logits_of(model, rows, adapter=str(lora)), want), 1e-5)
    adapter = write_adapter(model, folder / "peft", 1, r=4, lora_alpha=8, target_modules="all-linear")
    want = reference_logits(with_adapter(model, adapter), rows)
    compare.within(f"{kind}: PEFT's adapter", logits_difference(logits_of(model, rows, adapter=str(adapter)), want), 1e-5)
    merged = merge(model, folder / "merged", [adapter])
    compare.within(f"{kind}: merged folder", logits_difference(reference_logits(load_model(merged), rows), want), 1e-5)
    compare.within(f"{kind}: merged folder, read here", logits_difference(logits_of(merged, rows), want), 1e-5)


def compare_patterns(compare, name, model, data, folder):
    """Ranks, alphas and layers of their own: trained here they give PEFT's tensors, and what PEFT computes with them."""
    patterns = {"rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 7, "down_proj": 9}, "alpha_pattern": {"o_proj": 3, r"1\.mlp\.\w+": 32},
                "layers_to_transform": [1, 2]}
    rows = random_rows(LENGTHS)
    for targets in ("all-linear", ",".join(ALL)):
        flags = [part for key, value in patterns.items() for part in (f"--{key}", json.dumps(value))]
        ours = train_adapter(model, data, folder / f"patterns-{targets[:3]}", "--method", "lora", "--lora_target_modules", targets, *flags)
        want = reference_logits(with_adapter(model, ours), rows)
        compare.within(f"{name}: patterns and layers, {targets}, in PEFT", logits_difference(logits_of(model, rows, adapter=str(ours)), want), 1e-5)
        theirs = peft.get_peft_model(load_model(model), peft.LoraConfig(r=6, lora_alpha=9, target_modules=ALL, task_type="CAUSAL_LM", **patterns))
        shapes = lambda tensors: {k: tuple(v.shape) for k, v in tensors.items()}
        got, want = shapes(safetensors.torch.load_file(ours / "adapter_model.safetensors")), shapes(peft.get_peft_model_state_dict(theirs))
        compare.check(got == want, f"{name}: patterns and layers, {targets}: the {len(want)} tensors of PEFT, alike in shape")


def compare_experts(compare, kind, model, folder):
    """Each expert's own adapters and fused ones, loaded by both; and what PEFT could not read is not trained."""
    rows = random_rows(LENGTHS)
    gate, up, down = experts.NAMES[kind][1:]
    adapters = {"its own": experts.write_adapter(model, folder / "own", kind, 3, spread=0.2)}
    for number, (name, targets) in enumerate({"fused": [gate, up, down, "gate"], "fused gate and up": [gate, up],
                                              "fused down": ["q_proj", down]}.items()):
        adapters[name] = write_adapter(model, folder / f"fused-{number}", number, r=4, lora_alpha=8, target_modules=targets)
    adapters["fused, rank-stabilized"] = write_adapter(model, folder / "stabilized", 5, r=4, lora_alpha=3, use_rslora=True,
                                                       target_parameters=["experts.gate_up_proj", "experts.down_proj"], target_modules=["v_proj"])
    adapters["router whole"] = write_adapter(model, folder / "router", 6, r=4, target_modules=["q_proj"], modules_to_save=["gate"])
    base = reference_logits(load_model(model), rows)
    for name, adapter in adapters.items():
        want = reference_logits(with_adapter(model, adapter), rows)
        compare.check(logits_difference(want, base) > 1e-3, f"{kind}: experts, {name}: it changes the logits")
        compare.within(f"{kind}: experts, {name}", logits_difference(logits_of(model, rows, adapter=str(adapter)), want), 1e-5)
    merged = merge(model, folder / "merged-fused", [adapters["fused"]])
    want = reference_logits(with_adapter(model, adapters["fused"]), rows)
    compare.within(f"{kind}: experts, fused, merged", logits_difference(reference_logits(load_model(merged), rows), want), 1e-5)
    if kind == "qwen3_moe":
        ours = train_adapter(model, folder.parent / "rows.jsonl", folder / "router-ours", "--method", "lora", "--lora_target_modules", "q_proj",
                             "--modules_to_save", "gate")
        want = reference_logits(with_adapter(model, ours), rows)
        compare.within(f"{kind}: router whole, ours in PEFT", logits_difference(logits_of(model, rows, adapter=str(ours)), want), 1e-5)
    refused = {"dropout": ["--lora_dropout", 0.1], "DoRA": ["--use_dora", "true"], "rsLoRA": ["--use_rslora", "true"],
               "some layers": ["--layers_to_transform", 1], "gate without up": ["--lora_target_modules", f"q_proj,{gate}"],
               "one expert": ["--lora_target_modules", r".*experts\.1\..*"], "a rank of its own": ["--rank_pattern", json.dumps({down: 3})],
               "on from a fused one": ["--adapter_name_or_path", adapters["fused"]]}
    if kind == "mixtral":
        refused["router whole"] = ["--lora_target_modules", "q_proj", "--modules_to_save", "gate"]
    for name, arguments in refused.items():
        run_qlora("train", "--model_name_or_path", model, "--dataset", folder.parent / "rows.jsonl", "--output_dir", folder / "refused",
                  "--method", "lora", "--device", "cpu", "--quiet", *arguments, expect=2)
    compare.check(not (folder / "refused").exists(), f"{kind}: experts: refused are {', '.join(refused)}")


def compare_zero_merge(compare, name, model, folder):
    """Merging an adapter whose B is zero changes no byte of any tensor."""
    config = peft.LoraConfig(r=4, target_modules=ALL, task_type="CAUSAL_LM")
    peft.get_peft_model(load_model(model), config).save_pretrained(folder / "zero")
    merged = merge(model, folder / "zero-merged", [folder / "zero"])
    read = lambda where: {k: v for f in where.glob("*.safetensors") for k, v in safetensors.torch.load_file(f).items()}
    before, after = read(model), read(merged)
    same = before.keys() == after.keys() and all(
        before[k].dtype == after[k].dtype and before[k].view(torch.uint8).equal(after[k].view(torch.uint8)) for k in before)
    compare.check(same, f"{name}: merging zeros leaves {len(before)} tensors of {next(iter(before.values())).dtype} as they were")


def compare_two(compare, name, model, folder):
    rows = random_rows(LENGTHS)
    first, second = folder / "peft-0", folder / "peft-3"
    reference = peft.PeftModel.from_pretrained(load_model(model), first, adapter_name="first")
    reference.load_adapter(second, adapter_name="second")
    reference.add_weighted_adapter(["first", "second"], [0.75, 0.5], "both", combination_type="cat")
    reference.set_adapter("both")
    merged = merge(model, folder / "two", [f"{first}=0.75", f"{second}=0.5"])
    compare.within(f"{name}: two adapters merged 0.75 : 0.5", logits_difference(reference_logits(load_model(merged), rows),
                                                                              reference_logits(reference.eval(), rows)), 1e-5)


def compare_quantized(compare, name, model, data, folder):
    """An adapter trained over 4 bits: over our dequantized weights in PEFT, and merged into them."""
    rows = random_rows(LENGTHS)
    adapter = train_adapter(model, data, folder / "qlora", "--method", "qlora")
    merge_dequantized = ("--merge_into", "dequantized", "--dtype", "float32")
    dequantized = merge(model, folder / "dequantized", [folder / "zero"], *merge_dequantized)
    want = reference_logits(with_adapter(dequantized, adapter), rows)
    ours = logits_of(model, rows, adapter=str(adapter), quantize=True)
    compare.within(f"{name}: adapter over 4 bits, PEFT over our dequantized weights", logits_difference(ours, want), 1e-5)
    merged = merge(model, folder / "merged", [adapter], *merge_dequantized)
    compare.within(f"{name}: merged into the dequantized base", logits_difference(reference_logits(load_model(merged), rows), want), 1e-5)
    compare.check(logits_difference(ours, logits_of(model, rows, adapter=str(adapter))) > 1e-3, f"{name}: 4 bits differ from 16")
    prompts = [ids[:len(ids) // 2] for ids, _ in encoded_rows(model, data, 12)]
    options = {"max_new_tokens": 48}
    before = probe("generate", model, prompts=prompts, options=options, adapter=str(adapter), quantize=True)
    after = probe("generate", merged, prompts=prompts, options=options)
    compare.check(before == after, f"{name}: merged, the same 48 greedy tokens of {len(prompts)} prompts as adapter over 4 bits")


def main():
    compare = Comparison()
    with tempfile.TemporaryDirectory() as temporary:
        data = write_rows(Path(temporary) / "rows.jsonl", 24)
        for kind in ("qwen2", "llama"):
            folder = Path(temporary) / kind
            model = make_model(folder / "model", kind)
            compare_ours(compare, kind, model, data, folder)
            compare_peft(compare, kind, model, folder)
            compare_zero_merge(compare, kind, model, folder)
            compare_two(compare, kind, model, folder)
            compare_patterns(compare, kind, model, data, folder)
            compare_quantized(compare, kind, model, data, folder)
            bf16 = make_model(folder / "bf16", kind, dtype=torch.bfloat16, shard="200KB")
            compare_zero_merge(compare, f"{kind} bfloat16", bf16, folder / "bf16-out")
        for kind in ARCHITECTURES:
            folder = Path(temporary) / kind
            compare_architecture(compare, kind, make_model(folder / "model", kind), data, folder)
            if kind in experts.NAMES:
                compare_experts(compare, kind, folder / "model", folder)
    compare.finish()


main()
