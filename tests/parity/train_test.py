"""Training steps against transformers + PEFT + bitsandbytes: same weights, rows, order, initial A and B."""
import json
import shutil
import tempfile
from pathlib import Path

# First: it quietens the packages below.
from models import (ARCHITECTURES, SLOW, TEST_DATA, Comparison, dequantized_by_bitsandbytes, encoded_rows, load_model, make_model,
                    probe, relative, run_qlora, write_rows)

import experts
import peft
import tokenizers
import torch
import transformers
from transformers.models.qwen2 import modeling_qwen2

STEPS = 30
RATE, DECAY, CLIP, WARMUP = 2e-3, 0.01, 1.0, 3
TARGETS = ["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"]
OTHER_TARGETS = {"phi3": ["qkv_proj", "o_proj", "gate_up_proj"], "lfm2": ["q_proj", "in_proj", "out_proj", "w1", "w2"]}


def initial_adapter(model_folder, folder, targets=TARGETS):
    """A PEFT adapter whose B is not zero, so that every gradient says something from the first step."""
    torch.manual_seed(1)
    config = peft.LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules=targets, task_type="CAUSAL_LM")
    model = peft.get_peft_model(load_model(model_folder), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.05)
    model.save_pretrained(folder)
    return folder


def label_count(rows):
    return sum(sum(label != -100 for label in labels[1:]) for _, labels in rows)


def in_batches(rows, size):
    """Step after step the next rows, from the start again at the end."""
    return [rows[begin:begin + size] for begin in (step * size % len(rows) for step in range(STEPS))]


def add_gradients(model, rows, total):
    loss_sum = 0.0
    for ids, labels in rows:
        logits = model(input_ids=torch.tensor([ids])).logits[0, :-1].float()
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(labels[1:]), ignore_index=-100, reduction="sum")
        (loss / total).backward()
        loss_sum += loss.item() / total
    return loss_sum


