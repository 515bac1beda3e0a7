"""Checkpoints that bitsandbytes has quantized: loaded, trained over and merged here; and those that merge writes."""
import json
import tempfile
from pathlib import Path

# First: it quietens the packages below.
from models import (BUILD, Comparison, dequantized_by_bitsandbytes, encoded_rows, load_model, logits_difference, logits_of, make_model,
                    our_row_losses, random_rows, reference_logits, row_losses, run_qlora, train_adapter, worst_relative, write_rows)

import subprocess

import peft
import safetensors.torch
import torch
import transformers

LENGTHS = [1, 4, 17, 40, 9]


def quantize(model, folder, nested, **options):
    """What bitsandbytes makes of a model, as save_pretrained writes it; the model itself, with the tokenizer's files."""
    options = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": nested, "bnb_4bit_compute_dtype": "float32",
               "load_in_4bit": True, **options}
    quantized = transformers.AutoModelForCausalLM.from_pretrained(
        model, quantization_config=transformers.BitsAndBytesConfig(**options), dtype=torch.float32).eval()
    quantized.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_bytes((model / name).read_bytes())
    return quantized


def tensors_of(folder):
    return {k: v for f in folder.glob("*.safetensors") for k, v in safetensors.torch.load_file(f).items()}


def merge(model, output, adapter, *arguments):
    run_qlora("merge", "--model_name_or_path", model, "--adapter", adapter, "--output_dir", output, "--quiet", *arguments)
    return output


def compare_loading(compare, name, quantized, model, stored, data, folder):
    """Logits and losses of a stored checkpoint; an adapter trained over it, in PEFT; and merged into it."""
    rows = random_rows(LENGTHS)
    quantized = dequantized_by_bitsandbytes(quantized, model)
    want = reference_logits(quantized, rows)
    compare.check(logits_difference(want, reference_logits(load_model(model), rows)) > 1e-3, f"{name}: 4 bits differ from 16")
    compare.within(f"{name}: logits", logits_difference(logits_of(stored, rows), want), 1e-5)
    encoded = encoded_rows(stored, data, 24)
    compare.within(f"{name}: eval's losses", worst_relative(our_row_losses(stored, data, folder), row_losses(quantized, encoded)), 1e-5)
    adapter = train_adapter(stored, data, folder / "adapter")
    trained = logits_of(stored, rows, adapter=str(adapter))
    compare.within(f"{name}: adapter trained over it, in PEFT over bitsandbytes",
                   logits_difference(trained, reference_logits(peft.PeftModel.from_pretrained(quantized, adapter).eval(), rows)), 1e-5)
    merged = merge(stored, folder / "merged", adapter)
    compare.check("quantization_config" not in json.loads((merged / "config.json").read_text()), f"{name}: merged, config.json is a dense model's")
    compare.within(f"{name}: merged into it", logits_difference(reference_logits(load_model(merged), rows), trained), 1e-5)
    return adapter


def differing(ours, theirs):
    """The names of tensors that differ, but for nested scales: there the CPU back end is off by a step once in 1000."""
    wrong, steps, scales = [], 0, 0
    for name, their in theirs.items():
        our = ours[name]
        state = name.endswith("quant_state.bitsandbytes__nf4")  # as long as its offset has digits
        if our.dtype != their.dtype or our.shape != their.shape and not state:
            wrong.append(name)
        elif name.endswith(".absmax") and their.dtype == torch.uint8:
            off = (our.int() - their.int()).abs()
            steps, scales = steps + int((off > 0).sum()), scales + off.numel()
            if off.max() > 1:
                wrong.append(name)
        elif state:
            our, their = (json.loads(bytes(t.tolist())) for t in (our, their))
            offsets = [s.pop("nested_offset", 0.0) for s in (our, their)]  # a mean, summed in another order
            if our != their or abs(offsets[0] - offsets[1]) > 1e-6 * abs(offsets[1]):
                wrong.append(name)
        elif name.endswith("nested_absmax"):
            if not torch.allclose(our, their, rtol=1e-5, atol=0):
                wrong.append(name)
        elif not torch.equal(our.view(torch.uint8), their.view(torch.uint8)):
            wrong.append(name)
    return wrong, steps, scales


