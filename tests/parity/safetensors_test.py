"""safetensors and model folders against Python's safetensors and transformers; adapters against PEFT, both ways."""
import json
import os
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM
from transformers.utils.logging import disable_progress_bar

PROBE = Path(os.environ["QLORA_BUILD"]) / "tests" / "probe_safetensors"
failures = []


def check(ok, what):
    if not ok:
        failures.append(what)
        print("DIFFERENT:", what)


def probe(*arguments):
    done = subprocess.run([PROBE, *map(str, arguments)], capture_output=True, text=True)
    check(done.returncode == 0, f"probe {arguments[0]}: {done.stderr.strip()}")
    return done.stdout.splitlines()


def equal(a, b):
    return a.keys() == b.keys() and all(
        a[k].dtype == b[k].dtype and a[k].shape == b[k].shape
        and torch.equal(a[k].contiguous().reshape(-1).view(torch.uint8), b[k].contiguous().reshape(-1).view(torch.uint8))
        for k in a)


def compare_files(folder):
    generator = torch.Generator().manual_seed(1)
    types = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16,
             torch.int8, torch.uint8, torch.bool, torch.float8_e4m3fn, torch.float8_e5m2]
    tensors = {}
    for i, dtype in enumerate(types * 3):
        shape = torch.randint(0, 6, (i % 4,), generator=generator).tolist()
        tensors[f"layer.{i}.ü"] = (torch.randn(shape, generator=generator) * 50).to(dtype)
    save_file(tensors, folder / "in.safetensors", {"format": "pt", "note": "a \"quoted\" é"})
    probe("copy", folder / "in.safetensors", folder / "out.safetensors")
    check(equal(load_file(folder / "out.safetensors"), tensors), "a copied file's tensors")
    with safe_open(folder / "out.safetensors", "pt") as copied:
        check(copied.metadata() == {"format": "pt", "note": "a \"quoted\" é"}, "a copied file's metadata")
    print(f"copied: {len(tensors)} tensors of {len(types)} types")


def malformed():
    """(header or whole file, data bytes). What Python's safetensors says decides, but for the names below."""
    tensor = '"dtype":"U8","shape":[1],"data_offsets":[0,1]'
    headers = {
        "empty header": ("{}", 0), "good": ('{"a":{%s}}' % tensor, 1), "spaces after": ('{"a":{%s}}      ' % tensor, 1),
        "metadata": ('{"__metadata__":{"format":"pt"},"a":{%s}}' % tensor, 1),
        "scalar": ('{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}', 4),
        "empty tensor": ('{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}', 0),
        "data left over": ('{"a":{%s}}' % tensor, 2), "data missing": ('{"a":{%s}}' % tensor, 0),
        "hole": ('{"a":{%s},"b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}}' % tensor, 3),
        "overlap": ('{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}', 3),
        "backwards": ('{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,0]}}', 1),
        "wrong size": ('{"a":{"dtype":"U8","shape":[3],"data_offsets":[0,1]}}', 1),
        "overflow": ('{"a":{"dtype":"U8","shape":[4294967296,4294967296,2],"data_offsets":[0,1]}}', 1),
        "negative": ('{"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}}', 1),
        "fraction": ('{"a":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}}', 1),
        "unknown type": ('{"a":{"dtype":"X8","shape":[1],"data_offsets":[0,1]}}', 1),
        "missing field": ('{"a":{"dtype":"U8","shape":[1]}}', 1), "no object": ("[]", 0), "cut JSON": ('{"a":', 0),
        "after the end": ('{"a":{%s}}x' % tensor, 1), "NUL after": ('{"a":{%s}}\0' % tensor, 1),
        "space before": (' {"a":{%s}}' % tensor, 1), "metadata number": ('{"__metadata__":{"a":1},"b":{%s}}' % tensor, 1),
        "three offsets": ('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1,1]}}', 1),
        "deep": ('{"a":' + "[" * 100000, 0),
        "field twice": ('{"a":{"dtype":"U8",%s}}' % tensor, 1), "name twice": ('{"a":{%s},"a":{%s}}' % (tensor, tensor), 1),
        "unknown field": ('{"a":{%s,"x":1}}' % tensor, 1),
    }
    files = {name: struct.pack("<Q", len(text.encode())) + text.encode() + b"\1" * size for name, (text, size) in headers.items()}
    files |= {"nothing": b"", "seven bytes": b"1234567", "long header": struct.pack("<Q", 100_000_001) + b"{}",
              "header past the end": struct.pack("<Q", 9) + b"{}"}
    return files


STRICTER = {"name twice", "space before", "unknown field"}  # refused here, taken by Python's


def compare_malformed(folder):
    files = malformed()
    paths = []
    for name, content in files.items():
        paths.append(folder / f"{name}.safetensors")
        paths[-1].write_bytes(content)
    accepted = 0
    for (name, _), path, line in zip(files.items(), paths, probe("check", *paths)):
        try:
            with safe_open(path, "pt") as opened:
                list(opened.keys())
            theirs = True
        except (SafetensorError, OSError) as error:
            theirs = False
        accepted += line == "ok"
        check((line == "ok") == (theirs and name not in STRICTER), f"{name}: {line}; Python's accepts: {theirs}")
    print(f"malformed files: {len(files)} verdicts as Python's, {accepted} accepted, stricter in {sorted(STRICTER)}")