def reference(model, batches, run=STEPS, gradients_at=(), mean_per_part=1):
    """The training loop as transformers' Trainer runs it; the loss is the mean over the effective batch's labels.

    Returns (loss, gradient norm, rate) of the first `run` steps, and the gradients of the steps named.
    mean_per_part > 1 plants a defect: the mean of so many micro-batches' means.
    """
    parameters = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    groups = [{"params": [p for n, p in parameters if p.dim() > 1], "weight_decay": DECAY},
              {"params": [p for n, p in parameters if p.dim() == 1], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE)
    schedule = transformers.get_scheduler("cosine", optimizer, WARMUP, len(batches))
    history, gradients = [], {}
    for step, rows in enumerate(batches[:run], 1):
        size = len(rows) // mean_per_part
        parts = [rows[m * size:(m + 1) * size] for m in range(mean_per_part)] if mean_per_part > 1 else [rows]
        loss = sum(add_gradients(model, part, label_count(part) * mean_per_part) for part in parts)
        if step in gradients_at:
            gradients[step] = each_experts(model, {n: p.grad.clone() for n, p in parameters})
        norm = torch.nn.utils.clip_grad_norm_([p for _, p in parameters], CLIP).item()
        history.append((loss, norm, schedule.get_last_lr()[0]))
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return (history, gradients) if gradients_at else history


def ours(model, data, output, **keys):
    settings = {"model_name_or_path": model, "dataset": data, "output_dir": output, "max_steps": STEPS, "learning_rate": RATE,
                "weight_decay": DECAY, "max_grad_norm": CLIP, "lr_scheduler_type": "cosine", "warmup_steps": WARMUP,
                "logging_steps": 1, "shuffle": "false", "lora_dropout": 0, "dtype": "float32", "save_strategy": "no",
                "quiet": "true", "device": "cpu", "per_device_train_batch_size": 4, **keys}
    run_qlora("train", *[f"--{key}={value}" for key, value in settings.items()])
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [(line["loss"], line["grad_norm"], line["learning_rate"]) for line in lines]


def differences(got, want):
    """The largest relative difference of a loss and of a gradient norm, and the largest of a rate."""
    pairs = list(zip(got, want, strict=True))
    return (max(relative(g[0], w[0]) for g, w in pairs), max(relative(g[1], w[1]) for g, w in pairs),
            max(abs(g[2] - w[2]) for g, w in pairs))


def check(compare, name, got, want, loss_limit=1e-5, norm_limit=1e-3):
    loss, norm, rate = differences(got, want)
    compare.check(loss <= loss_limit and norm <= norm_limit and rate < 1e-12,
                  f"{name:44} loss {want[0][0]:.4f} -> {want[-1][0]:.4f}; largest difference: loss {loss:.1e} (limit "
                  f"{loss_limit:.0e}), gradient norm {norm:.1e} (limit {norm_limit:.0e}), rate {rate:.1e}")


def with_adapter(base, adapter):
    model = peft.PeftModel.from_pretrained(base, adapter, is_trainable=True)
    if model.config.model_type in experts.NAMES:
        experts.keep_apart(model, model.config.num_local_experts)
    return model


def initial_expert_adapter(kind, model, folder):
    return experts.write_adapter(model, folder, kind, 1, r=8, lora_alpha=16)


def each_experts(model, gradients):
    kind = model.config.model_type
    return experts.apart(kind, model.config.num_local_experts, gradients) if kind in experts.NAMES else gradients


def compare_gradients(compare, name, model, batches, adapters, want):
    """Of every A and B at some steps; adapters: the state before each step."""
    for step, adapter in adapters.items():
        got = probe("gradients", model, rows=batches[step - 1], adapter=str(adapter))
        worst = 0.0
        for parameter, gradient in want[step].items():
            mine = got.pop(parameter.removeprefix("base_model.model.").replace(".default", ""))
            worst = max(worst, ((mine - gradient).norm() / gradient.norm()).item())
        compare.check(not got, f"{name}: step {step} has {len(want[step])} gradients")
        compare.within(f"{name}: gradients of step {step} by relative norm", worst, 1e-4)


def flipped_rope(rows, adapter, model):
    """The reference with the sign of the rotation wrong."""
    right = modeling_qwen2.rotate_half
    modeling_qwen2.rotate_half = lambda x: -right(x)
    try:
        return reference(with_adapter(load_model(model), adapter), in_batches(rows, 4), run=3)
    finally:
        modeling_qwen2.rotate_half = right


def wrong_scale(rows, adapter, model):
    reference_model = with_adapter(load_model(model), adapter)
    for module in reference_model.modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            module.scaling["default"] = 16 / 8 ** 0.5
    return reference(reference_model, in_batches(rows, 4), run=3)


def compare_defects(compare, model, rows, adapter, got):
    """The limits must tell a right program from one with these defects, planted in the reference."""
    fresh = lambda: with_adapter(load_model(model), adapter)
    begun = [([0, *ids], [-100, *labels]) for ids, labels in rows]
    defects = {"a mean of micro-batches' means": reference(fresh(), in_batches(rows, 4), run=3, mean_per_part=2),
               "alpha / sqrt(r)": wrong_scale(rows, adapter, model),
               "the sign of RoPE": flipped_rope(rows, adapter, model),
               "one BOS too many": reference(fresh(), in_batches(begun, 4), run=3)}
    for name, wrong in defects.items():
        loss, norm, _ = differences(got[:3], wrong)
        compare.check(loss > 1e-5 and norm > 1e-3, f"planted defect is seen: {name} (loss {loss:.1e}, gradient norm {norm:.1e})")


def packs_in_order(rows, length):
    """Consecutive rows share a pack as long as they fit: one pass over the data."""
    packs, room = [], 0
    for row in rows:
        if len(row[0]) > room:
            packs.append([])
            room = length
        packs[-1].append(row)
        room -= len(row[0])
    return packs


def rows_in_fours(data, rows, path):
    """A file whose consecutive fours, and no five, fit the same length; returns the path and the length."""
    lines = data.read_text().splitlines()
    lengths = [len(ids) for ids, _ in rows]
    four = sorted(range(len(lines)), key=lambda i: lengths[i])[len(lines) // 2:][:4]
    order = [four[(k + step) % 4] for step in range(16) for k in range(4)]
    path.write_text("".join(lines[i] + "\n" for i in order))
    return path, sum(lengths[i] for i in four)


def compare_packing(compare, kind, model, data, rows, adapter, folder):
    start = {"method": "lora", "adapter_name_or_path": adapter}
    packs = packs_in_order(rows, 300)
    want = reference(with_adapter(load_model(model), adapter), [packs[step % len(packs)] for step in range(STEPS)])
    packed = ours(model, data, folder / f"{kind}-packed", packing="true", max_length=300, **{**start, "per_device_train_batch_size": 1})
    check(compare, f"{kind} lora, packs of {min(map(len, packs))}-{max(map(len, packs))} rows", packed, want)
    fours, length = rows_in_fours(data, rows, folder / f"{kind}-fours.jsonl")
    short = {**start, "max_steps": 10}
    unpacked = ours(model, fours, folder / f"{kind}-unpacked", **short)
    packed = ours(model, fours, folder / f"{kind}-fours", packing="true", max_length=length, **{**short, "per_device_train_batch_size": 1})
    check(compare, f"{kind} lora, packs against rows", packed, unpacked, 1e-6, 1e-5)


def compare_targets(compare, kind, model, data, rows, folder):
    """Some linears, so that whole groups of them carry no adapter and only pass gradients on."""
    for targets in (["q_proj", "v_proj"], ["o_proj", "up_proj"], ["down_proj"]):
        adapter = initial_adapter(model, folder / f"{kind}-{targets[0]}", targets)
        want = reference(with_adapter(load_model(model), adapter), in_batches(rows, 4)[:6])
        for checkpointing in ("false", "true"):
            got = ours(model, data, folder / f"{kind}-{targets[0]}-{checkpointing}", method="lora", max_steps=6,
                       adapter_name_or_path=adapter, gradient_checkpointing=checkpointing)
            check(compare, f"{kind} lora, {' and '.join(targets)}, checkpointing {checkpointing}", got, want)


def dequantized(model, adapter, output):
    """A folder of our dequantized weights, which merging an adapter of zeros gives; returns it."""
    config = peft.LoraConfig(r=1, target_modules="all-linear", task_type="CAUSAL_LM")
    peft.get_peft_model(load_model(model), config).save_pretrained(adapter)
    run_qlora("merge", "--model_name_or_path", model, "--adapter", adapter, "--merge_into", "dequantized", "--dtype", "float32",
              "--output_dir", output, "--quiet")
    return output


def compare_quantized(compare, kind, model, data, rows, adapter, folder, against_bitsandbytes):
    """The reference computes with our dequantized weights; then with those of bitsandbytes."""
    quantized = ours(model, data, folder / f"{kind}-qlora", method="qlora", adapter_name_or_path=adapter)
    base = load_model(dequantized(model, folder / f"{kind}-zero", folder / f"{kind}-dequantized"))
    want = reference(with_adapter(base, adapter), in_batches(rows, 4))
    check(compare, f"{kind} qlora, our dequantized weights", quantized, want)
    if not against_bitsandbytes:
        return
    settings = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                                               bnb_4bit_compute_dtype=torch.float32)
    base = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, quantization_config=settings, device_map="cpu")
    dense = dequantized_by_bitsandbytes(base, model)
    want = reference(with_adapter(dense, adapter), in_batches(rows, 4))
    check(compare, f"{kind} qlora, bitsandbytes' weights", quantized, want)
    # Its own CPU product is a kernel of fewer digits: between it and torch's, over the same weights, the gradient
    # norms differ as much as they do here.
    want = reference(with_adapter(base, adapter), in_batches(rows, 4))
    check(compare, f"{kind} qlora, bitsandbytes' product", quantized, want, 1e-3, 2e-2)


