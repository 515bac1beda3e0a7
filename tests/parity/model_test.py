"""Logits, greedy continuations and the sampling rules against transformers."""
import json
import shutil
import tempfile
from pathlib import Path

import numpy
import torch
import transformers

from models import (ARCHITECTURES, CONFIGS, SLOW, TOKENIZER, Comparison, TEST_DATA, as_transformers_4, encoded_rows,
                    load_model, logits_difference, logits_of, make_model, our_row_losses, probe, random_rows, reference_logits, row_losses, run_qlora, worst_relative,
                    write_rows)

LENGTHS = [1, 2, 3, 7, 16, 33, 64, 100, 17, 5]


PUBLISHED = {"mistralai--Mixtral-8x7B-v0.1": 46_702_792_704, "Qwen3-30B-A3B": 30_532_122_624}


def compare_logits(compare, name, model, limit=1e-5, vocabulary=2048):
    rows = random_rows(LENGTHS, vocabulary)
    compare.within(f"{name}: logits", logits_difference(logits_of(model, rows), reference_logits(load_model(model), rows)),
                   limit)


def compare_formats(compare, folder):
    compare_logits(compare, "qwen2, tied, biases", make_model(folder / "qwen2", "qwen2"))
    compare_logits(compare, "llama, untied, llama3 RoPE", make_model(folder / "llama", "llama"))
    compare_logits(compare, "llama, tied, all biases, linear RoPE", make_model(folder / "linear", "llama-linear"))
    for kind in ("qwen2", "llama", "llama-linear"):
        compare_logits(compare, f"{kind}, config.json of transformers 4",
                       as_transformers_4(make_model(folder / f"{kind}-4", kind, seed=1)))
    for dtype in (torch.bfloat16, torch.float16):
        compare_logits(compare, f"llama, {dtype} checkpoint",
                       make_model(folder / f"llama-{dtype}", "llama", seed=2, dtype=dtype))
    sharded = make_model(folder / "sharded", "qwen2", seed=3, dtype=torch.bfloat16, shard="200KB")
    compare.check(len(list(sharded.glob("*.safetensors"))) > 2, f"shards: {len(list(sharded.glob('*.safetensors')))}")
    compare_logits(compare, "qwen2, bfloat16 shards", sharded)
    data = write_rows(folder / "rows.jsonl", 24)
    for kind in ("qwen2", "llama"):
        rows = encoded_rows(folder / kind, data, 24)
        ours = our_row_losses(folder / kind, data, folder)
        compare.within(f"{kind}: eval's loss of 24 rows", worst_relative(ours, row_losses(load_model(folder / kind), rows)),
                       1e-6)


def compare_architectures(compare, folder):
    """Every kind of model, as transformers 5 writes its config.json and as 4 did."""
    for kind in CONFIGS:
        if kind in ("qwen2", "llama", "llama-linear"):
            continue
        model = make_model(folder / kind, kind)
        compare_logits(compare, kind, model)
        compare_logits(compare, f"{kind}, config.json of transformers 4", as_transformers_4(model))
    for kind in ARCHITECTURES + ["phi3-window", "llama-yarn"]:
        compare_greedy(compare, kind, folder / kind, random_rows(LENGTHS if SLOW else LENGTHS[1:5], seed=8), 64 if SLOW else 12)


def compare_sizes(compare, folder):
    """Real configs, and those whose defaults are of a real size: as many parameters as transformers counts."""
    configs = {path.parent.name: json.loads(path.read_text()) for path in sorted(TEST_DATA.glob("model_configs/*/config.json"))}
    for kind in ("Gemma2Config", "Gemma3TextConfig", "GraniteConfig", "Lfm2Config", "Phi3Config", "SmolLM3Config"):
        configs[kind] = getattr(transformers, kind)().to_dict()
    configs["Qwen3-30B-A3B"] = transformers.Qwen3MoeConfig(num_hidden_layers=48, head_dim=128, norm_topk_prob=True).to_dict()
    data = write_rows(folder / "few.jsonl", 4)
    for name, config in configs.items():
        config.pop("quantization_config", None)
        model = folder / f"size-{name}"
        model.mkdir()
        (model / "config.json").write_text(json.dumps(config))
        for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copy(TOKENIZER / file, model / file)
        plan = json.loads(run_qlora("train", "--model_name_or_path", model, "--dataset", data, "--dry-run", "--json", "--quiet",
                                    "--method", "lora", "--lora_r", 1, "--device", "cpu", "--output_dir", folder / "nothing"))
        with torch.device("meta"):
            reference = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(model))
        want = sum(parameter.numel() for parameter in reference.parameters())
        got = plan["parameters"] - plan["trainable_parameters"]
        compare.check(got == want == PUBLISHED.get(name, want), f"{name}: {got:,} parameters")


def greedy(model, prompt, count, stop_ids=()):
    out = model.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                         do_sample=False, max_new_tokens=count, eos_token_id=list(stop_ids) or None, pad_token_id=0)
    answer = out[0, len(prompt):].tolist()
    return answer[:-1] if answer and answer[-1] in stop_ids else answer