def small_models():
    sizes = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                 vocab_size=64, max_position_embeddings=64)
    torch.manual_seed(3)
    yield "qwen2", Qwen2ForCausalLM(Qwen2Config(**sizes, tie_word_embeddings=False)).eval()
    yield "llama", LlamaForCausalLM(LlamaConfig(**sizes)).eval()


def compare_folder(name, model, folder):
    theirs, ours = folder / f"{name}-hf", folder / f"{name}-sharded"
    model.save_pretrained(theirs)
    ours.mkdir()
    (ours / "config.json").write_bytes((theirs / "config.json").read_bytes())
    probe("shard", theirs / "model.safetensors", ours, 20000)
    loaded = AutoModelForCausalLM.from_pretrained(ours, dtype=torch.float32)
    check(equal(loaded.state_dict(), model.state_dict()), f"{name}: transformers loads the shards")
    index = json.loads((ours / "model.safetensors.index.json").read_text())
    total = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    check(index["metadata"]["total_size"] == total, f"{name}: total_size")
    print(f"{name}: {len(set(index['weight_map'].values()))} shards load in transformers")


ADAPTERS = [
    dict(r=4, lora_alpha=8, target_modules="all-linear"),
    dict(r=2, lora_alpha=3, target_modules=["q_proj", "down_proj"], use_rslora=True),
    dict(r=4, lora_alpha=16, target_modules=r".*\.layers\.1\..*(q|v|up)_proj"),
    dict(r=4, lora_alpha=16, target_modules=["q_proj", "v_proj"], rank_pattern={"layers.0.self_attn.q_proj": 2, "v_proj": 8},
         alpha_pattern={"q_pro": 1, ".*1.self_attn.q_proj": 5.5}),
    dict(r=3, lora_alpha=6, target_modules=["o_proj", "gate_proj"], layers_to_transform=[1]),
    dict(r=3, lora_alpha=6, target_modules=["q_proj"], exclude_modules=["layers.0.self_attn.q_proj"]),
    dict(r=1, lora_alpha=1, target_modules=["lm_head", "k_proj"], lora_dropout=0.25),
]


def compare_adapter(name, index, options, folder, base_folder):
    base = AutoModelForCausalLM.from_pretrained(base_folder, dtype=torch.float32)
    linears = {n: m.weight.shape for n, m in base.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head"}
    linears["lm_head"] = base.lm_head.weight.shape
    (folder / "linears").write_text("".join(f"{n} {s[0]} {s[1]}\n" for n, s in linears.items()))
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **options)).eval()
    generator = torch.Generator().manual_seed(index)
    for parameter_name, parameter in model.named_parameters():
        if "lora_" in parameter_name:
            parameter.data = torch.randn(parameter.shape, generator=generator)
    theirs, ours = folder / f"{name}-{index}-peft", folder / f"{name}-{index}-ours"
    model.save_pretrained(theirs, save_embedding_layers=False)  # else a copy of the head's own weight goes along
    lines = [line.split() for line in probe("adapter", theirs, ours, folder / "linears")]

    layers = {n.removeprefix("base_model.model."): m for n, m in model.named_modules() if hasattr(m, "lora_A")}
    check({line[0] for line in lines} == layers.keys(), f"{name} {index}: modules")
    for module, rank, scale in lines:
        check(int(rank) == layers[module].r["default"], f"{name} {index}: rank of {module}")
        check(float(scale) == layers[module].scaling["default"], f"{name} {index}: scale of {module}")
    check(equal(load_file(ours / "adapter_model.safetensors"), load_file(theirs / "adapter_model.safetensors")),
          f"{name} {index}: tensors")

    ids = torch.arange(24).reshape(2, 12) % 64
    expected = model(ids).logits
    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base_folder, dtype=torch.float32), ours).eval()
    check(torch.equal(again(ids).logits, expected), f"{name} {index}: logits with the adapter that was written")
    wrote, read = again.peft_config["default"].to_dict(), model.peft_config["default"].to_dict()
    for key in read.keys() - {"target_modules", "inference_mode", "base_model_name_or_path", "peft_version"}:
        check(wrote[key] == read[key], f"{name} {index}: {key}: {wrote[key]} against {read[key]}")
    return len(lines)


def main():
    torch.set_num_threads(1)
    disable_progress_bar()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        compare_files(folder)
        compare_malformed(folder)
        for name, model in small_models():
            compare_folder(name, model, folder)
            modules = sum(compare_adapter(name, i, options, folder, folder / f"{name}-hf") for i, options in enumerate(ADAPTERS))
            print(f"{name}: {len(ADAPTERS)} adapters ({modules} modules): read from PEFT, written, loaded by PEFT, same logits")
    print(f"{len(failures)} differences")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