def compare_model(compare, kind, model, data, folder, thorough=True):
    rows = encoded_rows(model, data, 64)
    adapter = initial_adapter(model, folder / f"{kind}-adapter")
    start = {"method": "lora", "adapter_name_or_path": adapter}
    batches = in_batches(rows, 4)
    check(compare, f"{kind} full", ours(model, data, folder / f"{kind}-full", method="full"), reference(load_model(model), batches))
    want, gradients = reference(with_adapter(load_model(model), adapter), batches, gradients_at=(1, 11, 21))
    lora = ours(model, data, folder / f"{kind}-lora", **{**start, "save_strategy": "steps", "save_steps": 10})
    check(compare, f"{kind} lora", lora, want)
    compare_gradients(compare, f"{kind} lora", model, batches, {1: adapter, 11: folder / f"{kind}-lora" / "checkpoint-10",
                                                                21: folder / f"{kind}-lora" / "checkpoint-20"}, gradients)
    if thorough:
        split = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
        check(compare, f"{kind} lora, accumulation 2 x 2", ours(model, data, folder / f"{kind}-accumulated", **start, **split), want)
        again = ours(model, data, folder / f"{kind}-recomputed", gradient_checkpointing="true", **start)
        check(compare, f"{kind} lora, gradient checkpointing", again, want)
        compare_packing(compare, kind, model, data, rows, adapter, folder)
        compare_targets(compare, kind, model, data, rows, folder)
        rounded = ours(model, data, folder / f"{kind}-bfloat16", **{**start, "dtype": "bfloat16"})
        loss, norm, _ = differences(rounded, want)
        compare.check(1e-5 < loss < 2e-2 and norm < 0.2, f"{kind} lora, bfloat16: loss within {loss:.1e}, gradient norm {norm:.1e}")
    compare_quantized(compare, kind, model, data, rows, adapter, folder, against_bitsandbytes=thorough)
    if kind == "qwen2":
        compare_defects(compare, model, rows, adapter, lora)