def compare_greedy(compare, name, model, prompts, count):
    """Continuations with the cache in batches of many sizes, and without it; then up to a stop token."""
    reference = load_model(model)
    reference.generation_config = transformers.GenerationConfig()
    want = [greedy(reference, prompt, count) for prompt in prompts]
    options = {"max_new_tokens": count}
    for batch_size in (1, 3, 64):
        got = probe("generate", model, prompts=prompts, options={**options, "batch_size": batch_size})
        compare.check(got == want, f"{name}: {count} greedy tokens of {len(prompts)} prompts, batch_size {batch_size}")
    some = slice(0, 4)
    got = probe("recompute", model, prompts=prompts[some], options=options)
    compare.check(got == want[some], f"{name}: {count} greedy tokens without a cache")
    stop = [answer[count // 2] for answer in want[:3]]  # every answer that reaches one of these ends before it
    ended = [greedy(reference, prompt, count, stop) for prompt in prompts]
    lengths = sorted({len(answer) for answer in ended})
    got = probe("generate", model, prompts=prompts, options={**options, "batch_size": 3}, stop_ids=stop)
    compare.check(got == ended and len(lengths) > 1, f"{name}: stop tokens end answers at lengths {lengths}")


def compare_sampled_batches(compare, model):
    prompts = random_rows([3, 9, 1, 20, 6, 6, 14])
    options = {"max_new_tokens": 24, "temperature": 0.9, "top_k": 0, "top_p": 0.95, "repetition_penalty": 1.1}
    answers = [probe("generate", model, prompts=prompts, options={**options, "batch_size": size}, seed=11)
               for size in (1, 2, 64)]
    other = probe("generate", model, prompts=prompts, options=options, seed=12)
    compare.check(answers[0] == answers[1] == answers[2] != other, "sampled: the seed decides, whatever the batch size")
    default = probe("generate", model, prompts=prompts, options=options, seed=11)
    compare.check(default == answers[0], "sampled: nor does the batch size that is chosen where none is given")


def processed(logits, seen, options):
    """The probabilities that transformers would sample from."""
    scores = torch.tensor([logits])
    chain = []
    if "repetition_penalty" in options:
        chain.append(transformers.RepetitionPenaltyLogitsProcessor(options["repetition_penalty"]))
    chain.append(transformers.TemperatureLogitsWarper(options["temperature"]))
    if options["top_k"]:
        chain.append(transformers.TopKLogitsWarper(options["top_k"]))
    if "top_p" in options:
        chain.append(transformers.TopPLogitsWarper(options["top_p"]))
    if "min_p" in options:
        chain.append(transformers.MinPLogitsWarper(options["min_p"]))
    for step in chain:
        scores = step(torch.tensor([seen]), scores)
    return torch.softmax(scores, -1)[0].double().numpy()


def compare_sampling(compare, model, draws=40000):
    random = numpy.random.default_rng(3)
    logits = (1.5 * random.standard_normal((4, 40))).astype(numpy.float32).tolist()
    seen = [0, 3, 3, 17, 21, 39]
    rules = [{"temperature": 1.0, "top_k": 0}, {"temperature": 0.6, "top_k": 0}, {"temperature": 1.7, "top_k": 5},
             {"temperature": 1.0, "top_k": 0, "top_p": 0.8}, {"temperature": 1.0, "top_k": 0, "top_p": 0.05},
             {"temperature": 1.3, "top_k": 0, "min_p": 0.2}, {"temperature": 1.0, "top_k": 0, "repetition_penalty": 1.6},
             {"temperature": 0.9, "top_k": 20, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.2}]
    for options in rules:
        counts = probe("sample", model, logits=logits, seen=seen, options=options, draws=draws, seed=1)
        worst = 0.0
        same = True
        for row, drawn in zip(logits, counts):
            p = processed(row, seen, options)
            frequency = numpy.array(drawn) / draws
            likely = p * draws > 20  # the rest may or may not be drawn, but only where it is allowed
            same = same and bool(numpy.all(frequency[p == 0] == 0) and numpy.all(frequency[likely] > 0))
            worst = max(worst, numpy.max(numpy.abs(frequency - p) / numpy.sqrt(numpy.maximum(p * (1 - p) / draws, 1e-12))))
        compare.check(same and worst < 5, f"sampled with {options}: the allowed tokens, frequencies within {worst:.1f} sigma")


def compare_stories(compare, temporary):
    folder = TEST_DATA / "stories260k"
    if not folder.is_dir():
        print(f"SKIPPED the 260K Llama: no {folder}")
        return
    copy = shutil.copytree(folder / "stories260K_hf", temporary / "stories")
    tokens = [int(word) for word in (folder / "ref_greedy_tokens_32.txt").read_text().split()]
    want = numpy.fromfile(folder / "ref_logits_f32_32x512.bin", dtype=numpy.float32).reshape(32, 512)
    ours = logits_of(copy, [tokens])[0]
    compare.within("260K Llama: reference logits", logits_difference([ours], [torch.tensor(want)]), 1e-5)
    compare_logits(compare, "260K Llama", copy, vocabulary=512)
    text = probe("generate", copy, prompts=[tokens[:1]], options={"max_new_tokens": 31})
    compare.check(text[0] == tokens[1:], "260K Llama: the 31 reference tokens")
    compare_greedy(compare, "260K Llama", copy, [tokens[:1], tokens[:9], *random_rows([4, 30, 64, 11], 512)], 200)


def main():
    compare = Comparison()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        compare_formats(compare, folder)
        for kind in ("qwen2", "llama"):
            compare_greedy(compare, kind, folder / kind, random_rows(LENGTHS, seed=8), 48)
        compare_architectures(compare, folder)
        compare_sizes(compare, folder)
        compare_sampled_batches(compare, folder / "llama")
        compare_sampling(compare, folder / "llama")
        compare_stories(compare, folder)
    compare.finish()


main()