def compare_writing(compare, name, model, adapter, nested, folder):
    """`merge --quantize nf4` against bitsandbytes over the same merged weights: bytes, config.json, logits."""
    rows = random_rows(LENGTHS)
    settings = () if nested else ("--use_bnb_nested_quant", "false")
    dense = merge(model, folder / "dense", adapter)
    ours = merge(model, folder / "nf4", adapter, "--quantize", "nf4", *settings)
    theirs = quantize(dense, folder / "theirs", nested)
    written, wanted = tensors_of(ours), tensors_of(folder / "theirs")
    compare.check(written.keys() == wanted.keys(), f"{name}: {len(wanted)} tensors with bitsandbytes' names")
    wrong, steps, scales = differing(written, wanted)
    compare.check(not wrong and steps <= max(2, scales // 200), f"{name}: bytes equal ({steps} of {scales} nested scales a step off) {wrong[:3]}")
    if not nested:
        compare.check(all(torch.equal(written[k].view(torch.uint8), wanted[k].view(torch.uint8)) for k in wanted), f"{name}: every byte equal")
    config, their_config = (json.loads((f / "config.json").read_text()) for f in (ours, folder / "theirs"))
    compare.check(config["quantization_config"] == their_config["quantization_config"], f"{name}: quantization_config equal")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(ours, dtype=torch.float32).eval()
    logits = reference_logits(dequantized_by_bitsandbytes(loaded, dense), rows)
    compare.within(f"{name}: loaded by transformers and here", logits_difference(logits_of(ours, rows), logits), 1e-5)
    compare.within(f"{name}: by bitsandbytes' product", logits_difference(reference_logits(loaded, rows), logits), 5e-2)
    own = reference_logits(dequantized_by_bitsandbytes(theirs, dense), rows)
    compare.within(f"{name}: against bitsandbytes' own", logits_difference(logits, own), 1e-2 if nested else 0)


def compare_refusals(compare, model, data, folder):
    run_qlora("train", "--model_name_or_path", model, "--dataset", data, "--output_dir", folder / "a", "--max_steps", 1,
              "--device", "cpu", "--quiet")
    quantize(model, folder / "fp4", False, bnb_4bit_quant_type="fp4")
    int8 = folder / "int8"
    int8.mkdir()
    for file in model.iterdir():
        (int8 / file.name).write_bytes(file.read_bytes())
    config = json.loads((int8 / "config.json").read_text())
    (int8 / "config.json").write_text(json.dumps({**config, "quantization_config": {"load_in_8bit": True, "quant_method": "bitsandbytes"}}))
    for kind, words in (("fp4", "weights quantized to 'fp4' are not supported"), ("int8", "weights quantized to int8 (LLM.int8) are not supported")):
        for command in (["train", "--dataset", data], ["eval", "--tasks", "perplexity", "--eval_dataset", data],
                        ["merge", "--adapter", folder / "a"]):
            done = subprocess.run([str(x) for x in [BUILD / "qlora", *command, "--model_name_or_path", folder / kind, "--output_dir", folder / "no", "--quiet"]],
                                  capture_output=True, text=True)
            compare.check(done.returncode == 2 and words in done.stderr and len(done.stderr.splitlines()) == 1 and not (folder / "no").exists(),
                          f"{kind}: {command[0]} refuses it: {done.stderr.strip()[-160:]}")


def main():
    compare = Comparison()
    with tempfile.TemporaryDirectory() as temporary:
        data = write_rows(Path(temporary) / "rows.jsonl", 24)
        for kind in ("qwen2", "llama"):
            folder = Path(temporary) / kind
            model = make_model(folder / "model", kind)
            for nested in (True, False):
                name = f"{kind}, {'nested' if nested else 'plain'}"
                place = folder / str(nested)
                quantized = quantize(model, place / "stored", nested)
                compare_loading(compare, name, quantized, model, place / "stored", data, place)
                adapter = train_adapter(model, data, place / "over-16", "--use_bnb_nested_quant", str(nested).lower())
                compare_writing(compare, f"{name}, written", model, adapter, nested, place)
            skipped = ["lm_head", "model.layers.1.self_attn.q_proj", "model.layers.2.mlp"]
            some = quantize(model, folder / "some" / "stored", True, llm_int8_skip_modules=skipped)
            compare_loading(compare, f"{kind}, some left as they were", some, model, folder / "some" / "stored", data, folder / "some")
        compare_refusals(compare, model, data, Path(temporary))
    compare.finish()


main()