def compare_architecture(compare, kind, model, data, folder):
    """Full and with adapters, checkpointing on; then what packs of rows and 4 bits could break."""
    rows = encoded_rows(model, data, 64)
    steps, few = (20, 6) if SLOW else (4, 2)
    place = folder / f"{kind}-adapter"
    adapter = (initial_expert_adapter(kind, model, place) if kind in experts.NAMES
               else initial_adapter(model, place, OTHER_TARGETS.get(kind, TARGETS)))
    lora = {"method": "lora", "adapter_name_or_path": adapter}
    fresh = lambda: with_adapter(load_model(model), adapter)
    batches = in_batches(rows, 4)[:steps]
    again = {"max_steps": steps, "gradient_checkpointing": "true"}
    check(compare, f"{kind} full", ours(model, data, folder / f"{kind}-full", method="full", **again),
          reference(load_model(model), batches))
    want, gradients = reference(fresh(), batches, gradients_at=(1,))
    check(compare, f"{kind} lora", ours(model, data, folder / f"{kind}-lora", **lora, **again), want)
    compare_gradients(compare, f"{kind} lora", model, batches, {1: adapter}, gradients)
    if kind in experts.NAMES:  # whose sums are wider than what they are of
        rounded = ours(model, data, folder / f"{kind}-bfloat16", **lora, **again, dtype="bfloat16")
        loss, norm, _ = differences(rounded, want)
        compare.check(1e-5 < loss < 2e-2 and norm < 0.2, f"{kind} lora, bfloat16: loss within {loss:.1e}, gradient norm {norm:.1e}")
    packs = packs_in_order(rows, 300)[:few]
    packed = ours(model, data, folder / f"{kind}-packed", packing="true", max_length=300, **lora,
                  max_steps=few, per_device_train_batch_size=1)
    check(compare, f"{kind} lora, packs of {min(map(len, packs))}-{max(map(len, packs))} rows", packed, reference(fresh(), packs))
    quantized = ours(model, data, folder / f"{kind}-qlora", **{**lora, "method": "qlora"}, max_steps=few)
    base = load_model(dequantized(model, folder / f"{kind}-zero", folder / f"{kind}-dequantized"))
    check(compare, f"{kind} qlora, our dequantized weights", quantized, reference(with_adapter(base, adapter), batches[:few]))


def padded(rows):
    length = max(len(ids) for ids, _ in rows)
    pad = lambda values, with_what: torch.tensor([v + [with_what] * (length - len(v)) for v in values])
    return {"input_ids": pad([ids for ids, _ in rows], 0), "labels": pad([labels for _, labels in rows], -100),
            "attention_mask": pad([[1] * len(ids) for ids, _ in rows], 0)}


def compare_router_loss(compare, model, data, folder):
    """With output_router_logits the load-balancing loss is part of the loss: 10 steps of rows side by side, as transformers
    pads them."""
    rows = encoded_rows(model, data, 64)
    reference_model = load_model(model)
    optimizer = torch.optim.AdamW(reference_model.parameters(), lr=RATE, weight_decay=0.0)
    want = []
    for batch in in_batches(rows, 4)[:10]:
        output = reference_model(**padded(batch))
        output.loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(reference_model.parameters(), CLIP).item()
        want.append((output.loss.item(), norm, RATE))
        optimizer.step()
        optimizer.zero_grad()
    share = (reference_model.config.router_aux_loss_coef * output.aux_loss / output.loss).item()
    keys = {"method": "full", "max_steps": 10, "lr_scheduler_type": "constant", "warmup_steps": 0, "weight_decay": 0}
    for checkpointing in ("false", "true"):
        got = ours(model, data, folder / f"balance-{checkpointing}", **keys, gradient_checkpointing=checkpointing)
        check(compare, f"load-balancing loss ({share:.0%} of all), checkpointing {checkpointing}", got, want)


def compare_dropout(compare, model, data, folder):
    """The masks belong to rows of the effective batch, however it is split."""
    def train(rows, accumulation, **keys):
        settings = {"method": "lora", "max_steps": 4, "lora_dropout": 0.2, "learning_rate": 1e-2, "warmup_steps": 0,
                    "per_device_train_batch_size": rows, "gradient_accumulation_steps": accumulation, **keys}
        output = folder / ("dropout-" + "-".join(str(v) for v in settings.values()))
        return ours(model, data, output, **settings)

    whole = train(16, 1)
    for rows, accumulation in ((8, 2), (4, 4), (1, 16)):
        check(compare, f"dropout, {accumulation} micro-batches of {rows}", train(rows, accumulation), whole, 1e-6, 1e-5)
    check(compare, "dropout, gradient checkpointing", train(16, 1, gradient_checkpointing="true"), whole, 1e-6, 1e-5)
    for name, other in {"none": train(16, 1, lora_dropout=0), "another seed": train(16, 1, seed=7)}.items():
        compare.check(differences(whole, other)[1] > 1e-3, f"dropout differs from {name}")


def compare_schedules(compare, model, data, folder):
    for name, keys, warmup in (("linear", {"warmup_steps": 5}, 5), ("linear", {"warmup_ratio": 0.15, "warmup_steps": 0}, 3),
                               ("constant", {"warmup_steps": 0}, 0), ("constant_with_warmup", {"warmup_steps": 4}, 4),
                               ("cosine", {"warmup_steps": 0}, 0)):
        got = ours(model, data, folder / f"{name}-{warmup}", method="lora", lr_scheduler_type=name, lora_r=1,
                   **{**keys, "max_steps": 17, "per_device_train_batch_size": 1})
        optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=RATE)
        schedule = transformers.get_scheduler(name, optimizer, warmup, 17)
        want = []
        for _ in got:
            want.append(schedule.get_last_lr()[0])
            optimizer.step()
            schedule.step()
        worst = max(abs(g[2] - w) for g, w in zip(got, want, strict=True))
        compare.within(f"rates of {name}, {keys}", worst, 1e-15)


def write_stories_tokenizer(source, folder):
    """tok512.tsv (id, score, bytes as hex) as a tokenizer.json: merges are all ways to join two pieces."""
    vocabulary, scores = {}, {}
    for line in (source / "tok512.tsv").read_text().splitlines():
        number, score, text = line.split("\t")
        piece = {0: "<unk>", 1: "<s>", 2: "</s>"}.get(int(number)) or bytes.fromhex(text).decode().replace(" ", "▁")
        vocabulary[piece] = int(number)
        scores[piece] = float(score)
    merges = [(piece[:i], piece[i:]) for piece in sorted(scores, key=lambda p: -scores[p]) if vocabulary[piece] > 258
              for i in range(1, len(piece)) if piece[:i] in vocabulary and piece[i:] in vocabulary]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = tokenizers.normalizers.Sequence([tokenizers.normalizers.Prepend("▁"), tokenizers.normalizers.Replace(" ", "▁")])
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}))


def compare_stories(compare, folder):
    source = TEST_DATA / "stories260k"
    if not source.is_dir():
        print(f"SKIPPED the 260K Llama: no {source}")
        return
    model = shutil.copytree(source / "stories260K_hf", folder / "stories")
    write_stories_tokenizer(source, model)
    names, things = ["Lily", "Tim", "Sam", "Mia"], ["a red ball", "a small boat", "a big tree", "an old hat", "a bird"]
    rows = [{"prompt": f"Once upon a time, {names[i % 4]} saw {things[i % 5]} in the park.",
             "completion": f" {names[i % 4]} was happy and" + " very, very" * (i % 3) + f" proud to have {things[i % 5]}."}
            for i in range(64)]
    data = folder / "stories.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    # Its MLP is 172 wide, so blocks straddle rows: bitsandbytes' CPU back end is no reference for it.
    compare_model(compare, "260K Llama", model, data, folder, thorough=False)


def main():
    compare = Comparison()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = write_rows(folder / "rows.jsonl")
        for kind in ("qwen2", "llama"):
            compare_model(compare, kind, make_model(folder / kind, kind), data, folder)
        for kind in ARCHITECTURES:
            compare_architecture(compare, kind, make_model(folder / kind, kind), data, folder)
        compare_router_loss(compare, make_model(folder / "balanced", "qwen3_moe-mixed"), data, folder)
        compare_dropout(compare, folder / "llama", data, folder)
        compare_schedules(compare, folder / "llama", data, folder)
        compare_stories(compare, folder)
    compare.finish()


main()
